//! `cargo xtask ci`: what a public CI runs on each of its machines.

use anyhow::Result;

use crate::sh;

/// Options of `cargo xtask ci`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Supply-chain tools that a CI installs and a contributor need not have.
const OPTIONAL: &[(&str, &[&str])] = &[
    ("deny", &["deny", "--workspace", "check"]),
    ("machete", &["machete"]),
];

pub(crate) fn run(_: &Args) -> Result<()> {
    // Informative: what the machine truly lacks fails in its own step below.
    if let Err(error) = crate::dispatch(&["doctor"]) {
        println!("doctor: {error:#}");
    }
    crate::dispatch(&["test"])?;
    for (name, words) in OPTIONAL {
        if sh::read(sh::cargo().args([name, "--version"])).is_ok() {
            sh::run(sh::cargo().args(*words))?;
        } else {
            println!("not run: cargo {name} (not installed)");
        }
    }
    Ok(())
}
