//! `cargo xtask parity`: golden files from the Python originals, in a private
//! virtual environment, and for every op the comparison with them. Nothing else
//! in the workspace needs Python packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{fetch, sh};

/// Options of `cargo xtask parity`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only these scripts of tests/parity, by name without extension
    #[arg(value_name = "AREA")]
    areas: Vec<String>,
    /// Write nothing; fail where the peers no longer give what is committed
    #[arg(long)]
    check: bool,
    /// Install the environment anew
    #[arg(long)]
    fresh: bool,
}

/// Scripts whose files one test compares in whole, op by op, and prints figures of: its package and
/// name. `cargo xtask parity SCRIPT` runs them with the new files.
const COMPARED: &[(&str, &str, &str)] = &[
    (
        "core",
        "mlx-core",
        "core_parity::every_op_answers_as_python_does",
    ),
    (
        "core",
        "mlx-tests",
        "gradients::every_gradient_is_pythons_and_the_derivative",
    ),
    (
        "adapters",
        "mlx-tests",
        "adapters::folders_of_python_compute_what_they_do_there",
    ),
];

const REQUIREMENTS: &str = "xtask/python/requirements.txt";
const SCRIPTS: &str = "tests/parity";
const FIXTURES: &str = "tests/fixtures";

pub(crate) fn run(args: &Args) -> Result<()> {
    let scripts = choose(&scripts()?, &args.areas)?;
    let python = environment(args.fresh)?;
    let mut drifted = Vec::new();
    for script in &scripts {
        let mut command = Command::new(&python);
        command
            .current_dir(sh::root())
            .arg(Path::new(SCRIPTS).join(format!("{script}.py")))
            .args(["--out", FIXTURES])
            // Bytecode beside the scripts would be an untracked folder.
            .env("PYTHONDONTWRITEBYTECODE", "1");
        if args.check {
            command.arg("--check");
        }
        if script == "dlpack" {
            command.arg("--library").arg(dlpack_library()?);
        }
        if script == "adapters" {
            command.arg("--program").arg(example("adapters")?);
        }
        if let Err(error) = sh::run(&mut command) {
            eprintln!("{error:#}");
            drifted.push(script.as_str());
        }
    }
    if !drifted.is_empty() {
        bail!("failed: {}", drifted.join(", "));
    }
    if !args.check {
        for script in &scripts {
            compare(script)?;
        }
    }
    println!("parity: {}: ok", scripts.join(", "));
    Ok(())
}

/// Runs the tests that compare what a script wrote with ours.
fn compare(script: &str) -> Result<()> {
    for (_, package, test) in COMPARED.iter().filter(|(name, ..)| *name == script) {
        sh::run(
            sh::cargo()
                .args(["test", "--quiet", "--package", package, "--test", "it"])
                .args(["--", "--exact", test, "--nocapture"]),
        )?;
    }
    Ok(())
}

/// Builds what gives Python our DLPack tensors.
fn dlpack_library() -> Result<PathBuf> {
    let name = format!(
        "{}dlpack{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    );
    Ok(example("dlpack")?.with_file_name(name))
}

/// Builds a program of tests/examples.
fn example(name: &str) -> Result<PathBuf> {
    sh::run(sh::cargo().args(["build", "--package", "mlx-tests", "--example", name]))?;
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    Ok(sh::target().join("debug/examples").join(file))
}

/// The names of the scripts: files that run by themselves, as opposed to what
/// they import.
fn scripts() -> Result<Vec<String>> {
    let folder = sh::root().join(SCRIPTS);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "py") {
            continue;
        }
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        if let (true, Some(stem)) = (text.contains("__main__"), path.file_stem()) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn choose(known: &[String], areas: &[String]) -> Result<Vec<String>> {
    if areas.is_empty() {
        return Ok(known.to_vec());
    }
    if let Some(unknown) = areas.iter().find(|area| !known.contains(area)) {
        bail!(
            "no parity script is called `{unknown}`; known: {}",
            known.join(", ")
        );
    }
    Ok(areas.to_vec())
}

/// The folder of the private virtual environment.
pub(crate) fn venv() -> Result<PathBuf> {
    Ok(fetch::cache_dir()?.join("peers/venv"))
}

/// The environment's interpreter.
pub(crate) fn python(venv: &Path) -> PathBuf {
    venv.join("bin/python")
}

/// Installs the pinned peers unless they are there, and returns the interpreter.
pub(crate) fn environment(fresh: bool) -> Result<PathBuf> {
    let venv = venv()?;
    let python = python(&venv);
    let requirements = sh::root().join(REQUIREMENTS);
    if fresh && venv.exists() {
        std::fs::remove_dir_all(&venv).with_context(|| format!("remove {}", venv.display()))?;
    }
    if !python.is_file() {
        sh::run(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&venv),
        )?;
    }
    // The stamp holds what was installed, and is written last: an interrupted
    // installation runs again.
    let stamp = venv.join("installed-requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .with_context(|| format!("read {}", requirements.display()))?;
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(wanted.as_str()) {
        println!("installing the Python peers, which takes some minutes the first time");
        sh::run(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet"])
                .args(["--disable-pip-version-check", "--requirement"])
                .arg(&requirements),
        )?;
        std::fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    }
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_scripts_run_unless_some_are_named() {
        let known = ["lm", "prose"].map(str::to_owned);
        assert_eq!(choose(&known, &[]).unwrap(), known);
        assert_eq!(choose(&known, &["lm".to_owned()]).unwrap(), ["lm"]);
    }

    #[test]
    fn an_unknown_script_is_an_error_that_lists_the_known_ones() {
        let error = choose(&["lm".to_owned()], &["vision".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("known: lm"), "{error}");
    }

    #[test]
    fn every_requirement_is_pinned() {
        let text = std::fs::read_to_string(sh::root().join(REQUIREMENTS)).unwrap();
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            assert!(line.contains("=="), "{line} has no version");
        }
    }
}
