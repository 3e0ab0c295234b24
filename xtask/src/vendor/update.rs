//! Rewriting `mlx.lock.toml` for another version of MLX.

use std::{collections::HashSet, fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    fetch::{Backend, File, Kind, Package, Pins, Pip},
    sh,
};

const LOCK: &str = "crates/mlx-sys/mlx.lock.toml";

const HEADER: &str = "\
# Everything that is fetched while building or on first use: name, version, file and digest.
# `cargo xtask vendor --update VERSION` rewrites the entries of kind \"mlx\" and \"nvidia\".
# Files are fetched by name through pip, from whatever index pip is configured for.
";

/// Asks pip what the index holds for the version and writes the lock file anew.
pub(super) fn run(version: &str) -> Result<()> {
    let path = sh::root().join(LOCK);
    let text = fs::read_to_string(&path).with_context(|| format!("read {LOCK}"))?;
    let old = Pins::parse(&text)?;
    let pip = Pip::find()
        .context("python3 with pip is needed: neither `python3 -m pip` nor `pip` runs")?;
    let scratch = tempfile::tempdir()?;

    let mut new = Pins {
        mlx: version.to_owned(),
        packages: Vec::new(),
    };
    for package in &old.packages {
        match package.kind {
            Kind::Mlx => new
                .packages
                .push(mlx(package, version, &pip, scratch.path())?),
            Kind::Tool | Kind::Model => new.packages.push(package.clone()),
            Kind::Nvidia => {}
        }
    }
    for backend in Backend::ALL.into_iter().filter(|b| b.is_cuda()) {
        new.packages
            .extend(nvidia(backend.package(), version, &pip, scratch.path())?);
    }

    let text = render(&new)?;
    fs::write(&path, text).with_context(|| format!("write {LOCK}"))?;
    println!("wrote {LOCK} for MLX {version}");
    Ok(())
}

/// The same files of the same platforms, at the new version.
fn mlx(package: &Package, version: &str, pip: &Pip, scratch: &Path) -> Result<Package> {
    let requirement = format!("{}=={version}", package.name);
    let mut new = package.clone();
    version.clone_into(&mut new.version);
    for file in &mut new.files {
        let tags: Vec<String> = file
            .platform_tags()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let found = report(pip, &requirement, &tags, false, scratch)?;
        let Some(item) = found.into_iter().next() else {
            bail!("pip names no file for {requirement}")
        };
        println!("{}", item.file);
        *file = File {
            target: file.target.clone(),
            name: item.file,
            sha256: item.sha256,
            size: None,
        };
    }
    Ok(new)
}

