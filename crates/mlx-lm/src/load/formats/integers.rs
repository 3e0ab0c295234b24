//! AWQ ("AWQ: Activation-aware Weight Quantization", 2023) and GPTQ ("GPTQ: Accurate Post-Training
//! Quantization", 2022): integers with a scale and a zero point per group, each packed in an order of
//! its own.

use mlx_core::ops::logical::bitwise_and;
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;

use super::packed::{Grouped, pack, sequential, transposed, unpack, words};
use super::{Settings, paths, take};
use crate::{Error, Result};

/// Where AWQ keeps the eight columns of a word: the even ones in the lower half.
const AWQ_ORDER: [i32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// `qweight [in, out / 8]`, packed along the outputs.
pub(super) fn awq(settings: Settings<'_>, weights: &mut Weights) -> Result<()> {
    let bits = settings
        .number("bits")
        .or(settings.number("w_bit"))
        .unwrap_or(4);
    if bits != 4 {
        return settings.refuse("bits");
    }
    if !matches!(settings.text("version"), None | Some("gemm" | "GEMM")) {
        return settings.refuse("version");
    }
    for path in paths(weights, "qweight") {
        let codes = unpack(&words(&take(weights, &path, "qweight")?)?, 4, &AWQ_ORDER)?;
        let scales = transposed(&take(weights, &path, "scales")?)?;
        let zeros = match weights.take(&format!("{path}.qzeros")) {
            Some(zeros) => transposed(&unpack(&words(&zeros)?, 4, &AWQ_ORDER)?)?,
            None => middle(&scales, 4)?,
        };
        let codes = pack(&transposed(&codes)?, 4)?;
        let weight = Grouped {
            codes,
            bits: 4,
            scales,
            zeros,
            groups: None,
        };
        weight.insert(weights, &path)?;
    }
    Ok(())
}

/// `qweight [in · bits / 32, out]`, packed along the inputs; zero points are stored less one, except
/// in the second version of the format.
pub(super) fn gptq(settings: Settings<'_>, weights: &mut Weights) -> Result<()> {
    let bits = settings.number("bits").unwrap_or(4);
    if !matches!(bits, 2 | 4 | 8) {
        return settings.refuse("bits");
    }
    let stored_less = match settings.text("checkpoint_format") {
        None | Some("gptq") => 1,
        Some("gptq_v2") => 0,
        Some(_) => return settings.refuse("checkpoint_format"),
    };
    for path in paths(weights, "qweight") {
        let codes = transposed(&words(&take(weights, &path, "qweight")?)?)?;
        let scales = transposed(&take(weights, &path, "scales")?)?;
        let zeros = match weights.take(&format!("{path}.qzeros")) {
            Some(zeros) => {
                let zeros = unpack(&words(&zeros)?, bits, &sequential(bits))?;
                // The least zero point is stored as the largest code.
                let zeros = bitwise_and(
                    &(zeros + &Array::scalar::<u32>(stored_less)?)?,
                    &Array::scalar::<u32>((1_u32 << bits) - 1)?,
                )?;
                transposed(&zeros)?
            }
            None => middle(&scales, bits)?,
        };
        let columns = codes.dim(-1)? * (32 / bits);
        let groups = match weights.take(&format!("{path}.g_idx")) {
            Some(groups) => reordered(&path, groups, columns, scales.dim(-1)?)?,
            None => None,
        };
        let weight = Grouped {
            codes,
            bits,
            scales,
            zeros,
            groups,
        };
        weight.insert(weights, &path)?;
    }
    Ok(())
}

/// The zero point of symmetric weights, which do not store it.
fn middle(scales: &Array, bits: i32) -> Result<Array> {
    let half = f32::from(1_u8 << (bits - 1));
    Ok(Array::full::<f32>(scales.shape(), half)?)
}

/// The group of each column, or `None` if they follow one another as if nothing was said.
fn reordered(path: &str, groups: Array, columns: i32, count: i32) -> Result<Option<Array>> {
    let bad = |message: String| Error::weights(format!("`{path}.g_idx` {message}"));
    if groups.shape() != [columns] {
        return Err(bad(format!(
            "has shape {:?} for {columns} columns",
            groups.shape()
        )));
    }
    let numbers = groups.astype(Dtype::Int32)?.to_vec::<i32>()?;
    if let Some(wrong) = numbers.iter().find(|&&group| group < 0 || group >= count) {
        return Err(bad(format!("names group {wrong} of {count}")));
    }
    let size = columns / count.max(1);
    let in_order = (0..)
        .zip(&numbers)
        .all(|(column, &group)| group == column / size.max(1));
    Ok((!in_order).then_some(groups))
}
