use std::path::Path;

use super::header;
use crate::ffi::mmap::map_file;
use crate::io::atomic::replace_file;
use crate::io::dense::dense_bytes;
use crate::{Array, Result};

/// Reads the array in an `npy` file.
///
/// ```
/// use mlx_core::Array;
/// use mlx_core::io::{load_npy, save_npy};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("x.npy");
/// save_npy(&path, &Array::from_slice(&[1, 2, 3, 4], &[2, 2])?)?;
/// assert_eq!(load_npy(&path)?.to_vec::<i32>()?, [1, 2, 3, 4]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if the file cannot be opened or mapped,
/// [`Error::Format`](crate::Error::Format) if it is not a valid npy file, and
/// [`Error::Unsupported`](crate::Error::Unsupported) if arrays cannot hold its elements.
pub fn load_npy(path: impl AsRef<Path>) -> Result<Array> {
    let path = path.as_ref();
    let map = map_file(path)?;
    decode(&map, &format!("npy file `{}`", path.display()))
}

/// Reads the array of an `npy` file that is already in memory.
///
/// # Errors
/// As [`load_npy`], except for [`Error::Io`](crate::Error::Io).
pub fn decode_npy(bytes: &[u8]) -> Result<Array> {
    decode(bytes, "npy file")
}

/// Writes an array as an `npy` file, evaluating it.
///
/// The file appears under `path` only once it is complete.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) if the file cannot be written, and whatever
/// the computation reports.
pub fn save_npy(path: impl AsRef<Path>, array: &Array) -> Result<()> {
    let bytes = dense_bytes(array)?;
    replace_file(path.as_ref(), |output| {
        output.put(&header::encode(array.dtype(), array.shape()))?;
        output.put(&bytes)
    })
}

/// The array in the npy file `bytes`.
pub(super) fn decode(bytes: &[u8], label: &str) -> Result<Array> {
    let header = header::parse(bytes, label)?;
    let data = bytes.get(header.data_start..).unwrap_or(&[]);
    let swapped;
    let data = match header.swap_width {
        Some(width) => {
            let mut bytes = data.to_vec();
            bytes.chunks_exact_mut(width).for_each(<[u8]>::reverse);
            swapped = bytes;
            &swapped
        }
        None => data,
    };
    if header.fortran_order && header.shape.len() > 1 {
        let reversed: Vec<usize> = header.shape.iter().rev().copied().collect();
        Array::from_bytes(data, &reversed, header.dtype)?.transpose()
    } else {
        Array::from_bytes(data, &header.shape, header.dtype)
    }
}
