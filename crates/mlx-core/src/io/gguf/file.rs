use std::fmt;
use std::path::Path;

use super::limits::Limits;
use super::metadata::Metadata;
use super::parse::{Header, TensorInfo, parse};
use super::types::GgmlType;
use super::{dequant, repack};
use crate::ffi::mmap::map_file;
use crate::io::data::Data;
use crate::{Error, Result};

/// An open GGUF file: a validated header over memory-mapped tensor data.
///
/// Opening reads the header only; tensor data is touched when it is asked for.
/// Versions 2 and 3 in little-endian byte order are read.
///
/// The map shows the file as it is on disk, so a file must not be shortened
/// while it is open; replace it by renaming, as the writers of this crate do,
/// or use [`from_bytes`](Self::from_bytes).
///
/// ```no_run
/// use mlx_core::io::gguf::GgufFile;
///
/// let file = GgufFile::open("model.gguf")?;
/// println!("{}", file.metadata().str("general.architecture")?);
/// for tensor in file.tensors() {
///     println!("{} {:?} {}", tensor.name(), tensor.shape(), tensor.ggml_type());
/// }
/// # Ok::<(), mlx_core::Error>(())
/// ```
pub struct GgufFile {
    header: Header,
    data: Data,
    label: String,
}

impl GgufFile {
    /// Opens and validates the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be opened or mapped, [`Error::Format`]
    /// if its header is wrong in any way, and [`Error::Unsupported`] for
    /// version 1 and big-endian files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &Limits::default())
    }

    /// Opens the file at `path` with other limits on what its header may claim.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        Self::new(
            Data::Mapped(map_file(path)?),
            format!("gguf file `{}`", path.display()),
            limits,
        )
    }

    /// Validates a file that is already in memory.
    ///
    /// # Errors
    /// [`Error::Format`] and [`Error::Unsupported`] as for [`open`](Self::open).
    pub fn from_bytes(bytes: impl Into<Vec<u8>>, limits: &Limits) -> Result<Self> {
        Self::new(Data::Owned(bytes.into()), "gguf file".to_owned(), limits)
    }

    fn new(data: Data, label: String, limits: &Limits) -> Result<Self> {
        Ok(Self {
            header: parse(&data, &label, limits)?,
            data,
            label,
        })
    }

    /// The version of the file format: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// The metadata of the file.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.header.metadata
    }

    /// What the file says about each tensor, in file order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.header.tensors
    }

    /// Whether there is a tensor called `name`.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.header.index.contains_key(name)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::Format`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.header
            .index
            .get(name)
            .and_then(|&position| self.header.tensors.get(position))
            .map(|info| self.view(info))
            .ok_or_else(|| Error::Format {
                what: self.label.clone(),
                message: format!("tensor `{name}` is missing"),
            })
    }

    /// Every tensor with its data, in file order.
    pub fn views(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.header.tensors.iter().map(|info| self.view(info))
    }

    fn view<'a>(&'a self, info: &'a TensorInfo) -> TensorView<'a> {
        let bytes = info
            .start
            .checked_add(info.nbytes)
            .and_then(|end| self.data.get(info.start..end))
            .unwrap_or(&[]);
        TensorView {
            info,
            bytes,
            label: &self.label,
        }
    }
}

impl fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufFile")
            .field("label", &self.label)
            .field("version", &self.header.version)
            .field("metadata", &self.header.metadata.len())
            .field("tensors", &self.header.tensors.len())
            .finish()
    }
}

/// One tensor of a [`GgufFile`]: its description and its bytes.
#[derive(Clone, Copy)]
pub struct TensorView<'a> {
    info: &'a TensorInfo,
    bytes: &'a [u8],
    pub(super) label: &'a str,
}

impl<'a> TensorView<'a> {
    /// The name, such as `blk.0.attn_q.weight`.
    #[must_use]
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// The shape in row-major order, outermost dimension first.
    #[must_use]
    pub fn shape(&self) -> &'a [usize] {
        &self.info.shape
    }

    /// How the elements are stored.
    #[must_use]
    pub fn ggml_type(&self) -> GgmlType {
        self.info.ggml_type
    }

    /// The number of elements.
    #[must_use]
    pub fn size(&self) -> usize {
        self.info.size()
    }

    /// The stored bytes, rows one after the other.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements as 32-bit floats in row-major order.
    ///
    /// Exact for every type except `F64`, `I32` and `I64`, which are rounded.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for the types that need a codebook (`IQ1`, `IQ2`, `IQ3`) and for `Q1_0`.
    pub fn dequantize(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.size()];
        dequant::dequantize(self.ggml_type(), self.bytes, &mut values)
            .map_err(|error| self.name_tensor(error))?;
        Ok(values)
    }

    /// The tensor in one of MLX's quantised formats, if one holds it exactly.
    ///
    /// See [`Repacked`](repack::Repacked) for which types those are.
    #[must_use]
    pub fn repack(&self, scales: repack::ScaleFormat) -> Option<repack::Repacked> {
        repack::repack(self.ggml_type(), self.shape(), self.bytes, scales)
    }

    pub(super) fn name_tensor(&self, error: Error) -> Error {
        match error {
            Error::Unsupported(message) => Error::Unsupported(format!(
                "{}: tensor `{}`: {message}",
                self.label,
                self.name()
            )),
            Error::Format { message, .. } => Error::Format {
                what: self.label.to_owned(),
                message: format!("tensor `{}`: {message}", self.name()),
            },
            other => other,
        }
    }
}

impl fmt::Debug for TensorView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorView")
            .field("name", &self.name())
            .field("shape", &self.shape())
            .field("ggml_type", &self.ggml_type())
            .finish_non_exhaustive()
    }
}
