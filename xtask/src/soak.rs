//! `cargo xtask soak`: a generator under changing load, until told to stop.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::sh;

/// Options of `cargo xtask soak`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folders [default: tiny ones from tests/fixtures/lm, of each kind of cache]
    models: Vec<PathBuf>,
    /// How long
    #[arg(long, default_value_t = 30)]
    minutes: u64,
}

/// Keys and values that grow, those in windows, recurrent states with experts, and all at once.
const FIXTURES: &[&str] = &[
    "llama/f32",
    "gemma3_text/f32",
    "qwen3_next/f32",
    "granitemoehybrid/f32",
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let example = ["build", "--release", "-p", "mlx-lm", "--example", "soak"];
    sh::run(sh::cargo().args(example))?;
    let models = match args.models.is_empty() {
        true => fixtures()?,
        false => args.models.clone(),
    };
    let program = sh::target().join("release/examples/soak");
    let mut command = std::process::Command::new(program);
    sh::run(command.arg((args.minutes * 60).to_string()).args(models))
}

/// The fixtures as whole model folders: most borrow the tokenizer of one of them.
fn fixtures() -> Result<Vec<PathBuf>> {
    let source = sh::root().join("tests/fixtures/lm");
    let mut folders = Vec::new();
    for case in FIXTURES {
        let folder = sh::target().join("soak").join(case.replace('/', "-"));
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let tokenizer = source.join("llama/f32/tokenizer.json");
        let own = ["config.json", "model.safetensors"].map(|name| source.join(case).join(name));
        for path in own.iter().chain([&tokenizer]) {
            copy(path, &folder)?;
        }
        folders.push(folder);
    }
    Ok(folders)
}

fn copy(path: &Path, folder: &Path) -> Result<()> {
    let name = path.file_name().context("no file name")?;
    std::fs::copy(path, folder.join(name)).with_context(|| format!("copy {}", path.display()))?;
    Ok(())
}
