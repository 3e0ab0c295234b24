use std::collections::{BTreeMap, HashMap};
use std::io::{Cursor, Read, Write};
use std::path::Path;

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::file::decode;
use super::header;
use crate::ffi::mmap::map_file;
use crate::io::atomic::{io_error, replace_file};
use crate::io::dense::dense_bytes;
use crate::{Array, Error, Result};

/// What an `npz` file may unpack to before it is refused.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct NpzLimits {
    max_arrays: usize,
    max_bytes: u64,
}

impl Default for NpzLimits {
    fn default() -> Self {
        Self {
            max_arrays: 1 << 20,
            max_bytes: 1 << 36,
        }
    }
}

impl NpzLimits {
    /// The most arrays.
    pub fn max_arrays(mut self, limit: usize) -> Self {
        self.max_arrays = limit;
        self
    }

    /// The most bytes that all arrays together may unpack to.
    pub fn max_bytes(mut self, limit: u64) -> Self {
        self.max_bytes = limit;
        self
    }
}

/// Reads the arrays of an `npz` file, stored or deflated, by name.
///
/// # Errors
/// As [`load_npy`](super::load_npy); also [`Error::Format`] if the zip archive
/// is broken, holds anything but arrays, or unpacks to more than the default [`NpzLimits`].
pub fn load_npz(path: impl AsRef<Path>) -> Result<HashMap<String, Array>> {
    load_npz_with(path, &NpzLimits::default())
}

/// [`load_npz`] with other limits.
///
/// # Errors
/// As [`load_npz`].
pub fn load_npz_with(path: impl AsRef<Path>, limits: &NpzLimits) -> Result<HashMap<String, Array>> {
    let path = path.as_ref();
    unpack(
        &map_file(path)?,
        &format!("npz file `{}`", path.display()),
        limits,
    )
}

/// Reads the arrays of an `npz` file that is already in memory.
///
/// # Errors
/// As [`load_npz`], except for [`Error::Io`].
pub fn decode_npz(bytes: &[u8], limits: &NpzLimits) -> Result<HashMap<String, Array>> {
    unpack(bytes, "npz file", limits)
}

fn unpack(bytes: &[u8], label: &str, limits: &NpzLimits) -> Result<HashMap<String, Array>> {
    let error = |message: String| Error::Format {
        what: label.to_owned(),
        message,
    };
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|source| error(source.to_string()))?;
    if archive.len() > limits.max_arrays {
        return Err(error(format!(
            "{} arrays, more than the limit of {}",
            archive.len(),
            limits.max_arrays
        )));
    }
    let mut left = limits.max_bytes;
    let mut arrays = HashMap::new();
    for position in 0..archive.len() {
        let entry = archive
            .by_index(position)
            .map_err(|source| error(source.to_string()))?;
        let name = entry
            .name()
            .strip_suffix(".npy")
            .ok_or_else(|| error(format!("`{}` is no array", entry.name())))?
            .to_owned();
        let declared = entry.size();
        if declared > left {
            return Err(error(format!(
                "array `{name}`: the arrays unpack to more than the limit of {} bytes",
                limits.max_bytes
            )));
        }
        left -= declared;
        let mut bytes = Vec::new();
        // One byte more than was declared: enough to see that there are more, and
        // to reach the end, where the checksum is compared.
        entry
            .take(declared.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| error(format!("array `{name}`: {source}")))?;
        if bytes.len() as u64 != declared {
            return Err(error(format!(
                "array `{name}`: does not unpack to the {declared} bytes that were declared"
            )));
        }
        let array = decode(&bytes, &format!("{label}: array `{name}`"))?;
        if arrays.insert(name.clone(), array).is_some() {
            return Err(error(format!("array `{name}` appears twice")));
        }
    }
    Ok(arrays)
}

/// Writes named arrays as an `npz` file without compression, evaluating them.
///
/// ```
/// use mlx_core::Array;
/// use mlx_core::io::{load_npz, save_npz};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("xy.npz");
/// let x = Array::from_slice(&[1.0_f32, 2.0], &[2])?;
/// save_npz(&path, [("x", &x)])?;
/// assert_eq!(load_npz(&path)?["x"].to_vec::<f32>()?, [1.0, 2.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Format`] if a name appears twice, [`Error::Io`] if the file cannot
/// be written, and whatever the computation reports.
pub fn save_npz<'a, N: AsRef<str>>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (N, &'a Array)>,
) -> Result<()> {
    save(path.as_ref(), arrays, CompressionMethod::Stored)
}

/// Writes named arrays as a deflated `npz` file, evaluating them.
///
/// # Errors
/// As [`save_npz`].
pub fn save_npz_compressed<'a, N: AsRef<str>>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (N, &'a Array)>,
) -> Result<()> {
    save(path.as_ref(), arrays, CompressionMethod::Deflated)
}

fn save<'a, N: AsRef<str>>(
    path: &Path,
    arrays: impl IntoIterator<Item = (N, &'a Array)>,
    method: CompressionMethod,
) -> Result<()> {
    let mut sorted = BTreeMap::new();
    for (name, array) in arrays {
        let name = name.as_ref();
        if sorted.insert(name.to_owned(), array).is_some() {
            return Err(Error::Format {
                what: format!("npz file `{}`", path.display()),
                message: format!("array `{name}` is given twice"),
            });
        }
    }
    replace_file(path, |output| {
        let zip_error = |source: ZipError| io_error(path, source.into());
        let mut archive = ZipWriter::new(output);
        for (name, array) in &sorted {
            let options = SimpleFileOptions::default()
                .compression_method(method)
                // Entries near 4 GiB need the wider fields, which must be chosen before.
                .large_file(array.nbytes() >= 1 << 31);
            archive
                .start_file(format!("{name}.npy"), options)
                .map_err(zip_error)?;
            let header = header::encode(array.dtype(), array.shape());
            let bytes = dense_bytes(array)?;
            archive
                .write_all(&header)
                .and_then(|()| archive.write_all(&bytes))
                .map_err(|source| io_error(path, source))?;
        }
        archive.finish().map_err(zip_error)?;
        Ok(())
    })
}
