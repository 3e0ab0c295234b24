//! Weights of −1, 0 and 1 ("The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits", 2024).

use mlx_core::ops::arithmetic::reciprocal;
use mlx_core::ops::logical::{bitwise_and, right_shift};
use mlx_core::ops::shape::{broadcast_to, concatenate, contiguous};
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;

use super::packed::pack;
use super::{Settings, paths, take};
use crate::{Error, Result};

/// `weight [out / 4, in]` in bytes, of which each holds one row of each quarter, with one scale.
///
/// As 2-bit integers `q` with `(q − 1) · s` they are MLX's own. Activations, which the original
/// rounds to 8 bits, keep their precision.
pub(super) fn ternary(settings: Settings<'_>, weights: &mut Weights) -> Result<()> {
    // Weights that were ternary from the start of training divide by the stored scale.
    let divides = settings.text("linear_class") != Some("autobitlinear");
    for path in paths(weights, "weight_scale") {
        let scale = take(weights, &path, "weight_scale")?;
        let packed = take(weights, &path, "weight")?;
        if packed.dtype() != Dtype::Uint8 || packed.ndim() != 2 || scale.size() != 1 {
            return Err(Error::weights(format!(
                "`{path}` is not packed as ternary weights with one scale"
            )));
        }
        let mask = Array::scalar::<u8>(3)?;
        let quarters = (0..4_u8)
            .map(|quarter| {
                let shifted = right_shift(&packed, &Array::scalar::<u8>(2 * quarter)?)?;
                bitwise_and(&shifted, &mask)
            })
            .collect::<mlx_core::Result<Vec<_>>>()?;
        let codes = concatenate(&quarters.iter().collect::<Vec<_>>(), 0)?;
        let (rows, columns) = (codes.dim(0)?, codes.dim(1)?);
        let group_size = [128, 64, 32]
            .into_iter()
            .find(|size| columns % size == 0)
            .ok_or_else(|| {
                Error::weights(format!("`{path}` has {columns} columns, no multiple of 32"))
            })?;
        let scale = if divides { reciprocal(&scale)? } else { scale };
        let scales = broadcast_to(&scale.reshape(&[1, 1])?, &[rows, columns / group_size])?;
        let scales = contiguous(&scales, false)?;
        weights.insert(format!("{path}.weight"), pack(&codes, 2)?)?;
        weights.insert(format!("{path}.biases"), (-&scales)?)?;
        weights.insert(format!("{path}.scales"), scales)?;
    }
    Ok(())
}
