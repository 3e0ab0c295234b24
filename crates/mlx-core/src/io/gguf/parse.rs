use std::collections::{BTreeMap, HashMap};

use super::cursor::Cursor;
use super::limits::Limits;
use super::metadata::{Metadata, Value};
use super::types::GgmlType;
use crate::Result;

/// What the header says about one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) ggml_type: GgmlType,
    pub(super) start: usize,
    pub(super) nbytes: usize,
}

impl TensorInfo {
    /// The name, such as `blk.0.attn_q.weight`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape in row-major order, outermost dimension first: the reverse of
    /// the order in the file.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How the elements are stored.
    #[must_use]
    pub fn ggml_type(&self) -> GgmlType {
        self.ggml_type
    }

    /// The number of elements.
    #[must_use]
    pub fn size(&self) -> usize {
        // The parser has checked that the product does not overflow.
        self.shape.iter().product()
    }

    /// The number of bytes in the file.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }
}

/// A validated header: every tensor lies inside the file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<TensorInfo>,
    pub(super) index: HashMap<String, usize>,
}

const DEFAULT_ALIGNMENT: u32 = 32;
const ALIGNMENT_KEY: &str = "general.alignment";
const MAX_ALIGNMENT: u32 = 1 << 20;
pub(super) const MAX_DIMS: u32 = 4;

/// Reads and validates the header at the start of `bytes`; `label` names the file in errors.
pub(super) fn parse(bytes: &[u8], label: &str, limits: &Limits) -> Result<Header> {
    let mut cursor = Cursor {
        bytes,
        position: 0,
        label,
        limits,
    };
    let version = cursor.magic_and_version()?;
    let tensor_count = cursor.count("header", "tensors", limits.max_tensors, MIN_TENSOR_BYTES)?;
    let pair_count = cursor.count(
        "header",
        "metadata pairs",
        limits.max_metadata,
        MIN_PAIR_BYTES,
    )?;

    let mut entries = BTreeMap::new();
    for _ in 0..pair_count {
        let key = cursor.string("metadata key", limits.max_name_bytes)?;
        let context = format!("metadata `{key}`");
        let value = cursor.value(&context)?;
        if entries.insert(key, value).is_some() {
            return Err(cursor.error(format!("{context} appears twice")));
        }
    }
    let metadata = Metadata {
        label: label.to_owned(),
        entries,
    };
    let alignment = alignment(&metadata).map_err(|message| cursor.error(message))?;

    let mut tensors = Vec::with_capacity(tensor_count);
    let mut index = HashMap::with_capacity(tensor_count);
    for position in 0..tensor_count {
        let tensor = tensor(&mut cursor, alignment)?;
        if index.insert(tensor.name.clone(), position).is_some() {
            return Err(cursor.error(format!("tensor `{}` appears twice", tensor.name)));
        }
        tensors.push(tensor);
    }
    place(&mut tensors, &cursor, alignment)?;
    Ok(Header {
        version,
        metadata,
        tensors,
        index,
    })
}

// The least space that an entry of each list takes, to bound counts by the file size.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 4 + 8;
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;

/// The alignment of the data section, or what is wrong with the one that is asked for.
pub(super) fn alignment(metadata: &Metadata) -> Result<usize, String> {
    let alignment = match metadata.value(ALIGNMENT_KEY) {
        None => DEFAULT_ALIGNMENT,
        Some(&Value::U32(alignment)) => alignment,
        Some(_) => {
            return Err(format!(
                "metadata `{ALIGNMENT_KEY}` is no unsigned 32-bit integer"
            ));
        }
    };
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return Err(format!(
            "metadata `{ALIGNMENT_KEY}` is {alignment}, expected a power of two up to {MAX_ALIGNMENT}"
        ));
    }
    usize::try_from(alignment).map_err(|error| error.to_string())
}

/// Turns offsets inside the data section into positions in the file and checks them.
fn place(tensors: &mut [TensorInfo], cursor: &Cursor<'_>, alignment: usize) -> Result<()> {
    let file_len = cursor.bytes.len();
    let data_start = cursor.position.checked_next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let range = data_start
            .and_then(|start| start.checked_add(tensor.start))
            .and_then(|start| Some((start, start.checked_add(tensor.nbytes)?)));
        match range {
            Some((start, end)) if end <= file_len => tensor.start = start,
            _ => {
                return Err(cursor.error(format!(
                    "tensor `{}`: {} bytes at data offset {} reach beyond the end of the file ({file_len} bytes)",
                    tensor.name, tensor.nbytes, tensor.start
                )));
            }
        }
    }
    let mut by_start: Vec<&TensorInfo> =
        tensors.iter().filter(|tensor| tensor.nbytes > 0).collect();
    by_start.sort_by_key(|tensor| tensor.start);
    for (first, second) in by_start.iter().zip(by_start.iter().skip(1)) {
        if first.start + first.nbytes > second.start {
            return Err(cursor.error(format!(
                "tensors `{}` and `{}` overlap",
                first.name, second.name
            )));
        }
    }
    Ok(())
}

/// A tensor whose `start` is still relative to the data section.
fn tensor(cursor: &mut Cursor<'_>, alignment: usize) -> Result<TensorInfo> {
    let name = cursor.string("tensor name", cursor.limits.max_name_bytes)?;
    let context = format!("tensor `{name}`");
    let ndim = cursor.u32(&context)?;
    if ndim > MAX_DIMS {
        return Err(cursor.error(format!(
            "{context}: {ndim} dimensions, at most {MAX_DIMS} expected"
        )));
    }
    let mut shape = (0..ndim)
        .map(|_| cursor.u64(&context))
        .collect::<Result<Vec<u64>>>()?;
    shape.reverse();
    let type_id = cursor.u32(&context)?;
    let ggml_type = GgmlType::from_id(type_id)
        .ok_or_else(|| cursor.error(format!("{context}: unknown tensor type {type_id}")))?;
    let offset = cursor.u64(&context)?;

    let (shape, size) = checked_shape(&shape)
        .ok_or_else(|| cursor.error(format!("{context}: the shape {shape:?} is too large")))?;
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(ggml_type.block_len()) {
        return Err(cursor.error(format!(
            "{context}: rows of {row} elements are no multiple of the {ggml_type} block of {}",
            ggml_type.block_len()
        )));
    }
    let nbytes = ggml_type
        .bytes_for(size)
        .ok_or_else(|| cursor.error(format!("{context}: the size overflows")))?;
    let start = usize::try_from(offset)
        .ok()
        .filter(|start| start.is_multiple_of(alignment))
        .ok_or_else(|| {
            cursor.error(format!(
                "{context}: data offset {offset} is no multiple of the alignment {alignment}"
            ))
        })?;
    Ok(TensorInfo {
        name,
        shape,
        ggml_type,
        start,
        nbytes,
    })
}

/// The dimensions and their product, unless a dimension is too large for an
/// array or the product overflows.
fn checked_shape(dims: &[u64]) -> Option<(Vec<usize>, usize)> {
    let mut size = 1_usize;
    // A zero must not hide that the others overflow.
    let mut bound = 1_usize;
    let mut shape = Vec::with_capacity(dims.len());
    for &dim in dims {
        let dim = usize::try_from(i32::try_from(dim).ok()?).ok()?;
        size = size.saturating_mul(dim);
        bound = bound.checked_mul(dim.max(1))?;
        shape.push(dim);
    }
    Some((shape, size))
}
