//! Repository chores in plain Rust: `cargo xtask <command>`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool speaks on the terminal"
)]
#![expect(
    unreachable_pub,
    reason = "nothing of a program is reachable; `pub` says what a file offers"
)]

mod bench;
mod bindgen;
mod ci;
mod codegen;
mod coverage;
mod cross;
mod dist;
mod doctor;
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with mlx-sys, which uses more of it"
)]
#[path = "../../crates/mlx-sys/src/vendor.rs"]
mod fetch;
mod fuzz;
mod gate;
mod matrix;
mod metadata;
mod metal;
mod models;
mod parity;
mod progress;
mod sanitize;
mod sh;
mod soak;
mod table;
mod tidy;
mod tokenizers;
mod vendor;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Chores of the MLX for Rust workspace")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the whole gate: everything that must hold before a change lands
    Test(gate::Args),
    /// Run what a public CI runs: doctor, the gate, and supply-chain checks where installed
    Ci(ci::Args),
    /// Check the house rules that no compiler knows
    Tidy(tidy::Args),
    /// Build every crate and every feature alone and together, and print what ran
    Matrix(matrix::Args),
    /// Say what this machine lacks and how to get it
    Doctor(doctor::Args),
    /// Regenerate golden files from the Python peers, in a private virtual environment
    Parity(parity::Args),
    /// Call every op with hostile arguments, a hundred thousand times
    Fuzz(fuzz::Args),
    /// Run the tests of memory and threads under AddressSanitizer and ThreadSanitizer
    Sanitize(sanitize::Args),
    /// Time ours and the peers in one run
    Bench(bench::Args),
    /// Let sequences join and leave a generator at random, and watch answers and memory
    Soak(soak::Args),
    /// Regenerate the code that the op table drives
    Codegen(codegen::Args),
    /// Compare the public names of MLX with ours
    Coverage(coverage::Args),
    /// Regenerate the Rust declarations of the shim's functions
    Bindgen(bindgen::Args),
    /// Fetch the pinned builds of MLX, or move the pins to another version
    Vendor(vendor::Args),
    /// List and fetch the small real models
    Models(models::Args),
    /// Fetch tokenizers of published models, which tests compare with
    Tokenizers(tokenizers::Args),
    /// Compile and link the shim against every packaged MLX
    Cross(cross::Args),
    /// Check that Metal kernels are where programs find them
    Metal(metal::Args),
    /// Make a relocatable folder with the programs, MLX and all licences
    Dist(dist::Args),
}

impl Command {
    fn run(&self) -> anyhow::Result<()> {
        match self {
            Self::Test(args) => gate::run(args),
            Self::Ci(args) => ci::run(args),
            Self::Tidy(args) => tidy::run(args),
            Self::Matrix(args) => matrix::run(args),
            Self::Doctor(args) => doctor::run(args),
            Self::Parity(args) => parity::run(args),
            Self::Fuzz(args) => fuzz::run(args),
            Self::Sanitize(args) => sanitize::run(args),
            Self::Bench(args) => bench::run(args),
            Self::Soak(args) => soak::run(args),
            Self::Codegen(args) => codegen::run(args),
            Self::Coverage(args) => coverage::run(args),
            Self::Bindgen(args) => bindgen::run(args),
            Self::Vendor(args) => vendor::run(args),
            Self::Models(args) => models::run(args),
            Self::Tokenizers(args) => tokenizers::run(args),
            Self::Cross(args) => cross::run(args),
            Self::Metal(args) => metal::run(args),
            Self::Dist(args) => dist::run(args),
        }
    }
}

/// Runs another subcommand in this process, as if it had been typed.
///
/// The gate goes through the command line on purpose: what it checks is what
/// people run.
fn dispatch(words: &[&str]) -> anyhow::Result<()> {
    let words = std::iter::once("xtask").chain(words.iter().copied());
    Cli::try_parse_from(words)?.command.run()
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn every_step_of_the_gate_parses() {
        use clap::Parser as _;
        for words in super::gate::xtask_steps() {
            let words = std::iter::once("xtask").chain(words.iter().copied());
            super::Cli::try_parse_from(words).expect("a step of the gate is a valid command");
        }
    }
}
