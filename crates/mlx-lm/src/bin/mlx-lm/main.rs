//! Generates text with language models on MLX.

#![forbid(unsafe_code)]

mod benchmark;
mod caching;
mod chat;
mod constraint;
mod convert;
#[cfg(feature = "hub")]
mod download;
mod drafting;
mod evaluate;
mod generate;
mod info;
mod lines;
mod logprobs;
mod manage;
mod model;
mod perplexity;
mod prompt_cache;
mod quantization;
mod sampling;
mod template;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mlx_lm::cli;

const EXAMPLES: &str = "\
Examples:
  mlx-lm generate --prompt \"What is the capital of France?\"
  mlx-lm generate --model models/qwen3-0.6b --prompt \"Write a haiku\" --temp 0.7
  mlx-lm chat --model org/name
  mlx-lm info --model model.gguf

--model takes a folder, a .gguf file, or the id of a model on the Hugging Face Hub
(org/name, org/name@revision, org/name/file.gguf), which is fetched on first use.";

/// Language models on MLX.
#[derive(Debug, Parser)]
#[command(name = "mlx-lm", version, about, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write text for a prompt
    Generate(generate::Arguments),
    /// Talk with a model
    Chat(chat::Arguments),
    /// Process a prompt once and keep it in a file
    CachePrompt(prompt_cache::Arguments),
    /// Show what a model is, and whether it can be run
    Info(info::Arguments),
    /// Quantise a model, make it dense, or change its dtype
    Convert(convert::Arguments),
    /// Fetch a model from the Hub
    #[cfg(feature = "hub")]
    Download(download::Arguments),
    /// List and remove models in the local cache
    Manage(manage::Arguments),
    /// Measure how well a model predicts a text
    Perplexity(perplexity::Arguments),
    /// Run tasks from local files
    Evaluate(evaluate::Arguments),
    /// Measure speed
    Benchmark(benchmark::Arguments),
}

/// Exit codes: 0 for success, 1 for failure, 2 for wrong usage, 130 for an answer
/// that Ctrl-C cut short.
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log(arguments.command.is_quiet());
    let result = match &arguments.command {
        Command::Generate(arguments) => generate::run(arguments),
        Command::Chat(arguments) => chat::run(arguments),
        Command::CachePrompt(arguments) => prompt_cache::run(arguments),
        Command::Info(arguments) => info::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
        #[cfg(feature = "hub")]
        Command::Download(arguments) => download::run(arguments),
        Command::Manage(arguments) => manage::run(arguments),
        Command::Perplexity(arguments) => perplexity::run(arguments),
        Command::Evaluate(arguments) => evaluate::run(arguments),
        Command::Benchmark(arguments) => benchmark::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

impl Command {
    fn is_quiet(&self) -> bool {
        match self {
            Self::Generate(arguments) => arguments.is_quiet(),
            Self::Chat(arguments) => arguments.is_quiet(),
            Self::CachePrompt(arguments) => arguments.is_quiet(),
            Self::Convert(arguments) => arguments.is_quiet(),
            #[cfg(feature = "hub")]
            Self::Download(arguments) => arguments.is_quiet(),
            Self::Perplexity(arguments) => arguments.is_quiet(),
            Self::Evaluate(arguments) => arguments.is_quiet(),
            Self::Benchmark(arguments) => arguments.is_quiet(),
            Self::Info(_) | Self::Manage(_) => false,
        }
    }
}
