//! Read-only memory maps of weight files.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// The bytes of a file, mapped read-only for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Mapped {
    // `None` stands for an empty file, which some systems refuse to map.
    map: Option<Mmap>,
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

/// Maps the file at `path` for reading.
///
/// # Errors
/// [`Error::Io`] if the file cannot be opened, is no regular file, or cannot be mapped.
pub(crate) fn map_file(path: &Path) -> Result<Mapped> {
    let io_error = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    // Asked before opening, because opening a named pipe waits for a writer.
    let metadata = std::fs::metadata(path).map_err(io_error)?;
    if metadata.is_dir() {
        return Err(io_error(std::io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(io_error(std::io::Error::other("not a regular file")));
    }
    let file = File::open(path).map_err(io_error)?;
    if file.metadata().map_err(io_error)?.len() == 0 {
        return Ok(Mapped { map: None });
    }
    // SAFETY: the map is private to this process and read-only, so nothing here
    // writes through it. Another process may still change or shorten the file
    // underneath, which no lock can forbid portably. Readers are built for
    // that: headers are copied out before they are validated and only the copy
    // is used afterwards, tensor data is plain bytes for which every pattern is
    // valid, and no `&str` or typed slice ever points into the map. A file that
    // is shortened while mapped ends the process on access, as it does for every
    // program that maps weights; our own writers replace files by renaming and
    // never write into an existing one. Callers who cannot accept that read the
    // file themselves and use the `from_bytes` constructors.
    let map = unsafe { Mmap::map(&file) }.map_err(io_error)?;
    Ok(Mapped { map: Some(map) })
}
