use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use super::{Error, Package, Pip, Result};

/// The per-user folder that packages are unpacked into.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cache {
    root: PathBuf,
    offline: bool,
    search_path: Option<OsString>,
}

/// The root of the cache: `MLX_CACHE_DIR`, or `mlx-rust` in the platform's cache folder.
/// Nothing is created.
///
/// # Errors
/// [`Error::NoCacheDir`] if neither that variable nor a home folder is known.
pub fn cache_dir() -> Result<PathBuf> {
    let root = choose_root(&|name| std::env::var_os(name))?;
    std::path::absolute(&root).map_err(|e| Error::cache("resolve", root, e))
}

fn choose_root(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let from = |name: &str| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(chosen) = from("MLX_CACHE_DIR") {
        return Ok(chosen);
    }
    if cfg!(target_os = "macos") {
        return Ok(from("HOME")
            .ok_or(Error::NoCacheDir)?
            .join("Library/Caches/mlx-rust"));
    }
    // The base-directory convention tells programs to ignore a relative path here.
    match from("XDG_CACHE_HOME").filter(|path| path.is_absolute()) {
        Some(cache) => Ok(cache.join("mlx-rust")),
        None => Ok(from("HOME")
            .ok_or(Error::NoCacheDir)?
            .join(".cache/mlx-rust")),
    }
}

impl Cache {
    /// The cache of this user, as the environment says.
    ///
    /// # Errors
    /// As [`cache_dir`].
    pub fn user() -> Result<Self> {
        let forbids = |value: OsString| !value.is_empty() && value != "0";
        let offline = std::env::var_os("MLX_SYS_OFFLINE").is_some_and(forbids);
        Ok(Self::at(cache_dir()?).offline(offline))
    }

    /// A cache at a given folder, whatever the environment says.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            offline: false,
            search_path: None,
        }
    }

    /// Whether fetching is forbidden.
    #[must_use]
    pub fn offline(self, offline: bool) -> Self {
        Self { offline, ..self }
    }

    /// Where to search for pip, in place of `PATH`.
    #[must_use]
    pub fn search_path(self, path: impl Into<OsString>) -> Self {
        Self {
            search_path: Some(path.into()),
            ..self
        }
    }

    pub(super) fn is_offline(&self) -> bool {
        self.offline
    }

    pub(super) fn pip(&self) -> Option<Pip> {
        Pip::find_in(self.search_path.as_deref())
    }

    /// Its root folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a package lies, or would lie.
    #[must_use]
    pub fn folder(&self, package: &Package) -> PathBuf {
        self.root.join(package.folder())
    }

    /// Waits for, and holds, the lock of one package. The system releases it when the holder
    /// ends in any way, so no lock outlives a crash.
    pub(super) fn lock(&self, package: &Package, waiting: &mut dyn FnMut()) -> Result<fs::File> {
        let folder = self.root.join("locks");
        create_dir(&folder)?;
        let path = folder.join(format!("{}.lock", package.name));
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| Error::cache("write", &path, e))?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::WouldBlock) => waiting(),
            Err(fs::TryLockError::Error(e)) => return Err(Error::cache("lock", path, e)),
        }
        file.lock().map_err(|e| Error::cache("lock", path, e))?;
        Ok(file)
    }
}

pub(super) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::cache("create", path, e))
}

/// Removes a folder that may be absent.
pub(super) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::cache("remove", path, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(variables: &[(&str, &str)]) -> Result<PathBuf> {
        choose_root(&|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| v.into())
        })
    }

    #[test]
    fn the_cache_folder_follows_the_environment() -> Result<()> {
        assert_eq!(
            root(&[("MLX_CACHE_DIR", "/c"), ("HOME", "/h")])?,
            Path::new("/c")
        );
        assert!(root(&[("MLX_CACHE_DIR", ""), ("HOME", "/h")])?.starts_with("/h"));
        assert!(matches!(root(&[]), Err(Error::NoCacheDir)));
        if !cfg!(target_os = "macos") {
            let both = [("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
            assert_eq!(root(&both)?, Path::new("/x/mlx-rust"));
            let relative = [("XDG_CACHE_HOME", "x"), ("HOME", "/h")];
            assert_eq!(root(&relative)?, Path::new("/h/.cache/mlx-rust"));
        }
        Ok(())
    }
}
