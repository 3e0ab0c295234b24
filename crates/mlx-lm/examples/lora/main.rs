//! Fine-tunes a model with LoRA: `cargo run --release --example lora -- --help`.
//!
//! Data are two files of JSON lines, `train.jsonl` and `valid.jsonl`, one `{"text": …}` per text.

mod fine_tune;

use std::io::{Write, stderr, stdout};
use std::path::PathBuf;

use clap::Parser;
use fine_tune::{Model, Result, Texts, evaluate, train};
use mlx_core::{Dtype, ops::random};
use mlx_lm::{Loader, adapters::save_adapters};
use mlx_nn::{
    adapter::{AdapterOptions, add_adapters, fuse_adapters},
    train::Dataset,
};

/// Fine-tunes a model with low-rank adapters.
#[derive(Debug, Parser)]
struct Args {
    /// Folder of the model, dense or quantised.
    #[arg(long)]
    model: PathBuf,
    /// Folder with train.jsonl and valid.jsonl.
    #[arg(long)]
    data: PathBuf,
    /// Folder for the adapters.
    #[arg(long, default_value = "adapters")]
    out: PathBuf,
    /// Rank of the update.
    #[arg(long, default_value_t = 8)]
    rank: i32,
    /// Factor of the update.
    #[arg(long, default_value_t = 20.0)]
    scale: f32,
    /// Texts in a step.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Steps in all.
    #[arg(long, default_value_t = 40)]
    steps: u64,
    /// Learning rate.
    #[arg(long, default_value_t = 2e-4)]
    lr: f32,
    /// Tokens after which a text is cut.
    #[arg(long, default_value_t = 512)]
    longest: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    random::seed(0)?;
    // In float32 the fused weights are the adapted ones but for rounding.
    let loaded = Loader::new(&args.model).dtype(Dtype::Float32).load()?;
    let read = |name| Texts::read(&args.data.join(name), loaded.tokenizer(), args.longest);
    let (training, held_out) = (read("train.jsonl")?, read("valid.jsonl")?);

    let mut model = Model(loaded);
    let options = AdapterOptions::default().rank(args.rank).scale(args.scale);
    let count = add_adapters(&mut model, options, |path| path.contains("layers."))?;
    writeln!(stderr(), "{count} adapters, {} texts", training.len())?;

    let before = evaluate(&model, &held_out)?;
    let mut model = train(model, training, args.batch, args.steps, args.lr)?;
    let after = evaluate(&model, &held_out)?;
    let fall = 1.0 - after / before;
    writeln!(
        stdout(),
        "held out: {before:.4} nats per token before, {after:.4} after, {:.0} % less",
        100.0 * fall
    )?;
    save_adapters(&model, &args.out)?;

    let (sample, _) = held_out.batch(&[0], 0)?;
    let tokens = sample.first().ok_or("there is no held-out text")?;
    let adapted = model.logits(tokens)?;
    fuse_adapters(&mut model, true)?;
    let apart = (&adapted - model.logits(tokens)?)?.abs()?.max(false)?;
    let gap = (apart / adapted.abs()?.max(false)?)?.item::<f32>()?;
    writeln!(stdout(), "fused and adapted logits differ by {gap:.1e}")?;
    if gap.is_nan() || gap > 1e-3 {
        return Err("the fused model is another one".into());
    }
    if fall.is_nan() || fall < 0.2 {
        return Err("the held-out loss fell by less than 20 %".into());
    }
    Ok(())
}
