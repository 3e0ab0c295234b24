//! What `cargo metadata` says about the packages of this workspace.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::sh;

/// One package of the workspace.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
    /// Each feature with what it switches on.
    pub(crate) features: BTreeMap<String, Vec<String>>,
    pub(crate) targets: Vec<Target>,
}

/// A declared dependency, of the workspace or not.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) optional: bool,
}

/// A library, program, test, example or build script of a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
    pub(crate) src_path: String,
}

impl Target {
    /// Whether users compile and run it: a library, a macro or a program.
    pub(crate) fn is_shipped(&self) -> bool {
        self.kind
            .iter()
            .any(|kind| matches!(kind.as_str(), "lib" | "bin" | "proc-macro"))
    }
}

/// The packages of the workspace, in the order of their names.
pub(crate) fn packages() -> Result<Vec<Package>> {
    let mut packages = metadata()?.packages;
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

/// Where cargo puts what it builds, however that was set.
pub(crate) fn target_dir() -> Result<PathBuf> {
    Ok(metadata()?.target_directory)
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

fn metadata() -> Result<Metadata> {
    let mut cargo = sh::cargo();
    cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = sh::read(&mut cargo)?;
    serde_json::from_str(&text).context("read the output of `cargo metadata`")
}
