//! `cargo xtask doctor`: what this machine has, what it lacks, and how to get it.
//! It changes nothing and fetches nothing.

mod build;
mod machine;
mod packages;

use std::process::Command;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::sh;
use crate::table::Table;

/// Options of `cargo xtask doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON for machines
    #[arg(long)]
    json: bool,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Fact {
    name: &'static str,
    state: State,
    found: String,
    /// What to do about it, where something can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// There and good.
    Ok,
    /// Not there and not needed now: it is fetched on first use, or optional.
    Absent,
    /// Nothing builds without it.
    Missing,
}

impl Fact {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            hint: None,
        }
    }

    fn absent(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Absent,
            found: found.into(),
            hint: Some(hint.into()),
        }
    }

    fn missing(name: &'static str, found: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Missing,
            found: found.into(),
            hint: Some(hint.into()),
        }
    }
}

/// Prints every fact and fails if the workspace cannot be built here.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut facts = build::facts();
    facts.extend(packages::facts());
    facts.extend(machine::facts());

    if args.json {
        println!("{}", serde_json::to_string_pretty(&facts)?);
    } else {
        print!("{}", report(&facts));
    }
    let missing = facts
        .iter()
        .filter(|fact| fact.state == State::Missing)
        .count();
    if missing > 0 {
        bail!("{missing} things are missing that the build needs");
    }
    Ok(())
}

fn report(facts: &[Fact]) -> Table {
    let mut table = Table::new(&["what", "state", "found", "what to do"]);
    for fact in facts {
        let state = match fact.state {
            State::Ok => "ok",
            State::Absent => "absent",
            State::Missing => "MISSING",
        };
        table.row(&[
            fact.name,
            state,
            &fact.found,
            fact.hint.as_deref().unwrap_or_default(),
        ]);
    }
    table
}

/// The first line that a program prints about its version, if it runs.
fn version(program: &str, arguments: &[&str]) -> Option<String> {
    let text = sh::read(Command::new(program).args(arguments)).ok()?;
    text.lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_beside_what_is_missing() {
        let facts = [
            Fact::ok("rustc", "1.89"),
            Fact::missing("pip", "none", "install it"),
        ];
        let text = report(&facts).to_string();
        assert!(text.contains("pip    MISSING  none   install it"), "{text}");
    }

    #[test]
    fn json_names_the_state_in_lower_case() {
        let text = serde_json::to_string(&Fact::absent("cmake", "none", "fetched")).unwrap();
        assert_eq!(
            text,
            r#"{"name":"cmake","state":"absent","found":"none","hint":"fetched"}"#
        );
    }
}
