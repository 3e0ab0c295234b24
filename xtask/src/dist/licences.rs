//! The licences of everything that a distribution contains.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Program, copy, copy_tree};
use crate::{fetch::Mlx, sh};

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    license_file: Option<String>,
    manifest_path: String,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Writes the licence texts of MLX, its bundled libraries, this workspace and every crate that
/// the programs are linked from, with a list of all of them.
pub(super) fn collect(mlx: &Mlx, programs: &[Program], to: &Path) -> Result<()> {
    let site = mlx.root.parent().context("the package has a folder")?;
    for entry in fs::read_dir(site).with_context(|| format!("read {}", site.display()))? {
        let path = entry?.path();
        if !path.to_string_lossy().ends_with(".dist-info") {
            continue;
        }
        copy_tree(&path.join("licenses"), &to.join("mlx"))?;
        // The bill of materials names the bundled BLAS, LAPACK and Fortran libraries.
        if path.join("sboms").is_dir() {
            copy_tree(&path.join("sboms"), &to.join("mlx"))?;
        }
    }
    let mut own = 0;
    for entry in fs::read_dir(sh::root())? {
        let path = entry?.path();
        if is_licence(&path) {
            copy(&path, &to.join(path.file_name().context("it has a name")?))?;
            own += 1;
        }
    }
    if own == 0 {
        bail!("the workspace root holds no LICENSE file");
    }

    let mut list =
        String::from("Crates that the programs are linked from, with their licences:\n\n");
    for package in linked_crates(programs)? {
        let licence = package
            .license
            .as_deref()
            .or(package.license_file.as_deref())
            .unwrap_or("unknown");
        writeln!(list, "{} {}: {licence}", package.name, package.version)?;
        let folder = Path::new(&package.manifest_path)
            .parent()
            .context("a manifest has a folder")?;
        let target = to
            .join("crates")
            .join(format!("{}-{}", package.name, package.version));
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if is_licence(&path) {
                copy(
                    &path,
                    &target.join(path.file_name().context("it has a name")?),
                )?;
            }
        }
    }
    fs::write(to.join("CRATES.txt"), list).context("write the list of crates")
}

/// Crates of others that the programs reach through normal dependencies.
fn linked_crates(programs: &[Program]) -> Result<Vec<Package>> {
    let target = sh::read(std::process::Command::new("rustc").args(["-vV"]))?;
    let host = target
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .context("rustc names its host")?;
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        host,
    ];
    let metadata: Metadata = serde_json::from_str(&sh::read(sh::cargo().args(arguments))?)?;
    let nodes: BTreeMap<_, _> = metadata
        .resolve
        .nodes
        .iter()
        .map(|n| (n.id.as_str(), n))
        .collect();
    let mut reached = std::collections::BTreeSet::new();
    let mut open: Vec<&str> = metadata
        .packages
        .iter()
        .filter(|p| programs.iter().any(|program| program.package == p.name))
        .map(|p| p.id.as_str())
        .collect();
    while let Some(id) = open.pop() {
        if !reached.insert(id.to_owned()) {
            continue;
        }
        let dependencies = nodes.get(id).map_or(&[][..], |node| &node.deps);
        let normal = dependencies
            .iter()
            .filter(|d| d.dep_kinds.iter().any(|k| k.kind.is_none()));
        open.extend(normal.map(|d| d.pkg.as_str()));
    }
    let mut crates: Vec<_> = metadata
        .packages
        .into_iter()
        .filter(|p| p.source.is_some() && reached.contains(&p.id))
        .collect();
    crates.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(crates)
}

fn is_licence(path: &Path) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_uppercase();
    path.is_file()
        && ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|l| name.starts_with(l))
}
