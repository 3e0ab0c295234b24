//! 8-bit floats with a scale per block, per row or per tensor, as DeepSeek-V3 and Ministral 3 have them.

use mlx_core::ops::arithmetic::{multiply, power};
use mlx_core::ops::indexing::slice;
use mlx_core::ops::misc::view;
use mlx_core::ops::quantized::from_fp8;
use mlx_core::ops::shape::{contiguous, repeat_axis};
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;
use serde_json::Value;

use super::{Settings, paths, take};
use crate::{Error, Result};

/// `weight` with `weight_scale_inv`, which in spite of its name is what to multiply with.
pub(super) fn blocks(settings: Settings<'_>, weights: &mut Weights) -> Result<()> {
    if !matches!(settings.text("fmt"), None | Some("e4m3" | "float8_e4m3fn")) {
        return settings.refuse("fmt");
    }
    let block = block_size(settings)?;
    for path in paths(weights, "weight_scale_inv") {
        let scale = take(weights, &path, "weight_scale_inv")?;
        let weight = take(weights, &path, "weight")?;
        if block == Some((32, 32)) && scale.dtype() == Dtype::Uint8 {
            // Powers of two over 32 × 32 are mxfp8 with each row of scales repeated.
            let rows = weight.dim(-2)?;
            let scales = repeat_axis(&scale, 32, -2)?;
            let mut stops = scales.shape().to_vec();
            let axis = stops.len().saturating_sub(2);
            if let Some(stop) = stops.get_mut(axis) {
                *stop = rows;
            }
            let scales = slice(&scales, &vec![0; stops.len()], &stops)?;
            let codes = view(&contiguous(&weight, false)?, Dtype::Uint32)?;
            weights.insert(format!("{path}.weight"), codes)?;
            weights.insert(format!("{path}.scales"), contiguous(&scales, false)?)?;
            continue;
        }
        let dense = dequantized(&path, &weight, &scale, block)?;
        weights.insert(format!("{path}.weight"), dense)?;
    }
    // Static scales of activations, which are not quantised here.
    for part in ["activation_scale", "input_scale"] {
        weights.drop_suffix(&format!(".{part}"));
    }
    Ok(())
}

/// Rows and columns that share a scale.
fn block_size(settings: Settings<'_>) -> Result<Option<(i32, i32)>> {
    let Some(block) = settings
        .0
        .get("weight_block_size")
        .filter(|block| !block.is_null())
    else {
        return Ok(None);
    };
    let side = |index: usize| {
        let side = block.get(index).and_then(Value::as_i64)?;
        i32::try_from(side).ok().filter(|&side| side > 0)
    };
    match (side(0), side(1)) {
        (Some(rows), Some(columns)) => Ok(Some((rows, columns))),
        _ => settings.refuse("weight_block_size"),
    }
}

/// 8-bit floats times their scales, as bfloat16.
pub(super) fn dequantized(
    path: &str,
    weight: &Array,
    scale: &Array,
    block: Option<(i32, i32)>,
) -> Result<Array> {
    if weight.dtype() != Dtype::Uint8 {
        return Err(Error::weights(format!(
            "`{path}.weight` is {}, not in 8-bit floats",
            weight.dtype()
        )));
    }
    let scale = match scale.dtype() {
        // A bare exponent.
        Dtype::Uint8 => power(
            &Array::scalar::<f32>(2.0)?,
            &(scale.astype(Dtype::Float32)? - 127.0)?,
        )?,
        _ => scale.astype(Dtype::Float32)?,
    };
    let values = from_fp8(weight, Dtype::Float32)?;
    let scale = spread(path, &scale, weight, block)?;
    Ok(multiply(&values, &scale)?.astype(Dtype::Bfloat16)?)
}

/// Scales of blocks as an array that fits the weight; those of rows or of the tensor as they are.
pub(super) fn spread(
    path: &str,
    scale: &Array,
    weight: &Array,
    block: Option<(i32, i32)>,
) -> Result<Array> {
    let (rows, columns) = match block {
        Some(block) if scale.ndim() == weight.ndim() && scale.ndim() > 1 => block,
        _ => return Ok(scale.clone()),
    };
    let grown = repeat_axis(&repeat_axis(scale, rows, -2)?, columns, -1)?;
    let fits = grown
        .shape()
        .iter()
        .zip(weight.shape())
        .all(|(grown, size)| grown >= size);
    if !fits {
        return Err(Error::weights(format!(
            "`{path}` has {:?} scales for {:?} weights",
            scale.shape(),
            weight.shape()
        )));
    }
    Ok(slice(&grown, &vec![0; weight.ndim()], weight.shape())?)
}
