//! Arrays from and to other crates' types, each behind the feature of its name.
//!
//! `half` and `num-complex` are always there: [`f16`](crate::f16), [`bf16`](crate::bf16) and
//! [`Complex32`](crate::Complex32) are element types.

#[cfg(feature = "bytemuck")]
mod bytemuck;
#[cfg(feature = "ndarray")]
mod ndarray;
#[cfg(feature = "serde")]
mod serde;

#[cfg(feature = "dlpack")]
pub use crate::ffi::dlpack;
