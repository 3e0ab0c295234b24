//! Initialisers: how fresh parameters are drawn.
//!
//! Each takes the shape of the parameter; random ones also take an explicit key, or draw from the
//! thread's own.

mod fans;
mod structured;

use mlx_core::{Array, Dtype, ops::random};

pub use fans::{Fan, glorot_normal, glorot_uniform, he_normal, he_uniform};
pub use structured::{identity, orthogonal, sparse};

use crate::Result;

/// The same number everywhere.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the shape is invalid.
pub fn constant(shape: &[i32], value: f64, dtype: Dtype) -> Result<Array> {
    Ok(mlx_core::ops::shape::broadcast_to(
        &Array::scalar_dtype(value, dtype)?,
        &shape,
    )?)
}

/// Drawn from a normal distribution, in 32-bit floats.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the shape is invalid.
pub fn normal(shape: &[i32], mean: f32, std: f32, key: Option<&Array>) -> Result<Array> {
    Ok(random::normal::<f32>(mean, std, &shape, key)?)
}

/// Drawn uniformly from `low..high`, in 32-bit floats.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the shape is invalid.
pub fn uniform(shape: &[i32], low: f32, high: f32, key: Option<&Array>) -> Result<Array> {
    Ok(random::uniform::<f32>(low, high, &shape, key)?)
}

/// √(1 / `dims`), the usual bound of fresh weights over `dims` inputs.
pub(crate) fn reciprocal_sqrt(dims: i32) -> f32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a number between zero and one"
    )]
    let root = (1.0 / f64::from(dims)).sqrt() as f32;
    root
}

/// Drawn uniformly between ±`bound`.
pub(crate) fn symmetric_uniform(bound: f32, shape: &[i32]) -> Result<Array> {
    uniform(shape, -bound, bound, None)
}

/// Drawn from a normal distribution of mean zero.
pub(crate) fn scaled_normal(scale: f32, shape: &[i32]) -> Result<Array> {
    normal(shape, 0.0, scale, None)
}