/// Everything that the CUDA package asks for, for each architecture.
fn nvidia(cuda: &str, version: &str, pip: &Pip, scratch: &Path) -> Result<Vec<Package>> {
    let requirement = format!("{cuda}=={version}");
    let mut packages: Vec<Package> = Vec::new();
    for arch in ["x86_64", "aarch64"] {
        // MLX itself asks for glibc 2.35; pip takes the listed tags literally.
        let new = (5..=35)
            .rev()
            .map(|minor| format!("manylinux_2_{minor}_{arch}"));
        let old =
            ["manylinux2014", "manylinux2010", "manylinux1"].map(|tag| format!("{tag}_{arch}"));
        let tags: Vec<String> = new.chain(old).collect();
        for item in report(pip, &requirement, &tags, true, scratch)? {
            if item.name == cuda {
                continue;
            }
            println!("{}", item.file);
            let file = File {
                target: format!("linux-{arch}"),
                name: item.file,
                sha256: item.sha256,
                size: None,
            };
            // An index may hold different newest versions for the two architectures.
            match packages
                .iter_mut()
                .find(|p| p.name == item.name && p.version == item.version)
            {
                Some(package) => package.files.push(file),
                None => packages.push(Package {
                    name: item.name,
                    version: item.version,
                    kind: Kind::Nvidia,
                    folder: None,
                    take: None,
                    keep: None,
                    needed_by: Some(cuda.to_owned()),
                    files: vec![file],
                }),
            }
        }
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

struct Item {
    name: String,
    version: String,
    file: String,
    sha256: String,
}

/// What pip would install: it reads the index and the packages' metadata, not the packages.
fn report(
    pip: &Pip,
    requirement: &str,
    tags: &[String],
    dependencies: bool,
    scratch: &Path,
) -> Result<Vec<Item>> {
    #[derive(Deserialize)]
    struct Report {
        install: Vec<Install>,
    }
    #[derive(Deserialize)]
    struct Install {
        metadata: Metadata,
        download_info: DownloadInfo,
    }
    #[derive(Deserialize)]
    struct Metadata {
        name: String,
        version: String,
    }
    #[derive(Deserialize)]
    struct DownloadInfo {
        url: String,
        archive_info: ArchiveInfo,
    }
    #[derive(Deserialize)]
    struct ArchiveInfo {
        #[serde(default)]
        hashes: std::collections::HashMap<String, String>,
    }

    let output = scratch.join("report.json");
    let mut command = pip.start();
    command
        .args([
            "install",
            "--quiet",
            "--dry-run",
            "--ignore-installed",
            "--only-binary=:all:",
        ])
        .args(tags.iter().map(|tag| format!("--platform={tag}")))
        .arg("--target")
        .arg(scratch.join("target"))
        .arg("--report")
        .arg(&output)
        .arg(requirement);
    if !dependencies {
        command.arg("--no-deps");
    }
    sh::read(&mut command)
        .with_context(|| format!("ask pip (22.2 or newer) about {requirement}"))?;
    let text = fs::read_to_string(&output).context("read pip's report")?;
    let report: Report = serde_json::from_str(&text).context("read pip's report")?;
    report
        .install
        .into_iter()
        .map(|install| {
            let info = install.download_info;
            let file = info.url.rsplit('/').next().unwrap_or_default().to_owned();
            let sha256 = info.archive_info.hashes.get("sha256").cloned();
            let sha256 = sha256.with_context(|| format!("the index gives no sha256 for {file}"))?;
            let name = install
                .metadata
                .name
                .to_lowercase()
                .replace(['_', '.'], "-");
            Ok(Item {
                name,
                version: install.metadata.version,
                file,
                sha256,
            })
        })
        .collect()
}

/// The text of the lock file; fails rather than write something that does not read back.
fn render(pins: &Pins) -> Result<String> {
    let mut text = format!("{HEADER}\nmlx = \"{}\"\n", pins.mlx);
    for package in &pins.packages {
        let kind = match package.kind {
            Kind::Mlx => "mlx",
            Kind::Tool => "tool",
            Kind::Model => "model",
            Kind::Nvidia => "nvidia",
        };
        write!(
            text,
            "\n[[package]]\nname = \"{}\"\nversion = \"{}\"\nkind = \"{kind}\"\n",
            package.name, package.version
        )?;
        let optional = [
            ("folder", &package.folder),
            ("take", &package.take),
            ("keep", &package.keep),
            ("for", &package.needed_by),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                writeln!(text, "{key} = \"{value}\"")?;
            }
        }
        for file in &package.files {
            write!(
                text,
                "\n[[package.file]]\ntarget = \"{}\"\nname = \"{}\"\nsha256 = \"{}\"\n",
                file.target, file.name, file.sha256
            )?;
            if let Some(size) = file.size {
                writeln!(text, "size = {size}")?;
            }
        }
    }
    let back = Pins::parse(&text)?;
    let files = |pins: &Pins| {
        pins.packages
            .iter()
            .flat_map(|p| p.files.iter().map(|f| f.name.clone()))
            .collect::<HashSet<_>>()
    };
    if files(&back) != files(pins) {
        bail!("the new lock file does not read back");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_is_what_the_generator_writes() {
        let text = fs::read_to_string(sh::root().join(LOCK)).expect("the lock file is readable");
        let pins = Pins::parse(&text).expect("the lock file is valid");
        assert_eq!(render(&pins).expect("it renders"), text);
    }
}
