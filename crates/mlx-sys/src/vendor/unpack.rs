use std::{
    fs,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Error, Package, Result, cache::create_dir};

/// No package comes near this; a damaged or hostile archive must not fill the disk first.
const MOST_FILES: usize = 100_000;

/// Unpacks what `package` asks for and returns each path (relative, with `/`) and its size.
pub(super) fn wheel(
    archive: &Path,
    tree: &Path,
    package: &Package,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<(String, u64)>> {
    let bad = |reason: String| Error::Archive {
        file: archive
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        reason,
    };
    let file = fs::File::open(archive).map_err(|e| Error::cache("read", archive, e))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|e| bad(e.to_string()))?;
    if zip.len() > MOST_FILES {
        return Err(bad(format!("it claims {} files", zip.len())));
    }

    let mut wanted = Vec::new();
    let mut total = 0_u64;
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).map_err(|e| bad(e.to_string()))?;
        let Some(path) = entry.enclosed_name() else {
            return Err(bad(format!("`{}` lies outside the archive", entry.name())));
        };
        if entry.is_dir() {
            continue;
        }
        if let Some(place) = place(package, &path) {
            total = total.saturating_add(entry.size());
            wanted.push((index, place));
        }
    }
    if wanted.is_empty() {
        return Err(bad("it holds none of the expected files".to_owned()));
    }

    create_dir(tree)?;
    let mut done = 0;
    let mut written = Vec::with_capacity(wanted.len());
    for (index, place) in wanted {
        let mut entry = zip.by_index(index).map_err(|e| bad(e.to_string()))?;
        let size = entry.size();
        let mode = entry.unix_mode().unwrap_or(0o644);
        let target = tree.join(&place);
        if let Some(parent) = target.parent() {
            create_dir(parent)?;
        }
        let mut counted = Counted {
            inner: (&mut entry).take(size.saturating_add(1)),
            done,
            total,
            progress,
        };
        let count = write_new(&target, &mut counted, mode).map_err(|e| match e {
            // Decompression errors surface through `read`, whatever the path.
            Error::Cache { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                bad(format!("`{}`: {source}", place.display()))
            }
            other => other,
        })?;
        if count != size {
            return Err(bad(format!(
                "`{}` has {count} bytes, not {size}",
                place.display()
            )));
        }
        done = done.saturating_add(count);
        written.push((place.to_string_lossy().replace('\\', "/"), count));
    }
    Ok(written)
}

/// Where a member of the archive goes, if it is wanted.
fn place(package: &Package, path: &Path) -> Option<PathBuf> {
    let Some(prefix) = &package.take else {
        return Some(installed_path(path));
    };
    if let Ok(rest) = path.strip_prefix(prefix) {
        let suffix = package.keep.as_deref().unwrap_or_default();
        return rest
            .to_string_lossy()
            .ends_with(suffix)
            .then(|| rest.to_owned());
    }
    let mut parts = path.components().filter_map(|c| match c {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    let in_metadata = parts
        .next()
        .is_some_and(|first| first.ends_with(".dist-info"));
    let name = path.file_name()?.to_str()?;
    let licence = ["LICENSE", "LICENCE", "NOTICE", "COPYING"]
        .iter()
        .any(|l| name.starts_with(l));
    (in_metadata && licence).then(|| PathBuf::from(name))
}

/// Wheels keep some members below `<name>.data/<scheme>/`; an installer moves them.
fn installed_path(path: &Path) -> PathBuf {
    let mut parts = path.components();
    let first = parts.next().map(|c| c.as_os_str().to_string_lossy());
    if !first.is_some_and(|f| f.ends_with(".data")) {
        return path.to_owned();
    }
    let scheme = parts
        .next()
        .map(|c| c.as_os_str().to_string_lossy().into_owned());
    match scheme.as_deref() {
        Some("platlib" | "purelib" | "data") => parts.as_path().to_owned(),
        Some("scripts") => Path::new("bin").join(parts.as_path()),
        _ => path.to_owned(),
    }
}

/// Smaller files are not synced one by one: packages hold thousands of them, and their sizes in
/// the manifest reveal one that a power failure cut short.
const SYNC_FROM: u64 = 64 * 1024;

/// 1980, the earliest date of archives, after 1970: older than any build.
const ZIP_EPOCH: Duration = Duration::from_secs(315_532_800);

/// Writes a new file; a large one is on the disk when this returns.
pub(super) fn write_new(path: &Path, from: &mut dyn Read, mode: u32) -> Result<u64> {
    let failed = |e| Error::cache("write", path, e);
    let mut options = fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode((mode & 0o777) | 0o600);
    }
    let mut file = options.open(path).map_err(failed)?;
    let count = io::copy(from, &mut file).map_err(failed)?;
    // A build script that fetches a package also asks Cargo to watch it, and Cargo would take a
    // file that is younger than the script's run for a change and build everything once more.
    let _ = file.set_modified(SystemTime::UNIX_EPOCH + ZIP_EPOCH);
    if count >= SYNC_FROM {
        file.sync_all().map_err(failed)?;
    }
    Ok(count)
}

struct Counted<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done = self.done.saturating_add(count as u64);
        (self.progress)(self.done, self.total);
        Ok(count)
    }
}
