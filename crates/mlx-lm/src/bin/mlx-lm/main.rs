//! Generates text with language models on MLX.

#![forbid(unsafe_code)]

mod generate;
mod info;
mod model;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mlx_lm::cli;

const EXAMPLES: &str = "\
Examples:
  mlx-lm generate --prompt \"What is the capital of France?\"
  mlx-lm generate --model models/qwen3-0.6b --prompt \"Write a haiku\" --temp 0.7
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
    /// Show what a model is
    Info(info::Arguments),
}

/// Exit codes: 0 for success, 1 for failure, 2 for wrong usage, 130 for an answer
/// that Ctrl-C cut short.
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    cli::log(arguments.command.is_quiet());
    let result = match &arguments.command {
        Command::Generate(arguments) => generate::run(arguments),
        Command::Info(arguments) => info::run(arguments),
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
            Self::Info(_) => false,
        }
    }
}
