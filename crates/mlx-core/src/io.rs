//! Arrays in files: [`safetensors`](mod@safetensors), [`gguf`] and [`npy`] (with npz).
//!
//! Readers take files from strangers: headers are checked against the file
//! before they are believed, and whatever is wrong is an
//! [`Error::Format`](crate::Error::Format) that names file and array. Writers
//! write beside the target, sync, and rename, so that a file is complete or absent.

#[cfg(target_endian = "big")]
compile_error!("the file formats and MLX itself are little-endian");

mod atomic;
mod data;
mod dense;
pub mod gguf;
pub mod npy;
pub mod safetensors;

pub use npy::{load_npy, load_npz, save_npy, save_npz, save_npz_compressed};
pub use safetensors::{SafetensorsFile, load_safetensors, save_safetensors};
