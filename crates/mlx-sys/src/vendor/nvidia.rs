//! NVIDIA's run-time libraries for a CUDA build of MLX.
//!
//! The packaged library looks for them in a folder `nvidia` beside its own package, laid out as
//! in a Python `site-packages`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    Backend, Cache, Error, Kind, Pins, Progress, Result, Target,
    cache::{create_dir, remove_dir},
};

/// Fetches the pinned packages and places their files beside the CUDA build.
///
/// # Errors
/// Any [`Error`]; the folder `nvidia` is complete or unchanged afterwards.
pub fn fetch(
    cache: &Cache,
    pins: &Pins,
    backend: Backend,
    target: &Target,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf> {
    let mlx = pins.package(backend.package())?;
    let site = cache.fetch(mlx, target, progress)?;
    let wanted: Vec<_> = pins
        .packages
        .iter()
        .filter(|p| p.kind == Kind::Nvidia && p.needed_by.as_deref() == Some(backend.package()))
        .filter(|p| p.file(target).is_ok())
        .collect();
    if wanted.is_empty() {
        return Err(Error::NotPinned {
            package: format!("NVIDIA's libraries for {}", mlx.label()),
            target: target.to_string(),
            known: "none; `cargo xtask vendor --update` adds them".to_owned(),
        });
    }
    let mut folders = Vec::new();
    for package in wanted {
        folders.push(cache.fetch(package, target, progress)?);
    }
    let _lock = cache.lock(mlx, &mut || {
        progress(Progress::Waiting {
            package: mlx.label(),
        })
    })?;
    // The packages share folders, so they are merged beside the final place.
    let merged = site.join(".nvidia-partial");
    remove_dir(&merged)?;
    for folder in &folders {
        merge(&folder.join("nvidia"), &merged)?;
    }
    let place = site.join("nvidia");
    if place.is_symlink() {
        fs::remove_file(&place).map_err(|e| Error::cache("remove", &place, e))?;
    } else {
        remove_dir(&place)?;
    }
    fs::rename(&merged, &place).map_err(|e| Error::cache("write", &place, e))?;
    Ok(place)
}

/// Links an installed set of `nvidia-*` Python packages beside the CUDA build at `site`, if
/// nothing is there yet and Python has them. Returns the folder if there is one now.
#[must_use]
pub fn link_installed(site: &Path) -> Option<PathBuf> {
    let place = site.join("nvidia");
    if place.is_dir() {
        return Some(place);
    }
    let question = "import nvidia; print(list(nvidia.__path__)[0])";
    let output = Command::new("python3")
        .args(["-c", question])
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let found = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    if !found.is_absolute() || !found.is_dir() {
        return None;
    }
    if place.is_symlink() {
        // It leads nowhere any more.
        fs::remove_file(&place).ok()?;
    }
    #[cfg(unix)]
    std::os::unix::fs::symlink(&found, &place).ok()?;
    place.is_dir().then_some(place)
}

/// Hard links keep one copy on the disk; a cache on several file systems gets real copies.
fn merge(from: &Path, to: &Path) -> Result<()> {
    create_dir(to)?;
    let entries = fs::read_dir(from).map_err(|e| Error::cache("read", from, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::cache("read", from, e))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            merge(&source, &target)?;
            continue;
        }
        match fs::hard_link(&source, &target) {
            Ok(()) => {}
            // Several packages bring the same empty `__init__.py`.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => {
                fs::copy(&source, &target).map_err(|e| Error::cache("write", &target, e))?;
            }
        }
    }
    Ok(())
}
