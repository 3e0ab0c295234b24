//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Writes `path` through a sibling file that is synced and then renamed into place.
///
/// Readers see the old file or the complete new one, also when this process
/// dies half-way, and a memory map of the old file stays valid. On failure the
/// sibling is removed.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be written, and whatever `write` returns.
pub(crate) fn replace_file(
    path: &Path,
    write: impl FnOnce(&mut Output<'_>) -> Result<()>,
) -> Result<()> {
    let (sibling, file) = create_sibling(path)?;
    let mut output = Output {
        path,
        file: BufWriter::with_capacity(1 << 20, file),
    };
    let written = write(&mut output)
        .and_then(|()| output.finish())
        .and_then(|()| fs::rename(&sibling, path).map_err(|source| io_error(path, source)));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&sibling);
    } else {
        sync_folder(path);
    }
    written
}

/// The file being written; failures name the path the caller asked for.
#[derive(Debug)]
pub(crate) struct Output<'a> {
    path: &'a Path,
    file: BufWriter<File>,
}

impl Output<'_> {
    /// Appends `bytes`.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|source| io_error(self.path, source))
    }

    /// Appends zeros until `position` is a multiple of `alignment`, a power of two.
    pub(crate) fn pad(&mut self, position: u64, alignment: u64) -> Result<()> {
        let padding = position.wrapping_neg() & (alignment - 1);
        io::copy(&mut io::repeat(0).take(padding), &mut self.file)
            .map_err(|source| io_error(self.path, source))?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(|source| io_error(self.path, source))
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Output<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

fn create_sibling(path: &Path) -> Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        io_error(
            path,
            io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"),
        )
    })?;
    loop {
        let mut sibling_name = std::ffi::OsString::from(".");
        sibling_name.push(name);
        sibling_name.push(format!(
            ".{}-{}.part",
            process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        let sibling = path.with_file_name(sibling_name);
        match OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&sibling)
        {
            Ok(file) => return Ok((sibling, file)),
            // Left over from a process that died and had our process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(io_error(path, source)),
        }
    }
}

/// Makes the rename itself durable where the system lets a folder be opened.
fn sync_folder(path: &Path) {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The data is complete either way, so a refusal is not the caller's concern.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}
