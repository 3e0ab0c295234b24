//! Raw bindings to Apple's MLX: our C shim over its C++ API, and how MLX is found and linked.
//!
//! The names are those of `shim/shim.h` without their `mlxs_` prefix; that header documents them.
//! Use the crate `mlx-core` for a safe interface.

#![allow(non_camel_case_types, missing_docs)]

#[cfg(feature = "vendor")]
pub mod vendor;

#[rustfmt::skip]
#[path = "bindings.gen.rs"]
mod bindings;

pub use bindings::*;
