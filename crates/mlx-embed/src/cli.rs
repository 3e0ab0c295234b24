//! The command line of `mlx-embed`.
//!
//! It belongs to the binary, not to the library, and therefore names its modules by path.

#[path = "cli/encode.rs"]
mod encode;
#[path = "cli/model.rs"]
mod model;
#[path = "cli/output.rs"]
mod output;
#[path = "cli/similarity.rs"]
mod similarity;
#[path = "cli/texts.rs"]
mod texts;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    mlx_lm::cli::log(false);
    let result = match arguments.command {
        Command::Encode(arguments) => encode::run(arguments),
        Command::Similarity(arguments) => similarity::run(arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
