//! The command line of `mlx-lm`.
//!
//! It belongs to the binary, not to the library, and therefore names its modules by path.

#[path = "cli/failure.rs"]
mod failure;
#[path = "cli/generate.rs"]
mod generate;
#[path = "cli/info.rs"]
mod info;
#[path = "cli/model.rs"]
mod model;
#[path = "cli/progress.rs"]
mod progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const EXAMPLES: &str = "\
Examples:
  mlx-lm generate --prompt \"What is the capital of France?\"
  mlx-lm generate --model models/qwen3-0.6b --prompt \"Write a haiku\" --temp 0.7
  mlx-lm info --model model.gguf";

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
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log(arguments.command.least_level());
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
    fn least_level(&self) -> LevelFilter {
        match self {
            Self::Generate(arguments) if arguments.is_quiet() => LevelFilter::ERROR,
            _ => LevelFilter::WARN,
        }
    }
}

/// Library events go to standard error: those of `level`, or what `RUST_LOG` says.
fn log(level: LevelFilter) {
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}
