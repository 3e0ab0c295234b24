//! Safetensors, the usual format of published weights: reading of single tensors or of all, sharded
//! files, writing.
//!
//! Opening a file reads its header only. What is asked for is then copied from the mapped file into
//! arrays of its own; what is not asked for stays on the disk.
//!
//! The 8-bit floats of the format (`F8_E4M3`, `F8_E5M2`, `F8_E8M0`, …) are read
//! as `Uint8`, because MLX has no dtype for them; see
//! [`from_fp8`](crate::ops::quantized::from_fp8).

mod ahead;
mod file;
mod header;
mod save;

pub use file::{SafetensorsFile, load_safetensors};
pub use save::save_safetensors;
