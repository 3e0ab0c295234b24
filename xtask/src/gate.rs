//! `cargo xtask test`: everything that must hold before a change lands, in one
//! command, cheapest first, stopping at the first failure.
//!
//! All steps but the matrix share one target folder and the dev profile, so that
//! a fresh clone compiles each dependency once for checking and once for running.

mod binaries;
mod cargo_test;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::cargo_test::Totals;
use crate::sh;
use crate::table::Table;

/// Options of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only the steps whose name contains one of these words
    #[arg(value_name = "STEP")]
    only: Vec<String>,
    /// Print the steps and run nothing
    #[arg(long)]
    list: bool,
}

/// What one step does.
enum Action {
    /// Another subcommand of this program.
    Xtask(&'static [&'static str]),
    /// Cargo, with these arguments and this extra environment variable.
    Cargo(
        &'static [&'static str],
        Option<(&'static str, &'static str)>,
    ),
    /// Cargo's tests; their totals are collected.
    CargoTest(&'static [&'static str]),
    /// Programs find the library wherever they stand.
    Binaries,
}

const STEPS: &[(&str, Action)] = &[
    (
        "fmt",
        Action::Cargo(&["fmt", "--all", "--", "--check"], None),
    ),
    ("codegen", Action::Xtask(&["codegen", "--check"])),
    ("tidy", Action::Xtask(&["tidy"])),
    ("bindgen", Action::Xtask(&["bindgen", "--check"])),
    ("coverage", Action::Xtask(&["coverage"])),
    (
        "clippy",
        Action::Cargo(
            &[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
            None,
        ),
    ),
    (
        "build",
        Action::Cargo(&["build", "--locked", "--workspace"], None),
    ),
    (
        "test",
        Action::CargoTest(&["test", "--locked", "--workspace"]),
    ),
    (
        "doc",
        Action::Cargo(
            &["doc", "--locked", "--workspace", "--no-deps"],
            Some(("RUSTDOCFLAGS", "-D warnings")),
        ),
    ),
    ("binaries", Action::Binaries),
    ("vendor", Action::Xtask(&["vendor"])),
    ("cross", Action::Xtask(&["cross"])),
    ("metal", Action::Xtask(&["metal"])),
    ("matrix", Action::Xtask(&["matrix", "--quick"])),
];

/// The command lines of this program that the gate runs.
#[cfg(test)]
pub(crate) fn xtask_steps() -> impl Iterator<Item = &'static [&'static str]> {
    STEPS.iter().filter_map(|(_, action)| match action {
        Action::Xtask(words) => Some(*words),
        _ => None,
    })
}

/// Runs the gate and prints what each step took.
pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|word| name.contains(word.as_str()))
    };
    let steps: Vec<_> = STEPS.iter().filter(|(name, _)| wanted(name)).collect();
    if steps.is_empty() {
        bail!("no step of the gate is called that; `cargo xtask test --list` names them");
    }
    if args.list {
        for (name, _) in steps {
            println!("{name}");
        }
        return Ok(());
    }

    let start = Instant::now();
    let mut totals = Totals::default();
    let mut report = Table::new(&["step", "seconds", "result"]);
    let mut failure = None;
    for (name, action) in steps {
        if failure.is_some() {
            report.row(&[*name, "", "not run"]);
            continue;
        }
        println!("\n== {name}");
        let step_start = Instant::now();
        let outcome = perform(action, &mut totals);
        let result = if outcome.is_ok() { "ok" } else { "FAILED" };
        report.row(&[*name, &seconds(step_start.elapsed()), result]);
        failure = outcome
            .err()
            .map(|error| error.context(format!("step `{name}`")));
    }
    report.row(&["total", &seconds(start.elapsed()), ""]);

    println!("\n{report}");
    if let Some(error) = failure {
        return Err(error);
    }
    if totals != Totals::default() {
        println!("{totals}");
    }
    Ok(())
}

fn perform(action: &Action, totals: &mut Totals) -> Result<()> {
    match action {
        Action::Xtask(words) => crate::dispatch(words),
        Action::Cargo(words, variable) => {
            sh::run(sh::cargo().args(*words).envs(variable.iter().copied()))
        }
        Action::CargoTest(words) => cargo_test::run(sh::cargo().args(*words), totals),
        Action::Binaries => binaries::check(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_distinct_names() {
        let mut names: Vec<_> = STEPS.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }

    #[test]
    fn an_unknown_step_is_an_error() {
        let args = Args {
            only: vec!["no-such-step".to_owned()],
            list: true,
        };
        assert!(run(&args).is_err());
    }
}
