//! `cargo xtask fuzz`: random calls of every public op with hostile arguments, many of them.

use anyhow::Result;

use crate::sh;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many calls
    #[arg(long, default_value_t = 100_000)]
    cases: u64,
    /// The seed of all of them
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Make only this call, and print its arguments
    #[arg(long)]
    case: Option<u64>,
    /// Differentiate, batch, compile and export the calls
    #[arg(long)]
    transforms: bool,
}

/// The name of the test that makes the calls.
pub(crate) const TEST: &str = "fuzz::hostile_calls_never_crash";

/// The name of the test that transforms them.
pub(crate) const TRANSFORMS: &str = "transform_fuzz::transforms_of_hostile_calls_never_crash";

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut command = sh::cargo();
    let (package, test) = if args.transforms {
        ("mlx-tests", TRANSFORMS)
    } else {
        ("mlx-core", TEST)
    };
    command
        .args(["test", "--quiet", "--package", package, "--test", "it"])
        .args(["--", "--exact", test, "--nocapture"])
        .env("MLX_FUZZ_CASES", args.cases.to_string())
        .env("MLX_FUZZ_SEED", args.seed.to_string());
    if let Some(case) = args.case {
        command.env("MLX_FUZZ_CASE", case.to_string());
    }
    sh::run(&mut command)
}
