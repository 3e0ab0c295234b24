//! The container of LLM Compressor, and NVIDIA's ModelOpt, which packs 4-bit floats alike.

use mlx_core::ops::arithmetic::{divide, multiply, subtract};
use mlx_core::ops::indexing::slice;
use mlx_core::ops::quantized::{QuantizationLayout, QuantizationMode, dequantize};
use mlx_core::ops::shape::reshape;
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;
use serde_json::Value;

use super::packed::{Grouped, sequential, transposed, unpack, words};
use super::{Settings, fp8, paths, take};
use crate::{Error, Result};

/// The formats that are read, as the configuration or one of its groups names them.
const FORMATS: &[&str] = &[
    "pack-quantized",
    "nvfp4-pack-quantized",
    "mxfp4-pack-quantized",
    "float-quantized",
    "int-quantized",
    "naive-quantized",
    "mixed-precision",
    "dense",
];

/// Converts the weights. Layers may be in different formats, so that each layer's arrays say which
/// it is in.
pub(super) fn convert(settings: Settings<'_>, weights: &mut Weights) -> Result<()> {
    let known = |settings: Settings<'_>| match settings.text("format") {
        Some(format) if !FORMATS.contains(&format) => settings.refuse("format"),
        _ => Ok(()),
    };
    if settings.text("format").is_none() {
        return settings.refuse("format");
    }
    known(settings)?;
    let mut schemes = Vec::new();
    let groups = settings.0.get("config_groups").and_then(Value::as_object);
    for group in groups.into_iter().flat_map(|groups| groups.values()) {
        known(Settings(group))?;
        schemes.extend(group.get("weights").filter(|scheme| scheme.is_object()));
    }
    let schemes: Vec<Settings<'_>> = schemes.into_iter().map(Settings).collect();
    for path in paths(weights, "weight_packed") {
        let scales = weights.get(&format!("{path}.weight_scale"));
        if weights.contains(&format!("{path}.weight_global_scale")) {
            let codes = take(weights, &path, "weight_packed")?;
            let scales = take(weights, &path, "weight_scale")?;
            let global = take(weights, &path, "weight_global_scale")?;
            let dense = divide(&nvfp4(&codes, &scales)?, &global.astype(Dtype::Float32)?)?;
            weights.insert(format!("{path}.weight"), dense.astype(Dtype::Bfloat16)?)?;
        } else if scales.is_some_and(|scales| scales.dtype() == Dtype::Uint8) {
            let codes = words(&take(weights, &path, "weight_packed")?)?;
            let scales = take(weights, &path, "weight_scale")?;
            weights.insert(format!("{path}.weight"), codes)?;
            weights.insert(format!("{path}.scales"), scales)?;
        } else {
            integers(&path, &schemes, weights)?;
        }
    }
    for path in paths(weights, "weight_scale") {
        scaled(&path, &schemes, weights)?;
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
fn integers(path: &str, schemes: &[Settings<'_>], weights: &mut Weights) -> Result<()> {
    let codes = words(&take(weights, path, "weight_packed")?)?;
    let scales = take(weights, path, "weight_scale")?;
    let shape = weights.take(&format!("{path}.weight_shape"));
    let bits = match stated_bits(&codes, shape.as_ref())? {
        Some(bits) => bits,
        // Without the shape, all groups have to agree.
        None => match schemes {
            [] => 4,
            [first, rest @ ..] => {
                let bits = first.number("num_bits").unwrap_or(4);
                if let Some(other) = rest
                    .iter()
                    .find(|other| other.number("num_bits") != Some(bits))
                {
                    return other.refuse("num_bits");
                }
                bits
            }
        },
    };
    if !matches!(bits, 4 | 8) {
        return Err(Error::config(
            "quantization_config.num_bits",
            format!("{bits} is not supported"),
        ));
    }
    let zeros = weights.take(&format!("{path}.weight_zero_point"));
    if let (None, [only]) = (&zeros, schemes)
        && only.flag("symmetric") == Some(false)
    {
        return only.refuse("symmetric");
    }
    let (rows, columns) = (codes.dim(0)?, codes.dim(-1)? * (32 / bits));
    let half = f32::from(1_u8 << (bits - 1));
    let zeros = match zeros {
        // Packed along the rows.
        Some(zeros) => {
            let zeros = unpack(&transposed(&words(&zeros)?)?, bits, &sequential(bits))?;
            let zeros = transposed(&zeros)?;
            slice(&zeros, &[0, 0], &[rows, zeros.dim(1)?])?
        }
        None => Array::full::<f32>(scales.shape(), half)?,
    };
    let groups = weights.take(&format!("{path}.weight_g_idx"));
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
    weight.insert(weights, path)
}

/// The bits of each code, from the shape that is stored beside them.
fn stated_bits(codes: &Array, shape: Option<&Array>) -> Result<Option<i32>> {
    let Some(shape) = shape else {
        return Ok(None);
    };
    let columns = shape.astype(Dtype::Int64)?.to_vec::<i64>()?.last().copied();
    let bits = i64::from(codes.dim(-1)?) * 32;
    let bits = columns
        .filter(|&columns| columns > 0)
        .map(|columns| bits / columns);
    Ok(bits.and_then(|bits| i32::try_from(bits).ok()))
}

/// 8-bit floats or integers with a scale per tensor, per row, per group of columns or per block.
fn scaled(path: &str, schemes: &[Settings<'_>], weights: &mut Weights) -> Result<()> {
    let scale = take(weights, path, "weight_scale")?;
    let weight = take(weights, path, "weight")?;
    let zeros = weights.take(&format!("{path}.weight_zero_point"));
    let block = block_of(&weight, &scale, schemes);
    let dense = match weight.dtype() {
        Dtype::Int8 => {
            let spread = |array: &Array| {
                let array = array.astype(Dtype::Float32)?;
                fp8::spread(path, &array, &weight, block)
            };
            let mut values = weight.astype(Dtype::Float32)?;
            if let Some(zeros) = &zeros {
                values = subtract(&values, &spread(zeros)?)?;
            }
            multiply(&values, &spread(&scale)?)?.astype(Dtype::Bfloat16)?
        }
        // Floats have no zero points, which some files hold for them nevertheless, all zero.
        _ => fp8::dequantized(path, &weight, &scale, block)?,
    };
    Ok(weights.insert(format!("{path}.weight"), dense)?)
}

/// Rows and columns that share a scale, where that is neither all of them nor a row.
fn block_of(weight: &Array, scale: &Array, schemes: &[Settings<'_>]) -> Option<(i32, i32)> {
    let (&[rows, columns], &[down, across]) = (weight.shape(), scale.shape()) else {
        return None;
    };
    if down == rows && across > 1 && columns % across == 0 {
        return Some((1, columns / across));
    }
    // The last block of a row or column may be a part of one.
    let fits = |&(height, width): &(i32, i32)| {
        let blocks = |size: i32, side: i32| size.saturating_add(side - 1) / side;
        blocks(rows, height) == down && blocks(columns, width) == across
    };
    let side = |block: &Value, index: usize| {
        let side = block.get(index).and_then(Value::as_i64)?;
        i32::try_from(side).ok().filter(|&side| side > 0)
    };
    let block = |scheme: &Settings<'_>| {
        let block = scheme.0.get("block_structure")?;
        Some((side(block, 0)?, side(block, 1)?))
    };
    schemes.iter().filter_map(block).find(fits)
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
