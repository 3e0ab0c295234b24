use std::collections::HashMap;
use std::fmt;

use ::safetensors::Dtype as Stored;
use ::safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::{Dtype, Error, Result};

/// The limit that the format itself sets.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;
pub(super) const LENGTH_BYTES: usize = 8;
pub(super) const METADATA_KEY: &str = "__metadata__";

/// A validated header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: HashMap<String, String>,
    /// Ordered by position in the file.
    pub(super) tensors: Vec<Entry>,
}

/// A tensor that lies inside the file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) stored: Stored,
    /// Positions in the file.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Reads and validates the header at the start of `bytes`; `label` names the file in errors.
pub(super) fn parse(bytes: &[u8], label: &str) -> Result<Header> {
    let error = |message: String| Error::Format {
        what: label.to_owned(),
        message,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(error(format!(
            "the file is {} bytes long, shorter than the length of its header",
            bytes.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(error(format!(
            "a header of {length} bytes, more than the limit of {MAX_HEADER_BYTES}"
        )));
    }
    let (header, data) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| {
            error(format!(
                "a header of {length} bytes, but the file ends after {}",
                rest.len()
            ))
        })?;
    let data_start = bytes.len() - data.len();
    // Copied before it is checked: a mapped file may change in between.
    let header = String::from_utf8(header.to_vec())
        .map_err(|source| error(format!("header: not UTF-8: {}", source.utf8_error())))?;
    let header: RawHeader =
        serde_json::from_str(&header).map_err(|source| error(format!("header: {source}")))?;

    let mut tensors = Vec::with_capacity(header.tensors.len());
    for (name, info) in header.tensors {
        let (start, end) = check(&info, data.len())
            .map_err(|message| error(format!("tensor `{name}`: {message}")))?;
        tensors.push(Entry {
            name,
            shape: info.shape,
            stored: info.dtype,
            start: data_start + start,
            end: data_start + end,
        });
    }
    tensors.sort_by_key(|tensor| (tensor.start, tensor.end));
    let mut covered = data_start;
    for tensor in &tensors {
        if tensor.start != covered {
            let problem = if tensor.start < covered {
                "overlaps another tensor"
            } else {
                "leaves a gap before it"
            };
            return Err(error(format!("tensor `{}`: {problem}", tensor.name)));
        }
        covered = tensor.end;
    }
    if covered != bytes.len() {
        return Err(error(format!(
            "{} bytes at the end belong to no tensor",
            bytes.len() - covered
        )));
    }
    Ok(Header {
        metadata: header.metadata,
        tensors,
    })
}

/// The tensor's place in the data section, or what is wrong with it.
fn check(info: &TensorInfo, data_len: usize) -> Result<(usize, usize), String> {
    let (start, end) = info.data_offsets;
    if start > end || end > data_len {
        return Err(format!(
            "data offsets {start} to {end} do not lie in the {data_len} bytes of data"
        ));
    }
    let too_large = || format!("the shape {:?} is too large", info.shape);
    let mut bits = info.dtype.bitsize();
    for &dim in &info.shape {
        if i32::try_from(dim).is_err() {
            return Err(too_large());
        }
        bits = bits.checked_mul(dim).ok_or_else(too_large)?;
    }
    if !bits.is_multiple_of(8) || bits / 8 != end - start {
        return Err(format!(
            "{} bytes for shape {:?} of {}",
            end - start,
            info.shape,
            info.dtype
        ));
    }
    Ok((start, end))
}

/// The dtype of the array that a stored tensor becomes, if MLX has one.
pub(super) fn array_dtype(stored: Stored) -> Option<Dtype> {
    Some(match stored {
        Stored::BOOL => Dtype::Bool,
        Stored::U8
        | Stored::F8_E4M3
        | Stored::F8_E5M2
        | Stored::F8_E8M0
        | Stored::F8_E4M3FNUZ
        | Stored::F8_E5M2FNUZ => Dtype::Uint8,
        Stored::U16 => Dtype::Uint16,
        Stored::U32 => Dtype::Uint32,
        Stored::U64 => Dtype::Uint64,
        Stored::I8 => Dtype::Int8,
        Stored::I16 => Dtype::Int16,
        Stored::I32 => Dtype::Int32,
        Stored::I64 => Dtype::Int64,
        Stored::F16 => Dtype::Float16,
        Stored::BF16 => Dtype::Bfloat16,
        Stored::F32 => Dtype::Float32,
        Stored::F64 => Dtype::Float64,
        Stored::C64 => Dtype::Complex64,
        _ => return None,
    })
}

/// How arrays of `dtype` are stored.
pub(super) fn stored_dtype(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::Bool => Stored::BOOL,
        Dtype::Uint8 => Stored::U8,
        Dtype::Uint16 => Stored::U16,
        Dtype::Uint32 => Stored::U32,
        Dtype::Uint64 => Stored::U64,
        Dtype::Int8 => Stored::I8,
        Dtype::Int16 => Stored::I16,
        Dtype::Int32 => Stored::I32,
        Dtype::Int64 => Stored::I64,
        Dtype::Float16 => Stored::F16,
        Dtype::Bfloat16 => Stored::BF16,
        Dtype::Float32 => Stored::F32,
        Dtype::Float64 => Stored::F64,
        Dtype::Complex64 => Stored::C64,
    }
}

/// The header as it is written. Unlike a map, it refuses a name that appears twice.
struct RawHeader {
    metadata: HashMap<String, String>,
    tensors: HashMap<String, TensorInfo>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut metadata = None;
        let mut tensors = HashMap::new();
        while let Some(name) = map.next_key::<String>()? {
            let named = |problem: &dyn fmt::Display| {
                A::Error::custom(format_args!("tensor `{name}`: {problem}"))
            };
            if name == METADATA_KEY {
                let value = map.next_value::<Option<HashMap<String, String>>>()?;
                if metadata.replace(value.unwrap_or_default()).is_some() {
                    return Err(named(&"appears twice"));
                }
                continue;
            }
            let info = map.next_value().map_err(|source| named(&source))?;
            if tensors.contains_key(&name) {
                return Err(named(&"appears twice"));
            }
            tensors.insert(name, info);
        }
        Ok(RawHeader {
            metadata: metadata.unwrap_or_default(),
            tensors,
        })
    }
}
