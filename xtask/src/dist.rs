//! `cargo xtask dist`: a folder with the programs, MLX and every licence, which runs from
//! wherever it is put.

mod licences;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{
    fetch::{Backend, Cache, Mlx, Pins, Target},
    progress, sh,
};

/// Options of `cargo xtask dist`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The build of MLX to ship: cpu, cuda-13, cuda-12 or metal (default: this machine's)
    #[arg(long, value_name = "NAME")]
    backend: Option<Backend>,
    /// Where the folder goes
    #[arg(long, value_name = "FOLDER", default_value = "target/dist")]
    out: PathBuf,
}

/// A program of the workspace that people run.
struct Program {
    package: String,
    version: String,
    name: String,
}

/// A model in the repository, to see the result at work.
const MODEL: &str = "tests/fixtures/prose-5m";

pub(crate) fn run(args: &Args) -> Result<()> {
    let host = Target::host();
    let backend = args.backend.unwrap_or_else(|| Backend::default_for(&host));
    let mut line = progress::Line::new();
    let mlx = Mlx::packaged(
        &Cache::user()?,
        &Pins::builtin()?,
        backend,
        &host,
        &mut |p| line.show(&p),
    )?;

    let programs = programs()?;
    let build = build(&programs, backend, &host)?;
    let version = programs
        .first()
        .map(|p| p.version.as_str())
        .context("there is no program")?;
    let name = format!("mlx-rust-{version}-{host}-{backend}");
    let out = sh::root().join(&args.out);
    let partial = out.join(format!(".{name}"));
    remove(&partial)?;
    let bin = partial.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    for Program { name, .. } in &programs {
        copy(&build.join(name), &bin.join(name))?;
    }
    library(&mlx, backend, &partial.join("lib"))?;
    licences::collect(&mlx, &programs, &partial.join("licences"))?;

    let folder = out.join(&name);
    remove(&folder)?;
    fs::rename(&partial, &folder).with_context(|| format!("write {}", folder.display()))?;
    check(&folder, &programs, &host)?;
    println!("{}", folder.display());
    Ok(())
}

/// The programs that the published packages of the workspace bring.
fn programs() -> Result<Vec<Program>> {
    let text = sh::read(sh::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("read `cargo metadata`")?;
    let mut programs = Vec::new();
    for package in metadata.packages {
        // Tests and chores of the repository are not published.
        if package
            .publish
            .is_some_and(|registries| registries.is_empty())
        {
            continue;
        }
        let bins = package
            .targets
            .into_iter()
            .filter(|t| t.kind.iter().any(|k| k == "bin"));
        programs.extend(bins.map(|t| Program {
            package: package.name.clone(),
            version: package.version.clone(),
            name: t.name,
        }));
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    publish: Option<Vec<String>>,
    targets: Vec<BinTarget>,
}

#[derive(Deserialize)]
struct BinTarget {
    kind: Vec<String>,
    name: String,
}

/// Builds the programs so that they ask for MLX by its own name, relative to themselves. The
/// folder for it is apart, because these flags would rebuild everything.
fn build(programs: &[Program], backend: Backend, host: &Target) -> Result<PathBuf> {
    let origin = if host.os == "macos" {
        "@loader_path"
    } else {
        "$ORIGIN"
    };
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(&format!(" -C link-arg=-Wl,-rpath,{origin}/../lib/mlx/lib"));
    if backend.is_cuda() {
        // NVIDIA's libraries need not be on the machine that builds.
        flags.push_str(" -C link-arg=-Wl,--allow-shlib-undefined");
    }
    let target = sh::root().join("target/dist-build");
    let mut cargo = sh::cargo();
    cargo
        .args(["build", "--release", "--locked", "--bins"])
        .env("MLX_SYS_LINK", "soname");
    cargo
        .env("RUSTFLAGS", flags.trim())
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("MLX_DIR");
    let feature = match backend {
        Backend::Cuda13 => Some("cuda"),
        Backend::Cuda12 => Some("cuda-12"),
        Backend::Cpu | Backend::Metal => None,
    };
    for Program { package, .. } in programs {
        cargo.args(["-p", package]);
        if let Some(feature) = feature {
            cargo.arg("--features").arg(format!("{package}/{feature}"));
        }
    }
    sh::run(&mut cargo)?;
    Ok(target.join("release"))
}

/// Copies the library in the layout of its package, which its own run path expects: siblings in
/// `*.libs`, Metal kernels beside it, and for CUDA the headers that it compiles kernels with.
fn library(mlx: &Mlx, backend: Backend, to: &Path) -> Result<()> {
    let site = mlx.root.parent().context("the package has a folder")?;
    let lib = mlx.library.parent().context("the library has a folder")?;
    for entry in fs::read_dir(lib).with_context(|| format!("read {}", lib.display()))? {
        let path = entry?.path();
        let wanted = path
            .extension()
            .is_some_and(|e| e == "so" || e == "dylib" || e == "metallib");
        if wanted {
            copy(
                &path,
                &to.join("mlx/lib")
                    .join(path.file_name().context("it has a name")?),
            )?;
        }
    }
    for entry in fs::read_dir(site).with_context(|| format!("read {}", site.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "libs") {
            copy_tree(&path, &to.join(path.file_name().context("it has a name")?))?;
        }
    }
    if backend.is_cuda() {
        copy_tree(&mlx.include, &to.join("mlx/include"))?;
        if site.join("nvidia").is_dir() {
            copy_tree(&site.join("nvidia"), &to.join("nvidia"))?;
        }
    }
    Ok(())
}

/// Moves a copy elsewhere and runs it there with an empty environment.
fn check(folder: &Path, programs: &[Program], host: &Target) -> Result<()> {
    let elsewhere = tempfile::tempdir().context("make a temporary folder")?;
    let moved = elsewhere.path().canonicalize()?.join("moved here");
    copy_tree(folder, &moved)?;
    for Program { name, .. } in programs {
        let path = moved.join("bin").join(name);
        sh::read(Command::new(&path).env_clear().arg("--version"))?;
        if host.os == "linux" {
            check_loader(&path, &moved)?;
        }
    }
    let mut generate = Command::new(moved.join("bin/mlx-lm"));
    generate.env_clear().args([
        "generate",
        "--max-tokens",
        "8",
        "--temp",
        "0",
        "--prompt",
        "Once upon a time",
    ]);
    let text = sh::read(generate.arg("--model").arg(sh::root().join(MODEL)))?;
    if text.trim().is_empty() {
        bail!("the moved mlx-lm generated nothing");
    }
    println!(
        "runs from a moved folder with an empty environment: {:?}",
        text.trim()
    );
    Ok(())
}

/// Every library outside the system's folders comes from the moved folder.
fn check_loader(program: &Path, moved: &Path) -> Result<()> {
    let listing = sh::read(
        Command::new(program)
            .env_clear()
            .env("LD_TRACE_LOADED_OBJECTS", "1"),
    )?;
    let inside = moved.display().to_string();
    let mut seen = false;
    for line in listing.lines() {
        let place = line
            .split_once("=> ")
            .map_or(line, |(_, place)| place)
            .trim();
        if place.starts_with("not found") {
            bail!("{}: {}", program.display(), line.trim());
        }
        let ours = line.contains("libmlx") || line.contains("blas") || line.contains("lapack");
        if ours && !place.starts_with(&inside) {
            bail!(
                "{} loads {place} from outside its folder",
                program.display()
            );
        }
        seen |= line.contains("libmlx");
    }
    if !seen {
        bail!("{} does not load MLX's library", program.display());
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_tree(&source, &target)?
        } else {
            copy(&source, &target)?
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    Ok(())
}
