//! `cargo xtask codegen`: the shim's op functions and their Rust callers from one table.

mod calls;
mod methods;
mod ops;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Options of `cargo xtask codegen`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Change nothing; fail when a generated file is not current.
    #[arg(long)]
    pub check: bool,
}

/// Regenerates every file made from the op table and from the op functions.
pub fn run(args: &Args) -> Result<()> {
    let root = workspace_root();
    let table_path = root.join("crates/mlx-sys/ops.table");
    let text = fs::read_to_string(&table_path)
        .with_context(|| format!("read {}", table_path.display()))?;
    let ops = table::parse(&text)?;

    let outputs = [
        ("crates/mlx-sys/shim/ops.gen.h", ops::header(&ops)),
        ("crates/mlx-sys/shim/ops.gen.cpp", ops::shim(&ops)),
        (
            "crates/mlx-core/src/ffi/ops.gen.rs",
            rustfmt(&ops::callers(&ops))?,
        ),
        (
            "crates/mlx-core/src/array/methods.gen.rs",
            rustfmt(&methods::generate(&root.join("crates/mlx-core/src/ops"))?)?,
        ),
        (
            "crates/mlx-core/tests/it/calls/calls.gen.rs",
            rustfmt(&calls::generate(&root.join("crates/mlx-core/src"))?)?,
        ),
    ];
    let mut stale = Vec::new();
    for (path, content) in outputs {
        if fs::read_to_string(root.join(path)).ok().as_deref() != Some(content.as_str()) {
            stale.push(path);
            if !args.check {
                let target = root.join(path);
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                }
                fs::write(&target, content).with_context(|| format!("write {path}"))?;
            }
        }
    }
    if args.check && !stale.is_empty() {
        bail!(
            "not current: {} (run `cargo xtask codegen`)",
            stale.join(", ")
        );
    }
    Ok(())
}

fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// The Rust files directly in a folder, in order.
fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("read {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files.sort();
    Ok(files)
}

/// Generated Rust passes `cargo fmt --check` like any other.
fn rustfmt(source: &str) -> Result<String> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("run rustfmt")?;
    child
        .stdin
        .take()
        .context("rustfmt has no standard input")?
        .write_all(source.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt refused the generated source");
    }
    Ok(String::from_utf8(output.stdout)?)
}
