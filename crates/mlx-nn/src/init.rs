//! How fresh parameters are drawn.

use mlx_core::{Array, ops::random};

use crate::Result;

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
    Ok(random::uniform::<f32>(-bound, bound, &shape, None)?)
}

/// Drawn from a normal distribution of mean zero.
pub(crate) fn scaled_normal(scale: f32, shape: &[i32]) -> Result<Array> {
    Ok(random::normal::<f32>(0.0, scale, &shape, None)?)
}
