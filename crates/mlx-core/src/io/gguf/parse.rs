use std::collections::{BTreeMap, HashMap};

use super::metadata::{Metadata, Value, ValueArray};
use super::types::GgmlType;
use crate::{Error, Result};

/// What a header may claim before it is refused.
///
/// Every count is also checked against the bytes that are left in the file
/// before anything is allocated, so that these limits only matter for files
/// that are really as large as they say.
///
/// ```
/// use mlx_core::io::gguf::Limits;
///
/// let limits = Limits::default().max_tensors(500);
/// # let _ = limits;
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct Limits {
    max_tensors: u64,
    max_metadata: u64,
    max_name_bytes: u64,
    max_string_bytes: u64,
    max_array_len: u64,
    max_array_depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_tensors: 1 << 20,
            max_metadata: 1 << 16,
            max_name_bytes: (1 << 16) - 1,
            max_string_bytes: 1 << 28,
            max_array_len: 1 << 26,
            max_array_depth: 4,
        }
    }
}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {
        impl Limits {
            $($(#[$doc])*
            pub fn $name(mut self, limit: $type) -> Self {
                self.$name = limit;
                self
            })*
        }
    };
}

limits! {
    /// The most tensors.
    max_tensors: u64;
    /// The most metadata pairs.
    max_metadata: u64;
    /// The longest tensor name or metadata key in bytes.
    max_name_bytes: u64;
    /// The longest metadata string in bytes.
    max_string_bytes: u64;
    /// The most elements of one metadata array.
    max_array_len: u64;
    /// How deep metadata arrays may nest; 1 forbids arrays of arrays.
    max_array_depth: u32;
}

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

pub(super) const MAGIC: [u8; 4] = *b"GGUF";
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
        let tensor = cursor.tensor(alignment)?;
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
const MIN_STRING_BYTES: usize = 8;
const MIN_ARRAY_BYTES: usize = 4 + 8;

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

/// Reads little-endian values and never past the end.
#[derive(Debug)]
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    label: &'a str,
    limits: &'a Limits,
}

impl<'a> Cursor<'a> {
    fn error(&self, message: impl Into<String>) -> Error {
        Error::Format {
            what: self.label.to_owned(),
            message: message.into(),
        }
    }

