//! Our side of `cargo xtask bench train`: trains the model of a folder on the batch beside it, as
//! many steps as each line of standard input says, and answers with seconds, losses and peaks of
//! memory as JSON.

use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::path::Path;
use std::time::Instant;

use mlx_core::{Array, Device, Dtype, Stream, io, memory};
use mlx_lm::registry::ConfigMap;
use mlx_lm::{LanguageModel, Registry, cache::for_training};
use mlx_nn::loss::{CrossEntropyOptions, Reduction, cross_entropy};
use mlx_nn::optimizer::{AdamW, Optimizer};
use mlx_nn::train::{StepOptions, TrainStep};
use mlx_nn::{LoadOptions, Weights, load_weights};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
type Model = Box<dyn LanguageModel>;

const RATE: f32 = 1e-3;

fn loss(model: &mut Model, batch: &[Array], _: &Array) -> mlx_nn::Result<Array> {
    let [inputs, targets] = batch else {
        return Err(mlx_core::Error::Backend("a batch is tokens and targets".to_owned()).into());
    };
    let logits = model
        .forward(inputs, &mut for_training(model.as_ref()))
        .map_err(|error| mlx_core::Error::Backend(error.to_string()))?;
    let mean = CrossEntropyOptions::default().reduction(Reduction::Mean);
    cross_entropy(&logits.astype(Dtype::Float32)?, targets, mean)
}

fn load(folder: &Path) -> Outcome<(Model, [Array; 2])> {
    let config: ConfigMap = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let mut model = Registry::new().constructor("llama")?(&config, &mut Weights::new())?;
    let weights = Weights::load_safetensors(folder.join("model.safetensors"))?;
    load_weights(model.as_mut(), weights, &LoadOptions::default())?;
    let (mut arrays, _) = io::load_safetensors(folder.join("batch.safetensors"))?;
    let mut take = |name: &str| arrays.remove(name).ok_or(format!("no {name}"));
    Ok((model, [take("inputs")?, take("targets")?]))
}

/// The most memory that this process had at once, in bytes.
fn peak_of_process() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    Ok(kilobytes.ok_or("no VmHWM")?.parse::<u64>()? * 1024)
}

fn main() -> Outcome<()> {
    let folder = std::env::args_os().nth(1).ok_or("give a folder")?;
    Device::cpu().set_default()?;
    let (model, batch) = load(Path::new(&folder))?;
    let optimizer = Optimizer::new(AdamW::default(), RATE)?;
    let options = StepOptions::default().pipelined(true);
    let mut step = TrainStep::new(model, optimizer, options, loss)?;
    memory::reset_peak_memory()?;
    for line in stdin().lock().lines() {
        let count: usize = line?.trim().parse()?;
        let start = Instant::now();
        let mut losses = Vec::with_capacity(count);
        for _ in 0..count {
            losses.push(step.step(&batch)?);
        }
        let losses = losses.iter().map(Array::item::<f32>);
        let losses = losses.collect::<mlx_core::Result<Vec<f32>>>()?;
        // The loss is there before the step's last outputs are.
        Stream::current().synchronize()?;
        let answer = serde_json::json!({
            "seconds": start.elapsed().as_secs_f64(),
            "losses": losses,
            "process": peak_of_process()?,
            "arrays": memory::peak_memory()?,
        });
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
