//! Behaviour of `mlx-core`, area by area.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation
)]

mod arguments;
mod calls;
mod core_parity;
mod cpu_convolution;
mod cpu_elementwise;
mod cpu_fused;
mod cpu_kernels;
mod cpu_packed;
mod ergonomics;
mod errors;
#[cfg(unix)]
mod fuzz;
mod indexing;
mod io_gguf;
mod io_gguf_arrays;
mod io_gguf_hostile;
mod io_npy;
mod io_safetensors;
mod kernels;
mod limits;
mod numpy_helpers;
mod soundness;
mod soundness_indexing;
mod soundness_kernels;
mod soundness_quantized;
mod threads;
