//! `cargo xtask matrix`: every crate alone, every feature alone, all together,
//! and each back end; then a table of what ran and what could not, and why.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::metadata::{self, Package};
use crate::sh;
use crate::table::Table;

/// Options of `cargo xtask matrix`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Try only combinations whose name contains one of these words
    #[arg(value_name = "NAME")]
    only: Vec<String>,
    /// Check the Rust code only, without compiling the shim for each back end
    #[arg(long)]
    quick: bool,
}

/// One combination to try.
#[derive(Debug, PartialEq, Eq)]
struct Case {
    what: String,
    /// Arguments of cargo, or why it cannot run here.
    how: Result<Vec<String>, String>,
    /// Whether the case needs MLX and the shim, not the Rust code alone.
    shim: bool,
}

impl Case {
    fn check(what: impl Into<String>, arguments: &[&str]) -> Self {
        let how = ["check", "--locked"]
            .iter()
            .chain(arguments)
            .map(ToString::to_string);
        Self {
            what: what.into(),
            how: Ok(how.collect()),
            shim: false,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let packages = metadata::packages()?;
    let mut cases = rust_cases(&packages);
    cases.extend(backend_cases(
        args.quick,
        cfg!(target_os = "linux"),
        std::env::consts::ARCH,
    ));
    if !args.only.is_empty() {
        cases.retain(|case| {
            args.only
                .iter()
                .any(|word| case.what.contains(word.as_str()))
        });
    }
    // A folder of its own: the gate's builds and these would undo each other.
    let target = metadata::target_dir()?.join("matrix");

    let mut report = Table::new(&["combination", "seconds", "result"]);
    let mut failed = 0_usize;
    for case in &cases {
        let arguments = match &case.how {
            Ok(arguments) => arguments,
            Err(reason) => {
                report.row(&[case.what.as_str(), "", &format!("not run: {reason}")]);
                continue;
            }
        };
        let mut cargo = sh::cargo();
        cargo.args(arguments).arg("--target-dir").arg(&target);
        if !case.shim {
            // The build script then skips MLX and the shim, whose hundreds of
            // wrappers would be compiled again for each set of features.
            cargo.env("DOCS_RS", "1");
        }
        let start = Instant::now();
        let outcome = sh::run(&mut cargo);
        let seconds = format!("{:.1}", start.elapsed().as_secs_f64());
        let result = if outcome.is_ok() { "ok" } else { "FAILED" };
        report.row(&[case.what.as_str(), &seconds, result]);
        failed += usize::from(outcome.is_err());
    }
    println!("\n{report}");
    if failed > 0 {
        bail!("{failed} of {} combinations failed", cases.len());
    }
    Ok(())
}

/// Every crate alone, every feature alone, and everything together.
fn rust_cases(packages: &[Package]) -> Vec<Case> {
    let mut cases = Vec::new();
    for Package { name, features, .. } in packages {
        cases.push(Case::check(name.as_str(), &["-p", name]));
        if features.get("default").is_some_and(|on| !on.is_empty()) {
            let arguments = ["-p", name, "--no-default-features"];
            cases.push(Case::check(format!("{name} without defaults"), &arguments));
        }
        for feature in features.keys().filter(|feature| *feature != "default") {
            let arguments = ["-p", name, "--no-default-features", "--features", feature];
            cases.push(Case::check(format!("{name} + {feature}"), &arguments));
        }
    }
    cases.push(Case::check(
        "everything, all features",
        &["--workspace", "--all-features"],
    ));
    cases
}

/// The shim compiled against each back end's MLX, as a user's build does it.
fn backend_cases(quick: bool, linux: bool, arch: &str) -> Vec<Case> {
    let backend = |name: &str, features: &[&str], needs: Result<(), &str>| {
        let how = if quick {
            Err("compiled by `cargo xtask cross` and by the full matrix".to_owned())
        } else {
            let words = ["build", "--locked", "-p", "mlx-sys"]
                .iter()
                .chain(features);
            needs
                .map(|()| words.map(ToString::to_string).collect())
                .map_err(str::to_owned)
        };
        Case {
            what: format!("back end {name}"),
            how,
            shim: true,
        }
    };
    let on_linux = if linux { Ok(()) } else { Err("needs Linux") };
    let on_mac = if !linux && arch == "aarch64" {
        Ok(())
    } else {
        Err("needs macOS on Apple silicon; `cargo xtask cross` links the shim for it")
    };
    vec![
        backend("cpu", &[], on_linux),
        backend("cuda-13", &["--features", "cuda"], on_linux),
        backend("cuda-12", &["--features", "cuda-12"], on_linux),
        backend("metal", &[], on_mac),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(features: &[(&str, &[&str])]) -> Package {
        let on = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Package {
            name: "a".to_owned(),
            dependencies: Vec::new(),
            features: features
                .iter()
                .map(|(name, list)| ((*name).to_owned(), on(list)))
                .collect(),
            targets: Vec::new(),
        }
    }

    fn names(cases: &[Case]) -> Vec<&str> {
        cases.iter().map(|case| case.what.as_str()).collect()
    }

    #[test]
    fn every_feature_is_tried_alone_and_all_together() {
        let packages = [package(&[("default", &["x"]), ("x", &[]), ("y", &[])])];
        let cases = rust_cases(&packages);
        let expected = [
            "a",
            "a without defaults",
            "a + x",
            "a + y",
            "everything, all features",
        ];
        assert_eq!(names(&cases), expected);
    }

    #[test]
    fn an_empty_default_adds_no_case() {
        let cases = rust_cases(&[package(&[("default", &[])])]);
        assert_eq!(names(&cases), ["a", "everything, all features"]);
    }

    #[test]
    fn back_ends_that_cannot_run_here_say_why() {
        let refused = |linux, arch| {
            let cases = backend_cases(false, linux, arch);
            cases
                .into_iter()
                .filter(|case| case.how.is_err())
                .map(|case| case.what)
                .collect()
        };
        let on_linux: Vec<String> = refused(true, "x86_64");
        assert_eq!(on_linux, ["back end metal"]);
        let on_mac: Vec<String> = refused(false, "aarch64");
        assert_eq!(
            on_mac,
            ["back end cpu", "back end cuda-13", "back end cuda-12"]
        );
    }
}
