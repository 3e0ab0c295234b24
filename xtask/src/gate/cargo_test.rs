//! Runs `cargo test`, passes its output on, and adds up its totals.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::sh;

/// How many tests passed, failed and were ignored, over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add_line(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split(';') {
            let Some((count, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

/// Runs the command; an exit of success that ran no test at all is a failure.
pub(super) fn run(command: &mut Command, totals: &mut Totals) -> Result<()> {
    let shown = sh::display(command);
    eprintln!("$ {shown}");
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run `{shown}`"))?;
    let stdout = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    // A test may print bytes that are no UTF-8; the totals are plain ASCII.
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("read the output of cargo")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        totals.add_line(&line);
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status} ({totals})");
    }
    if totals.passed == 0 {
        bail!("`{shown}` ran no test");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_add_up_over_test_programs() {
        let mut totals = Totals::default();
        totals.add_line("running 3 tests");
        totals
            .add_line("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out");
        totals.add_line("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured");
        assert_eq!(
            totals,
            Totals {
                passed: 4,
                failed: 2,
                ignored: 1
            }
        );
        assert_eq!(totals.to_string(), "4 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_run_without_tests_fails() {
        let mut command = Command::new("rustc");
        let error = run(command.arg("--version"), &mut Totals::default()).unwrap_err();
        assert!(error.to_string().contains("ran no test"), "{error}");
    }
}
