use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ::safetensors::tensor::TensorInfo;
use serde_json::{Map, Value};

use super::header::{LENGTH_BYTES, MAX_HEADER_BYTES, METADATA_KEY, stored_dtype};
use crate::io::atomic::replace_file;
use crate::io::dense::dense_bytes;
use crate::{Array, Error, Result, eval};

/// Writes named arrays and metadata as a safetensors file.
///
/// Evaluates the arrays. The same arrays always give the same bytes: wide
/// dtypes come first, so that every tensor is aligned, then names in order. The
/// file appears under `path` only once it is complete.
///
/// # Errors
/// [`Error::Format`] if a name appears twice or is reserved, [`Error::Io`] if
/// the file cannot be written, and whatever the computation reports.
pub fn save_safetensors<'a, N: AsRef<str>>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (N, &'a Array)>,
    metadata: &HashMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let error = |message: String| Error::Format {
        what: format!("safetensors file `{}`", path.display()),
        message,
    };
    let mut sorted = BTreeMap::new();
    for (name, array) in arrays {
        let name = name.as_ref();
        if name == METADATA_KEY {
            return Err(error(format!("the name `{name}` is reserved")));
        }
        if sorted.insert(name.to_owned(), array).is_some() {
            return Err(error(format!("tensor `{name}` is given twice")));
        }
    }
    let mut arrays: Vec<(&str, &Array)> = sorted
        .iter()
        .map(|(name, array)| (name.as_str(), *array))
        .collect();
    arrays.sort_by_key(|(_, array)| std::cmp::Reverse(array.dtype().size()));
    // Computed before the file exists, so that a failure leaves nothing behind.
    eval(&arrays.iter().map(|(_, array)| *array).collect::<Vec<_>>())?;

    let header = header(&arrays, metadata).map_err(|source| error(source.to_string()))?;
    if header.len() as u64 > MAX_HEADER_BYTES {
        return Err(error(format!("a header of {} bytes", header.len())));
    }
    replace_file(path, |output| {
        output.put(&(header.len() as u64).to_le_bytes())?;
        output.put(&header)?;
        for (_, array) in &arrays {
            output.put(&dense_bytes(array)?)?;
        }
        Ok(())
    })
}

fn header(
    arrays: &[(&str, &Array)],
    metadata: &HashMap<String, String>,
) -> serde_json::Result<Vec<u8>> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        let sorted: BTreeMap<_, _> = metadata.iter().collect();
        header.insert(METADATA_KEY.to_owned(), serde_json::to_value(sorted)?);
    }
    let mut offset = 0;
    for (name, array) in arrays {
        let end = offset + array.nbytes();
        let info = TensorInfo {
            dtype: stored_dtype(array.dtype()),
            shape: array
                .shape()
                .iter()
                .filter_map(|&dim| usize::try_from(dim).ok())
                .collect(),
            data_offsets: (offset, end),
        };
        header.insert((*name).to_owned(), serde_json::to_value(info)?);
        offset = end;
    }
    let mut bytes = serde_json::to_vec(&Value::Object(header))?;
    // Spaces keep the data aligned, as the format allows.
    bytes.resize(bytes.len().next_multiple_of(LENGTH_BYTES), b' ');
    Ok(bytes)
}
