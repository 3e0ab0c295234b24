//! Our side of `cargo xtask bench cpu`: reads the name of a case and a count from each line of
//! standard input, runs the case so often, and answers with seconds as a JSON list.
//!
//! `cargo run --release -p mlx-tests --example bench_cpu`, then for example `f32_cube 5`.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mlx_core::ops::quantized::{QuantizationLayout, Quantized, quantize, quantized_matmul};
use mlx_core::ops::random;
use mlx_core::{Array, Device, Dtype};
use mlx_embed::{Embedder, EncodeOptions};
use mlx_lm::{GenerateOptions, LoadedModel};
use mlx_sys::vendor;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SIDE: i32 = 4096;
const PROMPT: u32 = 512;
const WRITTEN: usize = 64;

/// What cases need, made when first asked for.
#[derive(Default)]
struct Bench {
    arrays: HashMap<(&'static str, i32), Array>,
    quantized: Option<Quantized>,
    /// The last language model: the largest ones do not fit into memory side by side.
    language: Option<(String, LoadedModel)>,
    embedder: Option<Embedder>,
}

fn normal(shape: &[i32], dtype: Dtype) -> Outcome<Array> {
    let array = random::normal::<f32>(0.0, 1.0, shape, None)?.astype(dtype)?;
    array.eval()?;
    Ok(array)
}

/// Seconds for one of `count` runs.
fn each(count: u32, mut run: impl FnMut() -> Outcome<()>) -> Outcome<Vec<f64>> {
    let start = Instant::now();
    for _ in 0..count {
        run()?;
    }
    Ok(vec![start.elapsed().as_secs_f64() / f64::from(count)])
}

fn folder(name: &str) -> Outcome<PathBuf> {
    Ok(vendor::fetch_model(name, &mut |_| {})?)
}

fn gguf(folder: &Path) -> Outcome<PathBuf> {
    let mut files = std::fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path());
    let found = files.find(|path| {
        path.extension()
            .is_some_and(|extension| extension == "gguf")
    });
    found.ok_or_else(|| "no .gguf file".into())
}

/// A model that tests/bench/made.py wrote into the folder that the command line names.
fn made(case: &str) -> Outcome<PathBuf> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let path = folder.unwrap_or_default().join(format!("{case}.gguf"));
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("no case is called {case}").into()),
    }
}

impl Bench {
    fn array(&mut self, name: &'static str, shape: &[i32], dtype: Dtype) -> Outcome<Array> {
        let rows = shape.first().copied().unwrap_or(0);
        if let Some(array) = self.arrays.get(&(name, rows)) {
            return Ok(array.clone());
        }
        let array = normal(shape, dtype)?;
        self.arrays.insert((name, rows), array.clone());
        Ok(array)
    }

    fn product(&mut self, dtype: Dtype, transposed: bool, count: u32) -> Outcome<Vec<f64>> {
        let names = if dtype == Dtype::Float32 {
            ["f32 a", "f32 b"]
        } else {
            ["bf16 a", "bf16 b"]
        };
        let a = self.array(names[0], &[1024, 1024], dtype)?;
        let b = self.array(names[1], &[1024, 1024], dtype)?;
        let b = if transposed { b.transpose()? } else { b };
        each(count, || Ok(a.matmul(&b)?.eval()?))
    }

    fn quantized(&mut self, rows: i32, count: u32) -> Outcome<Vec<f64>> {
        let layout = QuantizationLayout::affine(64, 4);
        if self.quantized.is_none() {
            let q = quantize(&normal(&[SIDE, SIDE], Dtype::Bfloat16)?, layout)?;
            mlx_core::eval(&[&q.weight, &q.scales])?;
            self.quantized = Some(q);
        }
        let x = self.array("rows", &[rows, SIDE], Dtype::Bfloat16)?;
        let q = self.quantized.as_ref().ok_or("no weights")?;
        each(count, || {
            let y = quantized_matmul(&x, &q.weight, &q.scales, q.biases.as_ref(), true, layout)?;
            Ok(y.eval()?)
        })
    }

    /// Seconds until the first token, and for each one after it.
    fn language(&mut self, case: &str) -> Outcome<Vec<f64>> {
        if self.language.as_ref().is_none_or(|(name, _)| name != case) {
            self.language = None;
            let path = match case {
                "smollm2" => gguf(&folder("smollm2-135m-instruct")?)?,
                _ => made(case)?,
            };
            self.language = Some((case.to_owned(), mlx_lm::load(path)?));
        }
        let (_, model) = self.language.as_ref().ok_or("no model")?;
        // The ids that the other side computes, too: any will do for timing.
        let prompt: Vec<u32> = (0..PROMPT).map(|i| i * 7919 % 40_000 + 100).collect();
        let options = GenerateOptions::default().max_tokens(WRITTEN);
        let sampling = Default::default();
        let mut tokens =
            mlx_lm::generate::Tokens::new(model.model(), &prompt, &sampling, &options)?;
        let start = Instant::now();
        tokens.next().ok_or("no token")??;
        let prefill = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let mut written = 0.0;
        for token in tokens {
            token?;
            written += 1.0;
        }
        Ok(vec![prefill, start.elapsed().as_secs_f64() / written])
    }

    fn minilm(&mut self, count: u32) -> Outcome<Vec<f64>> {
        if self.embedder.is_none() {
            self.embedder = Some(Embedder::load(folder("all-minilm-l6-v2")?)?);
        }
        let model = self.embedder.as_ref().ok_or("no model")?;
        let text = "The quick brown fox jumps over the lazy dog while the sun sets in the west.";
        let texts = vec![text; 32];
        each(count, || {
            Ok(model.encode(&texts, EncodeOptions::default())?.eval()?)
        })
    }

    fn run(&mut self, case: &str, count: u32) -> Outcome<Vec<f64>> {
        match case {
            "stream" => stream(),
            "f32_cube" => self.product(Dtype::Float32, false, count),
            "f32_linear" => self.product(Dtype::Float32, true, count),
            "bf16_cube" => self.product(Dtype::Bfloat16, false, count),
            "q4_row" => self.quantized(1, count),
            "q4_rows" => self.quantized(128, count),
            "minilm" => self.minilm(count),
            _ => self.language(case),
        }
    }
}

/// Seconds to read 1 GiB on all threads.
fn stream() -> Outcome<Vec<f64>> {
    let threads = mlx_core::ffi::blas::threads();
    let words: Vec<u64> = (0..1u64 << 27).collect();
    let start = Instant::now();
    let total = std::thread::scope(|scope| {
        let parts: Vec<_> = words
            .chunks(words.len().div_ceil(threads))
            .map(|part| scope.spawn(|| part.iter().fold(0u64, |sum, word| sum.wrapping_add(*word))))
            .collect();
        let sums = parts.into_iter().map(|part| part.join().unwrap_or(0));
        sums.fold(0, u64::wrapping_add)
    });
    let seconds = start.elapsed().as_secs_f64();
    if total == (1u64 << 27) * ((1 << 27) - 1) / 2 {
        Ok(vec![seconds])
    } else {
        Err("the sum is wrong".into())
    }
}

fn main() -> Outcome<()> {
    Device::cpu().set_default()?;
    let mut bench = Bench::default();
    for line in stdin().lock().lines() {
        let line = line?;
        let (case, count) = line.split_once(' ').unwrap_or((&line, "1"));
        let answer = match bench.run(case, count.parse()?) {
            Ok(seconds) => serde_json::json!(seconds),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
