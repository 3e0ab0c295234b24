//! The command line of `mlx-embed`.
//!
//! It belongs to the binary, not to the library, and therefore names its modules by path.

#[path = "cli/encode.rs"]
mod encode;
#[path = "cli/failure.rs"]
mod failure;
#[path = "cli/model.rs"]
mod model;
#[path = "cli/output.rs"]
mod output;
#[path = "cli/progress.rs"]
mod progress;
#[path = "cli/similarity.rs"]
mod similarity;
#[path = "cli/texts.rs"]
mod texts;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

const EXAMPLES: &str = "\
Examples:
  mlx-embed encode \"A man is eating food.\" --json
  mlx-embed encode --file sentences.txt --output vectors.npy
  mlx-embed similarity \"Who eats?\" \"A man is eating food.\" \"The girl is carrying a baby.\"";

/// Text embeddings on MLX.
#[derive(Debug, Parser)]
#[command(name = "mlx-embed", version, about, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the vectors of texts
    Encode(encode::Arguments),
    /// Rank texts by how alike they are to a query
    Similarity(similarity::Arguments),
}

/// Exit codes: 0 for success, 1 for failure, 2 for wrong usage, 130 for Ctrl-C.
pub(crate) fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log();
    let result = match arguments.command {
        Command::Encode(arguments) => encode::run(arguments),
        Command::Similarity(arguments) => similarity::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Library events go to standard error: warnings always, more with `RUST_LOG`.
fn log() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}
