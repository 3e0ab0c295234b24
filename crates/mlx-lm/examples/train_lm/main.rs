//! Trains a small Llama from scratch: `cargo run --release --example train_lm -- --help`.
//!
//! The model is the very file that loads and runs checkpoints. Data are two files of JSON lines,
//! `train.jsonl` and `valid.jsonl`, one `{"text": …}` per document.

mod args;
mod corpus;
mod export;
mod model;

use std::{
    io::{Write, stderr, stdout},
    path::Path,
    time::Duration,
};

use args::Args;
use clap::Parser;
use corpus::{Corpus, Tokens};
use mlx_core::{Device, ops::random};
use mlx_lm::tokenizer::Tokenizer;
use mlx_nn::{
    LoadOptions, Weights, load_weights,
    optimizer::{Adam, AdamW, MultiOptimizer, Optimizer, Schedule},
    parameter_count,
    train::{LoaderOptions, Log, StepOptions, TrainStep, Trainer, TrainerOptions, loss_curve},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    let args = Args::parse();
    if args.cpu {
        Device::cpu().set_default()?;
    }
    random::seed(args.seed)?;
    match &args.score {
        Some(folder) => score(&args, folder),
        None => train(&args),
    }
}

/// Measures a finished model as training does.
fn score(args: &Args, folder: &Path) -> Result<()> {
    let loaded = mlx_lm::Loader::new(folder)
        .dtype(mlx_core::Dtype::Float32)
        .load()?;
    let held_out = Corpus::read(&args.data.join("valid.jsonl"), loaded.tokenizer())?;
    let loss = model::evaluate(loaded.model(), &held_out, args.context, args.batch)?;
    report(loss, &held_out)
}

fn report(loss: f64, held_out: &Corpus) -> Result<()> {
    writeln!(
        stdout(),
        "held out: {loss:.4} nats per token, {:.4} nats per character ({} tokens, {} characters)",
        held_out.per_character(loss),
        held_out.tokens.len(),
        held_out.characters,
    )?;
    Ok(())
}

fn train(args: &Args) -> Result<()> {
    std::fs::create_dir_all(&args.out)?;
    let tokenizer_path = args.out.join("tokenizer.json");
    if !tokenizer_path.exists() {
        match &args.tokenizer {
            Some(path) => {
                std::fs::copy(path, &tokenizer_path)?;
            }
            None => corpus::train_tokenizer(&args.data, args.vocab, &tokenizer_path)?,
        }
    }
    let tokenizer = Tokenizer::from_json(std::fs::read(&tokenizer_path)?)?;
    let training = Corpus::read(&args.data.join("train.jsonl"), &tokenizer)?;
    let held_out = Corpus::read(&args.data.join("valid.jsonl"), &tokenizer)?;

    let config = model::config(args, tokenizer.vocab_size());
    let model = model::fresh(&config, args.seed)?;
    writeln!(
        stderr(),
        "{} parameters, {} training tokens, {} held out",
        parameter_count(&model),
        training.tokens.len(),
        held_out.tokens.len(),
    )?;

    let (warmup, rate) = (args.warmup.max(1), args.lr);
    let decay = u32::try_from(args.steps)?.saturating_sub(warmup).max(1);
    let schedule = Schedule::join(
        vec![
            Schedule::linear(rate / f64::from(warmup), rate, warmup)?,
            Schedule::cosine_decay(rate, decay, rate * args.final_rate)?,
        ],
        vec![warmup],
    )?;
    let adam = Adam {
        betas: (0.9, 0.95),
        bias_correction: true,
        ..Adam::default()
    };
    let decaying = AdamW {
        adam,
        weight_decay: args.weight_decay,
    };
    // The scales of the norms are left alone, as decay would only make them smaller.
    let optimizer = MultiOptimizer::new(Optimizer::new(adam, schedule.clone())?)
        .with(Optimizer::new(decaying, schedule)?, |_, gradient| {
            gradient.ndim() > 1
        });
    let options = StepOptions::default()
        .seed(args.seed)
        .clip_norm(args.clip)
        .compile(!args.no_compile)
        .pipelined(true);
    let loss = model::loss(args);
    let mut step = TrainStep::new(model, optimizer, options, loss)?;

    let trainer = Trainer::new(
        &args.out,
        TrainerOptions::new(args.steps)
            .every(args.log_every, args.eval_every, args.save_every)
            .patience(args.patience)
            .time_limit(args.time_limit.map(Duration::from_secs))
            .progress(true)
            .resume(!args.no_resume),
    );
    let dataset = Tokens {
        tokens: training.tokens,
        context: args.context,
        seed: args.seed,
    };
    let loader = LoaderOptions::new(args.batch).shuffle(Some(args.seed));
    let (context, batch) = (args.context, args.batch);
    let outcome = trainer.run(&mut step, dataset, loader, |model| {
        model::evaluate(model.as_ref(), &held_out, context, batch)
            .map_err(|error| mlx_core::Error::Backend(error.to_string()).into())
    })?;
    writeln!(
        stderr(),
        "{} steps, {} tokens in {:.0} s ({:?})",
        outcome.steps,
        outcome.units,
        outcome.seconds,
        outcome.stopped
    )?;

    let mut model = step.into_model()?;
    let best = Weights::load_safetensors(trainer.best_path())?;
    load_weights(&mut model, best, &LoadOptions::default())?;
    report(outcome.best.ok_or("there was no evaluation")?, &held_out)?;
    let title = format!(
        "train_lm, {} parameters, nats per token",
        parameter_count(&model)
    );
    loss_curve(
        &Log::read(trainer.log_path())?,
        &title,
        args.out.join("loss.svg"),
    )?;
    if let Some(folder) = &args.export {
        export::folder(
            folder,
            &mut model,
            &config,
            &tokenizer_path,
            args.export_dtype.into(),
        )?;
        writeln!(stderr(), "exported to {}", folder.display())?;
    }
    Ok(())
}
