//! Convolutions and their transposes, over one to three spatial axes.
//!
//! Layouts are channels-last: inputs `[N, spatial.., in]`, weights `[out, kernel.., in / groups]`.

mod forward;
mod transposed;

pub use forward::{Conv, Conv1d, Conv2d, Conv3d};
pub use transposed::{ConvTranspose, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d};

use mlx_core::Array;

use crate::{Result, init};

/// Weights drawn uniformly from ±√(1 / fan-in), and offsets of zero.
fn fresh(shape: &[i32], bias: bool) -> Result<(Array, Option<Array>)> {
    let fan_in = shape
        .iter()
        .skip(1)
        .fold(1_i32, |fan, &dim| fan.saturating_mul(dim));
    let weight = init::symmetric_uniform(init::reciprocal_sqrt(fan_in), shape)?;
    let bias = match shape.first() {
        Some(&out) if bias => Some(Array::zeros::<f32>(&[out])?),
        _ => None,
    };
    Ok((weight, bias))
}
