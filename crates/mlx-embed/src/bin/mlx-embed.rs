//! Embeds texts with models on MLX.

#![forbid(unsafe_code)]

#[path = "../cli.rs"]
mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
