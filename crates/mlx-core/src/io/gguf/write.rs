use std::borrow::Cow;
use std::collections::HashSet;
use std::path::Path;

use super::cursor::MAGIC;
use super::metadata::{Metadata, Value, ValueArray};
use super::parse::{MAX_DIMS, alignment};
use super::quantize::quantize;
use super::types::GgmlType;
use crate::io::atomic::replace_file;
use crate::{Error, Result};

/// Collects metadata and tensors and writes them as a GGUF file of version 3.
///
/// ```
/// use mlx_core::io::gguf::{GgmlType, GgufFile, GgufWriter, Metadata, Value};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("model.gguf");
/// let mut metadata = Metadata::default();
/// metadata.insert("general.architecture", "llama");
/// let mut writer = GgufWriter::new(metadata);
/// writer.floats("output_norm.weight", &[2], GgmlType::F32, &[1.0, 2.0])?;
/// writer.save(&path)?;
///
/// let file = GgufFile::open(&path)?;
/// assert_eq!(file.tensor("output_norm.weight")?.dequantize()?, [1.0, 2.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct GgufWriter<'a> {
    metadata: Metadata,
    tensors: Vec<Tensor<'a>>,
    names: HashSet<String>,
}

#[derive(Debug)]
struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    ggml_type: GgmlType,
    bytes: Cow<'a, [u8]>,
}

impl<'a> GgufWriter<'a> {
    /// A writer of a file with `metadata` and, so far, no tensors.
    #[must_use]
    pub fn new(metadata: Metadata) -> Self {
        Self {
            metadata,
            ..Self::default()
        }
    }

