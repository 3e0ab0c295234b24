//! `cargo xtask metal`: MLX's Metal kernels lie where programs find them, and the workspace's
//! own Metal sources compile.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    fetch::{Backend, Cache, Mlx, Pins, Target},
    progress, sh,
};

/// Options of `cargo xtask metal`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<()> {
    let target = Backend::Metal.target(&Target::host());
    let mut line = progress::Line::new();
    let mlx = match std::env::var_os("MLX_DIR").filter(|_| cfg!(target_os = "macos")) {
        Some(folder) => Mlx::installed(Path::new(&folder), &target, &Pins::builtin()?.mlx)?,
        None => Mlx::packaged(
            &Cache::user()?,
            &Pins::builtin()?,
            Backend::Metal,
            &target,
            &mut |p| line.show(&p),
        )?,
    };
    // The library searches beside itself, and programs load it from where it lies.
    let kernels = mlx.library.with_file_name("mlx.metallib");
    let bytes = check_metallib(&kernels)?;
    println!(
        "mlx.metallib: {} MB beside {}",
        bytes / 1_000_000,
        mlx.library.display()
    );

    let sources = metal_sources()?;
    if sources.is_empty() {
        println!("the workspace has no Metal sources of its own");
    }
    for source in &sources {
        compile(source)?;
    }
    if !cfg!(target_os = "macos") {
        let sources = if sources.is_empty() {
            ""
        } else {
            "compiling the sources above, and "
        };
        println!("not checked here, for want of macOS: {sources}loading the kernels on a GPU");
    }
    Ok(())
}

/// Checks the container: its magic number and the file size it claims. Returns that size.
fn check_metallib(path: &Path) -> Result<u64> {
    let data = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if data.get(..4) != Some(b"MTLB") {
        bail!("{} is not a Metal library", path.display());
    }
    let claimed = data
        .get(16..24)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_le_bytes);
    let found = u64::try_from(data.len()).unwrap_or(u64::MAX);
    if claimed != Some(found) {
        bail!(
            "{} has {found} bytes, its header says {claimed:?}",
            path.display()
        );
    }
    Ok(found)
}

/// Tracked and new `.metal` files.
fn metal_sources() -> Result<Vec<PathBuf>> {
    let root = sh::root();
    let mut git = Command::new("git");
    git.current_dir(&root).args([
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "*.metal",
    ]);
    Ok(sh::read(&mut git)?
        .lines()
        .map(|line| root.join(line))
        .collect())
}

fn compile(source: &Path) -> Result<()> {
    if !cfg!(target_os = "macos") {
        println!("{}: not compiled, this is not macOS", source.display());
        return Ok(());
    }
    let folder = sh::root().join("target/metal");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let name = source.file_stem().context("a source has a name")?;
    let air = folder.join(name).with_extension("air");
    let library = folder.join(name).with_extension("metallib");
    let tool = |name: &str| {
        let mut command = Command::new("xcrun");
        command.args(["-sdk", "macosx", name]);
        command
    };
    sh::run(
        tool("metal")
            .args(["-Wall", "-Wextra", "-fno-fast-math", "-c"])
            .arg(source)
            .arg("-o")
            .arg(&air),
    )?;
    sh::run(tool("metallib").arg(&air).arg("-o").arg(&library))?;
    check_metallib(&library).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metallib_of_another_size_than_it_claims_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("x.metallib");
        let mut data = vec![0_u8; 64];
        data[..4].copy_from_slice(b"MTLB");
        data[16] = 64;
        fs::write(&path, &data).expect("write");
        assert_eq!(check_metallib(&path).expect("a good file"), 64);
        fs::write(&path, &data[..63]).expect("write");
        assert!(check_metallib(&path).is_err());
        fs::write(&path, b"not a library").expect("write");
        assert!(check_metallib(&path).is_err());
    }
}
