//! The container of LLM Compressor, and NVIDIA's ModelOpt, which packs 4-bit floats alike.

use mlx_core::ops::arithmetic::{divide, multiply};
use mlx_core::ops::indexing::slice;
use mlx_core::ops::quantized::{QuantizationLayout, QuantizationMode, dequantize};
use mlx_core::ops::shape::reshape;
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;
use serde_json::Value;

use super::packed::{Grouped, sequential, transposed, unpack, words};
use super::{Settings, fp8, paths, take};
use crate::{Error, Result};

/// Converts the weights by the format that the configuration names.
pub(super) fn convert(settings: Settings<'_>, weights: &mut Weights) -> Result<()> {
    let scheme = settings
        .0
        .get("config_groups")
        .and_then(Value::as_object)
        .and_then(|groups| groups.values().next())
        .and_then(|group| group.get("weights"));
    let scheme = Settings(scheme.unwrap_or(&Value::Null));
    match settings.text("format").unwrap_or_default() {
        "pack-quantized" => integers(scheme, weights)?,
        "nvfp4-pack-quantized" => {
            for path in paths(weights, "weight_packed") {
                let codes = take(weights, &path, "weight_packed")?;
                let scales = take(weights, &path, "weight_scale")?;
                let global = take(weights, &path, "weight_global_scale")?;
                let dense = divide(&nvfp4(&codes, &scales)?, &global.astype(Dtype::Float32)?)?;
                weights.insert(format!("{path}.weight"), dense.astype(Dtype::Bfloat16)?)?;
            }
        }
        "mxfp4-pack-quantized" => {
            for path in paths(weights, "weight_packed") {
                let codes = words(&take(weights, &path, "weight_packed")?)?;
                let scales = take(weights, &path, "weight_scale")?;
                weights.insert(format!("{path}.weight"), codes)?;
                weights.insert(format!("{path}.scales"), scales)?;
            }
        }
        "float-quantized" | "int-quantized" | "naive-quantized" => scaled(weights)?,
        "dense" => {}
        _ => return settings.refuse("format"),
    }
    // Scales of activations and caches, which are not quantised here.
    for part in [
        "input_global_scale",
        "input_scale",
        "input_zero_point",
        "k_scale",
        "v_scale",
    ] {
        weights.drop_suffix(&format!(".{part}"));
    }
    Ok(())
}

/// `weight_packed [out, in · bits / 32]`: integers that are stored from zero on.
fn integers(scheme: Settings<'_>, weights: &mut Weights) -> Result<()> {
    let bits = scheme.number("num_bits").unwrap_or(4);
    if !matches!(bits, 4 | 8) {
        return scheme.refuse("num_bits");
    }
    if scheme.flag("symmetric") == Some(false)
        && !weights
            .keys()
            .any(|key| key.ends_with(".weight_zero_point"))
    {
        return scheme.refuse("symmetric");
    }
    for path in paths(weights, "weight_packed") {
        let codes = words(&take(weights, &path, "weight_packed")?)?;
        let scales = take(weights, &path, "weight_scale")?;
        let (rows, columns) = (codes.dim(0)?, codes.dim(-1)? * (32 / bits));
        let half = f32::from(1_u8 << (bits - 1));
        let zeros = match weights.take(&format!("{path}.weight_zero_point")) {
            // Packed along the rows.
            Some(zeros) => {
                let zeros = unpack(&transposed(&words(&zeros)?)?, bits, &sequential(bits))?;
                let zeros = transposed(&zeros)?;
                slice(&zeros, &[0, 0], &[rows, zeros.dim(1)?])?
            }
            None => Array::full::<f32>(scales.shape(), half)?,
        };
        let groups = weights.take(&format!("{path}.weight_g_idx"));
        let _shape = weights.take(&format!("{path}.weight_shape"));
        if columns % scales.dim(-1)?.max(1) != 0 {
            return Err(Error::weights(format!(
                "`{path}` has {} groups for {columns} columns",
                scales.dim(-1)?
            )));
        }
        let weight = Grouped {
            codes,
            bits,
            scales,
            zeros,
            groups: groups.filter(|groups| groups.shape() == [columns]),
        };
        weight.insert(weights, &path)?;
    }
    Ok(())
}

/// 8-bit floats or integers with a scale per tensor or per row.
fn scaled(weights: &mut Weights) -> Result<()> {
    for path in paths(weights, "weight_scale") {
        let scale = take(weights, &path, "weight_scale")?;
        let weight = take(weights, &path, "weight")?;
        let dense = match weight.dtype() {
            Dtype::Int8 => {
                let scale = scale.astype(Dtype::Float32)?;
                multiply(&weight.astype(Dtype::Float32)?, &scale)?.astype(Dtype::Bfloat16)?
            }
            _ => fp8::dequantized(&path, &weight, &scale, None)?,
        };
        weights.insert(format!("{path}.weight"), dense)?;
    }
    Ok(())
}

/// ModelOpt: 4-bit floats in groups of 16, whose scales are multiplied with one of the tensor.
pub(super) fn modelopt(settings: Settings<'_>, weights: &mut Weights) -> Result<()> {
    // Exports keep the settings in a file of their own, one level deeper.
    let inner = settings.0.get("quantization").map_or(settings, Settings);
    if inner.text("quant_algo") != Some("NVFP4") {
        return inner.refuse("quant_algo");
    }
    for path in paths(weights, "weight_scale_2") {
        let global = take(weights, &path, "weight_scale_2")?;
        let scales = take(weights, &path, "weight_scale")?;
        let codes = take(weights, &path, "weight")?;
        let dense = multiply(&nvfp4(&codes, &scales)?, &global.astype(Dtype::Float32)?)?;
        weights.insert(format!("{path}.weight"), dense.astype(Dtype::Bfloat16)?)?;
    }
    for part in ["input_scale", "k_scale", "v_scale"] {
        weights.drop_suffix(&format!(".{part}"));
    }
    Ok(())
}

/// 4-bit floats `[out, in / 2]` with 8-bit float scales `[out, in / 16]`, without the scale of the
/// whole tensor, which MLX's layers have no place for.
fn nvfp4(codes: &Array, scales: &Array) -> Result<Array> {
    let layout = QuantizationLayout::of(QuantizationMode::Nvfp4);
    let codes = words(codes)?;
    let dense = dequantize(&codes, scales, None, layout, Some(Dtype::Float32))?;
    let shape = [codes.dim(0)?, -1];
    Ok(reshape(&dense, &shape)?)
}