    fn unsupported(&self, message: &str) -> Error {
        Error::Unsupported(format!("{}: {message}", self.label))
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        let taken = self
            .position
            .checked_add(len)
            .and_then(|end| self.bytes.get(self.position..end));
        let Some(taken) = taken else {
            return Err(self.error(format!(
                "{what}: the file ends at byte {}, {len} more bytes expected at byte {}",
                self.bytes.len(),
                self.position
            )));
        };
        self.position += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn magic_and_version(&mut self) -> Result<u32> {
        if self.bytes.get(..4) != Some(&MAGIC) {
            return Err(self.error("the file does not start with `GGUF`"));
        }
        self.position = 4;
        match self.u32("version")? {
            version @ 2..=3 => Ok(version),
            1 => Err(self.unsupported("version 1 files are not supported, convert it again")),
            version if matches!(version.swap_bytes(), 1..=3) => {
                Err(self.unsupported("big-endian files are not supported"))
            }
            version => Err(self.error(format!("version {version}, expected 2 or 3"))),
        }
    }

    /// A count of things that take at least `min_bytes` each.
    fn count(
        &mut self,
        context: &str,
        things: &str,
        limit: u64,
        min_bytes: usize,
    ) -> Result<usize> {
        let count = self.u64(context)?;
        if count > limit {
            return Err(self.error(format!(
                "{context}: {count} {things}, more than the limit of {limit}"
            )));
        }
        usize::try_from(count)
            .ok()
            .filter(|count| {
                count
                    .checked_mul(min_bytes)
                    .is_some_and(|needed| needed <= self.remaining())
            })
            .ok_or_else(|| {
                self.error(format!(
                    "{context}: {count} {things} do not fit into the {} bytes that are left",
                    self.remaining()
                ))
            })
    }

    fn string(&mut self, context: &str, limit: u64) -> Result<String> {
        let len = self.count(context, "bytes of text", limit, 1)?;
        // Copied before it is checked: a mapped file may change in between.
        String::from_utf8(self.take(len, context)?.to_vec())
            .map_err(|error| self.error(format!("{context}: not UTF-8: {}", error.utf8_error())))
    }

    fn value(&mut self, context: &str) -> Result<Value> {
        let value_type = self.u32(context)?;
        Ok(match value_type {
            0 => Value::U8(self.number(context)?),
            1 => Value::I8(self.number(context)?),
            2 => Value::U16(self.number(context)?),
            3 => Value::I16(self.number(context)?),
            4 => Value::U32(self.number(context)?),
            5 => Value::I32(self.number(context)?),
            6 => Value::F32(self.number(context)?),
            7 => Value::Bool(self.flag(context)?),
            8 => Value::String(self.string(context, self.limits.max_string_bytes)?),
            9 => Value::Array(self.value_array(context, 1)?),
            10 => Value::U64(self.number(context)?),
            11 => Value::I64(self.number(context)?),
            12 => Value::F64(self.number(context)?),
            other => return Err(self.error(format!("{context}: unknown value type {other}"))),
        })
    }

    fn value_array(&mut self, context: &str, depth: u32) -> Result<ValueArray> {
        if depth > self.limits.max_array_depth {
            return Err(self.error(format!(
                "{context}: arrays nest deeper than {}",
                self.limits.max_array_depth
            )));
        }
        let element_type = self.u32(context)?;
        Ok(match element_type {
            0 => ValueArray::U8(self.numbers(context)?),
            1 => ValueArray::I8(self.numbers(context)?),
            2 => ValueArray::U16(self.numbers(context)?),
            3 => ValueArray::I16(self.numbers(context)?),
            4 => ValueArray::U32(self.numbers(context)?),
            5 => ValueArray::I32(self.numbers(context)?),
            6 => ValueArray::F32(self.numbers(context)?),
            7 => {
                let len = self.array_len(context, 1)?;
                ValueArray::Bool(
                    (0..len)
                        .map(|_| self.flag(context))
                        .collect::<Result<_>>()?,
                )
            }
            8 => {
                let len = self.array_len(context, MIN_STRING_BYTES)?;
                let max_bytes = self.limits.max_string_bytes;
                ValueArray::String(
                    (0..len)
                        .map(|_| self.string(context, max_bytes))
                        .collect::<Result<_>>()?,
                )
            }
            9 => {
                let len = self.array_len(context, MIN_ARRAY_BYTES)?;
                ValueArray::Array(
                    (0..len)
                        .map(|_| self.value_array(context, depth + 1))
                        .collect::<Result<_>>()?,
                )
            }
            10 => ValueArray::U64(self.numbers(context)?),
            11 => ValueArray::I64(self.numbers(context)?),
            12 => ValueArray::F64(self.numbers(context)?),
            other => return Err(self.error(format!("{context}: unknown element type {other}"))),
        })
    }

    fn array_len(&mut self, context: &str, min_bytes: usize) -> Result<usize> {
        let limit = self.limits.max_array_len;
        self.count(context, "array elements", limit, min_bytes)
    }

    fn number<T: Number>(&mut self, context: &str) -> Result<T> {
        self.take(T::BYTES, context).map(T::from_le)
    }

    fn numbers<T: Number>(&mut self, context: &str) -> Result<Vec<T>> {
        let len = self.array_len(context, T::BYTES)?;
        // The product was checked against the bytes that are left.
        let bytes = self.take(len * T::BYTES, context)?;
        Ok(bytes.chunks_exact(T::BYTES).map(T::from_le).collect())
    }

    fn flag(&mut self, context: &str) -> Result<bool> {
        match self.array(context)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(self.error(format!("{context}: the flag is {byte}, expected 0 or 1"))),
        }
    }

    /// A tensor whose `start` is still relative to the data section.
    fn tensor(&mut self, alignment: usize) -> Result<TensorInfo> {
        let name = self.string("tensor name", self.limits.max_name_bytes)?;
        let context = format!("tensor `{name}`");
        let ndim = self.u32(&context)?;
        if ndim > MAX_DIMS {
            return Err(self.error(format!(
                "{context}: {ndim} dimensions, at most {MAX_DIMS} expected"
            )));
        }
        let mut shape = (0..ndim)
            .map(|_| self.u64(&context))
            .collect::<Result<Vec<u64>>>()?;
        shape.reverse();
        let type_id = self.u32(&context)?;
        let ggml_type = GgmlType::from_id(type_id)
            .ok_or_else(|| self.error(format!("{context}: unknown tensor type {type_id}")))?;
        let offset = self.u64(&context)?;

        let (shape, size) = checked_shape(&shape)
            .ok_or_else(|| self.error(format!("{context}: the shape {shape:?} is too large")))?;
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(ggml_type.block_len()) {
            return Err(self.error(format!(
                "{context}: rows of {row} elements are no multiple of the {ggml_type} block of {}",
                ggml_type.block_len()
            )));
        }
        let nbytes = ggml_type
            .bytes_for(size)
            .ok_or_else(|| self.error(format!("{context}: the size overflows")))?;
        let start = usize::try_from(offset)
            .ok()
            .filter(|start| start.is_multiple_of(alignment))
            .ok_or_else(|| {
                self.error(format!(
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

/// Numbers as they are stored.
trait Number {
    const BYTES: usize;

    /// Decodes exactly `BYTES` bytes.
    fn from_le(bytes: &[u8]) -> Self;
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Number for $number {
            const BYTES: usize = size_of::<$number>();

            fn from_le(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$number>()];
                array.copy_from_slice(bytes);
                <$number>::from_le_bytes(array)
            }
        }
    )*};
}

numbers! { u8 i8 u16 i16 u32 i32 u64 i64 f32 f64 }
