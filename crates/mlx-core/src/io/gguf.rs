//! GGUF, the file format of llama.cpp: reading, dequantising, repacking for MLX, and writing.
//!
//! The reader is written for files from strangers. Every count, length, offset
//! and size is checked against the file before it is used, nothing is allocated
//! on the word of a header alone, and whatever is wrong becomes an
//! [`Error::Format`](crate::Error::Format) that names file and tensor.

mod arrays;
mod cursor;
mod dequant;
mod file;
mod limits;
mod metadata;
mod parse;
mod quantize;
mod repack;
mod types;
mod unpack;
mod write;

pub use arrays::{TensorArrays, TensorRead};
pub use dequant::dequantize;
pub use file::{GgufFile, TensorView};
pub use limits::Limits;
pub use metadata::{FromValue, Metadata, Value, ValueArray};
pub use parse::TensorInfo;
pub use quantize::quantize;
pub use repack::{Repacked, ScaleFormat, Scales};
pub use types::GgmlType;
pub use write::GgufWriter;
