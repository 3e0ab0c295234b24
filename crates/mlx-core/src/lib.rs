//! Arrays on Apple silicon, Linux CPUs and NVIDIA GPUs: a safe Rust interface to Apple's MLX.
//!
//! Arrays are lazy values: an operation records what to compute, and nothing runs until a result
//! is read or [`eval`] is called. Every operation is a plain function in [`ops`] and a method of
//! [`Array`], and returns a [`Result`]; no safe call panics, aborts or reads foreign memory.
//!
//! ```
//! use mlx_core::Array;
//!
//! let x = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2])?;
//! let y = (&x * 2.0 + &x)?.matmul(&x)?;
//! assert_eq!(y.shape(), [2, 2]);
//! assert_eq!(y.to_vec::<f32>()?, [21.0, 30.0, 45.0, 66.0]);
//! # Ok::<(), mlx_core::Error>(())
//! ```
//!
//! # Threads
//!
//! [`Array`] is `Send` and `Sync`. MLX's own graph is not safe to touch from two threads at once;
//! one process-wide lock, taken inside each call and released while a user's closure runs and while
//! a call waits for a CPU stream, makes it so. All threads share one stream for each device unless they ask for their own.

mod array;
mod device;
pub mod distributed;
mod dtype;
mod element;
mod error;
mod eval;
#[doc(hidden)]
pub mod ffi;
pub mod interop;
pub mod io;
pub mod kernel;
pub mod memory;
pub mod metal;
pub mod ops;
pub mod prelude;
mod shape;
mod stream;

pub use array::Array;
pub use array::index::{Ellipsis, Index, IndexOp, IntoIndex, NewAxis};
pub use array::iter::AxisIter;
pub use array::literal::{Nested, NestedOf};
pub use array::operators::Scalar;
pub use array::view::{ElementIter, Elements};
pub use device::{Device, DeviceInfo, DeviceType};
pub use dtype::{Dtype, DtypeCategory, FloatInfo, IntInfo, result_type};
pub use element::{Complex32, Element};
pub use error::{EmptyInput, Error, Result};
pub use eval::{async_eval, eval};
pub use ffi::ArraySlice;
pub use half::{bf16, f16};
pub use shape::{IntoShape, broadcast_shapes};
pub use stream::Stream;

/// The version of the MLX library in use, for example `"0.32.4"`.
pub fn mlx_version() -> &'static str {
    ffi::version()
}
