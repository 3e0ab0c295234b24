//! Programs find MLX's library by themselves: with no environment at all, after
//! `cargo install`, and when the target folder has moved.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{metadata, sh};

/// A model in the repository, small enough to run in debug builds.
const MODEL: &str = "tests/fixtures/prose-5m";

pub(super) fn check() -> Result<()> {
    let root = sh::root();
    let target = metadata::target_dir()?;
    // The build is already there; this makes the step work by itself, too.
    sh::run(sh::cargo().args(["build", "--locked", "-p", "mlx-lm"]))?;
    let program = Path::new("debug").join(format!("mlx-lm{}", std::env::consts::EXE_SUFFIX));

    println!("with an empty environment:");
    let expected = generate(&target.join(&program))?;

    println!("after `cargo install`:");
    let installed = tempfile::tempdir().context("make a temporary folder")?;
    sh::run(
        sh::cargo()
            // The debug build reuses what the gate has compiled.
            .args(["install", "--locked", "--debug", "--no-track", "--path"])
            .arg(root.join("crates/mlx-lm"))
            .arg("--root")
            .arg(installed.path())
            .arg("--target-dir")
            .arg(&target),
    )?;
    let name = program.file_name().context("the program has a name")?;
    same(
        &expected,
        &generate(&installed.path().join("bin").join(name))?,
    )?;

    println!("after the target folder has moved:");
    let moved = Moved::new(&target)?;
    same(&expected, &generate(&moved.to.join(&program))?)
}

/// Generates a few greedy tokens with the real library and returns the text.
fn generate(program: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command
        .env_clear()
        .current_dir(sh::root())
        .args(["generate", "--model", MODEL, "--prompt", "In the beginning"])
        .args(["--max-tokens", "8", "--temp", "0"]);
    let text = sh::read(&mut command)?;
    if text.trim().is_empty() {
        bail!("{} generated nothing", program.display());
    }
    println!("  {:?}", text.trim());
    Ok(text)
}

fn same(expected: &str, found: &str) -> Result<()> {
    if expected != found {
        bail!("the same program generated {expected:?} before and {found:?} now");
    }
    Ok(())
}

/// A folder under another name, until this value is dropped.
struct Moved {
    from: PathBuf,
    to: PathBuf,
}

impl Moved {
    fn new(from: &Path) -> Result<Self> {
        let to = from.with_extension(format!("moved-{}", std::process::id()));
        std::fs::rename(from, &to)
            .with_context(|| format!("move {} to {}", from.display(), to.display()))?;
        Ok(Self {
            from: from.to_path_buf(),
            to,
        })
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if let Err(error) = std::fs::rename(&self.to, &self.from) {
            let (to, from) = (self.to.display(), self.from.display());
            eprintln!("error: could not move {to} back to {from}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Moved;

    #[test]
    fn a_moved_folder_comes_back() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("target");
        std::fs::create_dir(&folder).unwrap();
        let moved = Moved::new(&folder).unwrap();
        assert!(!folder.exists() && moved.to.is_dir());
        drop(moved);
        assert!(folder.is_dir());
    }
}
