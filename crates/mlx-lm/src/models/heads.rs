//! Between rows of features and heads of attention.

use mlx_core::Array;
use mlx_core::ops::shape::{reshape, transpose_axes};

use crate::Result;

/// Projected features as heads: `[B, L, H · D] → [B, H, L, D]`.
pub(super) fn split(projected: &Array, heads: i32) -> Result<Array> {
    let (batch, length) = (projected.dim(0)?, projected.dim(1)?);
    let heads_last = reshape(projected, &[batch, length, heads, -1])?;
    Ok(transpose_axes(&heads_last, &[0, 2, 1, 3])?)
}

/// The heads' outputs side by side: `[B, H, L, D] → [B, L, H · D]`.
pub(super) fn merge(output: &Array) -> Result<Array> {
    let (batch, length) = (output.dim(0)?, output.dim(2)?);
    let heads_last = transpose_axes(output, &[0, 2, 1, 3])?;
    Ok(reshape(&heads_last, &[batch, length, -1])?)
}
