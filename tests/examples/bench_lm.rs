//! Our side of `cargo xtask bench lm`: reads the name of a case and a count from each line of
//! standard input, runs the case so often, and answers with seconds as a JSON list.
//!
//! `bench_lm MODELS` expects the folders `tiny_2`, `tiny_16` and `smollm2` there;
//! `bench_lm --export FILE.gguf FOLDER` writes the last of them.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use mlx_core::ops::reduction::argmax_axis;
use mlx_core::ops::shape::reshape;
use mlx_core::{Array, Device, Dtype};
use mlx_lm::cache::CacheOptions;
use mlx_lm::generate::Tokens;
use mlx_lm::load::SaveOptions;
use mlx_lm::{GenerateOptions, LoadedModel, Loader};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const SHORT: u32 = 16;
const LONG: u32 = 128;

struct Bench {
    models: PathBuf,
    loaded: HashMap<String, LoadedModel>,
}

/// The ids that the other side computes, too: any will do for timing.
fn prompt(length: u32) -> Vec<u32> {
    (0..length).map(|i| i * 7919 % 290 + 1).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Seconds to describe one decode step to MLX, without the time that it is computed in.
fn host(model: &LoadedModel, count: usize) -> Outcome<Vec<f64>> {
    let model = model.model();
    let mut cache = model.make_cache(&CacheOptions::default());
    let ids = prompt(SHORT);
    let ids = Array::from_slice::<u32>(&ids, &[1, i32::try_from(ids.len())?])?;
    model.forward(&ids, &mut cache)?.eval()?;
    let mut token = Array::from_slice::<u32>(&[1], &[1, 1])?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        let logits = model.forward(&token, &mut cache)?;
        let next = argmax_axis(&reshape(&logits, &[1, -1])?, -1, true)?;
        times.push(start.elapsed().as_secs_f64());
        next.eval()?;
        token = next;
    }
    Ok(vec![median(times)])
}

/// Seconds until the first token, and for each of `count` after it.
fn decode(model: &LoadedModel, length: u32, count: usize) -> Outcome<Vec<f64>> {
    let options = GenerateOptions::default().max_tokens(count + 1);
    let sampling = Default::default();
    let mut tokens = Tokens::new(model.model(), &prompt(length), &sampling, &options)?;
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

impl Bench {
    fn model(&mut self, name: &str) -> Outcome<&LoadedModel> {
        if !self.loaded.contains_key(name) {
            let folder = self.models.join(name);
            let model = Loader::new(folder).dtype(Dtype::Float32).load()?;
            self.loaded.insert(name.to_owned(), model);
        }
        Ok(self.loaded.get(name).ok_or("no model")?)
    }

    fn run(&mut self, case: &str, count: usize) -> Outcome<Vec<f64>> {
        match case {
            "host_2" => host(self.model("tiny_2")?, count),
            "host_16" => host(self.model("tiny_16")?, count),
            "step_2" => Ok(decode(self.model("tiny_2")?, SHORT, count)?.split_off(1)),
            "step_16" => Ok(decode(self.model("tiny_16")?, SHORT, count)?.split_off(1)),
            "smollm2" => decode(self.model("smollm2")?, LONG, count),
            _ => Err(format!("no case is called {case}").into()),
        }
    }
}

/// Writes the weights of a GGUF file as a folder that Python's mlx-lm reads too.
fn export(file: &Path, folder: &Path) -> Outcome<()> {
    let model = Loader::new(file).dtype(Dtype::Float32).load()?;
    model.save(folder, &SaveOptions::default())?;
    Ok(())
}

fn main() -> Outcome<()> {
    Device::cpu().set_default()?;
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let models = match arguments.as_slice() {
        [models] => models.clone(),
        [flag, file, folder] if flag.as_os_str() == "--export" => return export(file, folder),
        _ => return Err("usage: bench_lm MODELS | --export FILE.gguf FOLDER".into()),
    };
    let loaded = HashMap::new();
    let mut bench = Bench { models, loaded };
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