    /// Adds a tensor of the row-major `shape` that is already encoded.
    ///
    /// # Errors
    /// [`Error::Format`] if the name is taken, the shape has more than four
    /// dimensions, rows are no multiple of the block or `bytes` has another
    /// size than the shape says.
    pub fn blocks(
        &mut self,
        name: &str,
        shape: &[usize],
        ggml_type: GgmlType,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<()> {
        let bytes = bytes.into();
        check_shape(name, shape, ggml_type)?;
        let size = shape
            .iter()
            .try_fold(1_usize, |size, &dim| size.checked_mul(dim));
        if size.and_then(|size| ggml_type.bytes_for(size)) != Some(bytes.len()) {
            return Err(error(format!(
                "tensor `{name}`: {} bytes for shape {shape:?} of {ggml_type}",
                bytes.len()
            )));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(error(format!("tensor `{name}` is added twice")));
        }
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            ggml_type,
            bytes,
        });
        Ok(())
    }

    /// Adds a tensor of the row-major `shape`, encoding `values` as [`quantize`] does.
    ///
    /// # Errors
    /// As [`blocks`](Self::blocks) and [`quantize`].
    pub fn floats(
        &mut self,
        name: &str,
        shape: &[usize],
        ggml_type: GgmlType,
        values: &[f32],
    ) -> Result<()> {
        check_shape(name, shape, ggml_type)?;
        let bytes = quantize(ggml_type, values)?;
        self.blocks(name, shape, ggml_type, bytes)
    }

    /// Writes the file, which appears under `path` only once it is complete.
    ///
    /// The alignment is `general.alignment` of the metadata, 32 by default.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written and [`Error::Format`] if the
    /// metadata asks for an impossible alignment.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let alignment = alignment(&self.metadata).map_err(error)? as u64;
        let header = self.header(alignment);
        replace_file(path.as_ref(), |output| {
            output.put(&header)?;
            output.pad(header.len() as u64, alignment)?;
            for tensor in &self.tensors {
                output.put(&tensor.bytes)?;
                output.pad(tensor.bytes.len() as u64, alignment)?;
            }
            Ok(())
        })
    }

    fn header(&self, alignment: u64) -> Vec<u8> {
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(3_u32.to_le_bytes());
        put_len(&mut header, self.tensors.len());
        put_len(&mut header, self.metadata.len());
        for (key, value) in self.metadata.iter() {
            put_str(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0_u64;
        for tensor in &self.tensors {
            put_str(&mut header, &tensor.name);
            // Adding the tensor has checked the number of dimensions.
            let ndim = u32::try_from(tensor.shape.len()).unwrap_or(MAX_DIMS);
            header.extend(ndim.to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                put_len(&mut header, dim);
            }
            header.extend(tensor.ggml_type.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += (tensor.bytes.len() as u64).next_multiple_of(alignment);
        }
        header
    }
}

fn check_shape(name: &str, shape: &[usize], ggml_type: GgmlType) -> Result<()> {
    if shape.len() > MAX_DIMS as usize || shape.iter().any(|&dim| i32::try_from(dim).is_err()) {
        return Err(error(format!(
            "tensor `{name}`: shape {shape:?}, at most {MAX_DIMS} dimensions that fit 31 bits expected"
        )));
    }
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(ggml_type.block_len()) {
        return Err(error(format!(
            "tensor `{name}`: rows of {row} elements are no multiple of the {ggml_type} block of {}",
            ggml_type.block_len()
        )));
    }
    Ok(())
}

fn error(message: String) -> Error {
    Error::Format {
        what: "gguf file to write".to_owned(),
        message,
    }
}

fn put_len(header: &mut Vec<u8>, len: usize) {
    header.extend((len as u64).to_le_bytes());
}

fn put_str(header: &mut Vec<u8>, text: &str) {
    put_len(header, text.len());
    header.extend(text.as_bytes());
}

fn put_value(header: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($id:literal, $value:expr) => {{
            header.extend(u32::to_le_bytes($id));
            header.extend($value.to_le_bytes());
        }};
    }
    match value {
        Value::U8(value) => number!(0, value),
        Value::I8(value) => number!(1, value),
        Value::U16(value) => number!(2, value),
        Value::I16(value) => number!(3, value),
        Value::U32(value) => number!(4, value),
        Value::I32(value) => number!(5, value),
        Value::F32(value) => number!(6, value),
        Value::Bool(value) => number!(7, u8::from(*value)),
        Value::String(text) => {
            header.extend(8_u32.to_le_bytes());
            put_str(header, text);
        }
        Value::Array(array) => {
            header.extend(9_u32.to_le_bytes());
            put_array(header, array);
        }
        Value::U64(value) => number!(10, value),
        Value::I64(value) => number!(11, value),
        Value::F64(value) => number!(12, value),
    }
}

fn put_array(header: &mut Vec<u8>, array: &ValueArray) {
    macro_rules! numbers {
        ($id:literal, $values:expr) => {{
            header.extend(u32::to_le_bytes($id));
            put_len(header, $values.len());
            header.extend($values.iter().flat_map(|value| value.to_le_bytes()));
        }};
    }
    match array {
        ValueArray::U8(values) => numbers!(0, values),
        ValueArray::I8(values) => numbers!(1, values),
        ValueArray::U16(values) => numbers!(2, values),
        ValueArray::I16(values) => numbers!(3, values),
        ValueArray::U32(values) => numbers!(4, values),
        ValueArray::I32(values) => numbers!(5, values),
        ValueArray::F32(values) => numbers!(6, values),
        ValueArray::Bool(values) => {
            header.extend(7_u32.to_le_bytes());
            put_len(header, values.len());
            header.extend(values.iter().map(|&value| u8::from(value)));
        }
        ValueArray::String(texts) => {
            header.extend(8_u32.to_le_bytes());
            put_len(header, texts.len());
            for text in texts {
                put_str(header, text);
            }
        }
        ValueArray::Array(arrays) => {
            header.extend(9_u32.to_le_bytes());
            put_len(header, arrays.len());
            for array in arrays {
                put_array(header, array);
            }
        }
        ValueArray::U64(values) => numbers!(10, values),
        ValueArray::I64(values) => numbers!(11, values),
        ValueArray::F64(values) => numbers!(12, values),
    }
}
