//! Operands that fit together, for ops that random shapes would never satisfy.

use std::collections::HashMap;

use mlx_core::ops::quantized::{QuantizationLayout, QuantizationMode, quantize};
use mlx_core::{Array, Dtype, Result, ops};

use super::hostile::Rng;

type Arrays = HashMap<&'static str, Vec<Array>>;
type Numbers = HashMap<&'static str, Vec<i32>>;

/// Texts that mean something to a parameter.
pub(super) fn texts(family: &str, name: &str) -> &'static [&'static str] {
    match (family, name) {
        ("quantized", "mode") => &["affine", "affine", "mxfp4", "mxfp8", "nvfp4"],
        ("conv", "mode") => &["full", "same", "valid"],
        (_, "mode" | "pad_mode") => &["constant", "edge", "reflect", "symmetric"],
        (_, "norm") => &["backward", "ortho", "forward"],
        (_, "side") => &["left", "right"],
        (_, "indexing") => &["xy", "ij"],
        (_, "uplo") => &["L", "U"],
        (_, "ord") => &["fro", "nuc", "f"],
        (_, "mask_mode") => &["", "causal"],
        (_, "subscripts") => &[
            "ij,jk->ik",
            "ij,ij->",
            "ii",
            "ii->i",
            "i,j->ij",
            "...ij,...jk->...ik",
            "ij->ji",
            "ij,kj",
            "i,i",
            "ijk->k",
            "ij,jk,kl->il",
            "ij->jij",
            "ij,jk->iq",
            "i.j->ij",
        ],
        _ => &[],
    }
}

fn values(rng: &mut Rng, shape: &[i32], dtype: Dtype) -> Result<Array> {
    let size: i32 = shape.iter().product();
    let data: Vec<f32> = (0..size)
        .map(|_| f32::from(i16::try_from(rng.int(-500, 500)).unwrap()) / 100.0)
        .collect();
    Array::from_slice(&data, shape)?.astype(dtype)
}

fn indices(rng: &mut Rng, shape: &[i32], count: i32) -> Result<Array> {
    let size: i32 = shape.iter().product();
    let slack = if rng.chance(20) { 3 } else { 0 };
    let data: Vec<u32> = (0..size)
        .map(|_| u32::try_from(rng.int(0, count - 1 + slack)).unwrap())
        .collect();
    let array = Array::from_slice(&data, shape)?;
    if rng.chance(40) {
        return ops::arithmetic::maximum(&array, &array);
    }
    Ok(array)
}

fn float(rng: &mut Rng) -> Dtype {
    rng.pick(&[
        Dtype::Float32,
        Dtype::Float32,
        Dtype::Float16,
        Dtype::Bfloat16,
        Dtype::Float64,
    ])
}

fn size(rng: &mut Rng) -> i32 {
    rng.pick(&[1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33])
}

/// Operands and numbers for an op, or none if any will do, and the mode in which weights are packed.
pub(super) fn find(
    rng: &mut Rng,
    family: &str,
    name: &str,
) -> Result<(Arrays, Numbers, Option<&'static str>)> {
    let mut arrays = Arrays::new();
    let mut numbers = Numbers::new();
    let mut mode = None;
    match family {
        "linalg_basic" => products(rng, name, &mut arrays)?,
        "quantized" => mode = Some(quantised(rng, name, &mut arrays, &mut numbers)?),
        "conv" => convolution(rng, name, &mut arrays, &mut numbers)?,
        "fast" => fused(rng, name, &mut arrays, &mut numbers)?,
        "linalg" => {
            let n = rng.pick(&[1, 2, 3, 5, 8]);
            let m = if matches!(name, "qr" | "svd" | "pinv" | "lu") {
                size(rng)
            } else {
                n
            };
            let dtype = rng.pick(&[Dtype::Float32, Dtype::Float32, Dtype::Float64]);
            let batch = rng.pick(&[&[][..], &[2], &[0]]);
            let of = |n: i32, m: i32| [batch, &[n, m]].concat();
            arrays.insert("a", vec![values(rng, &of(n, m), dtype)?]);
            let columns = size(rng);
            arrays.insert("b", vec![values(rng, &of(n, columns), dtype)?]);
            if name == "cross" {
                for operand in ["a", "b"] {
                    arrays.insert(operand, vec![values(rng, &[2, 3], dtype)?]);
                }
                numbers.insert("axis", vec![-1]);
            }
        }
        "indexing" => indexing(rng, name, &mut arrays, &mut numbers)?,
        "fft" => {
            let (n, frames) = (size(rng) + 1, size(rng));
            if name == "istft" {
                let one_sided = values(rng, &[frames, n / 2 + 1], Dtype::Complex64)?;
                arrays.insert("a", vec![one_sided]);
                numbers.insert("n_fft", vec![n / 2 * 2]);
            } else if name == "stft" {
                arrays.insert("a", vec![values(rng, &[4 * n], Dtype::Float32)?]);
                numbers.insert("n_fft", vec![n]);
            } else if name.ends_with(['n', '2']) {
                arrays.insert("a", vec![values(rng, &[n, frames], Dtype::Float32)?]);
                numbers.insert("axes", vec![0, 1]);
                if rng.chance(50) {
                    numbers.insert("n", vec![frames, n]);
                }
            }
        }
        "random" if name == "multivariate_normal" => {
            let n = size(rng);
            arrays.insert("mean", vec![values(rng, &[n], Dtype::Float32)?]);
            arrays.insert("cov", vec![Array::eye::<f32>(n, n, 0)?]);
            numbers.insert("shape", vec![3]);
        }
        "misc" if name == "searchsorted" => {
            arrays.insert("sorted", vec![Array::arange::<f32>(0.0, 9.0, 1.0)?]);
            arrays.insert("values", vec![values(rng, &[4], Dtype::Float32)?]);
        }
        _ => {}
    }
    Ok((arrays, numbers, mode))
}

fn products(rng: &mut Rng, name: &str, arrays: &mut Arrays) -> Result<()> {
    let (m, k, n) = (size(rng), size(rng), size(rng));
    let dtype = float(rng);
    match name {
        "einsum" => {
            let count = 1 + rng.below(3);
            let operands = (0..count)
                .map(|_| values(rng, &[k, k], dtype))
                .collect::<Result<_>>()?;
            arrays.insert("operands", operands);
        }
        "gather_mm" => {
            let (left, right) = (rng.int(1, 4), rng.int(1, 4));
            arrays.insert("a", vec![values(rng, &[left, m, k], dtype)?]);
            arrays.insert("b", vec![values(rng, &[right, k, n], dtype)?]);
            arrays.insert("lhs_indices", vec![indices(rng, &[5], left)?]);
            arrays.insert("rhs_indices", vec![indices(rng, &[5], right)?]);
        }
        "segmented_mm" => {
            arrays.insert("a", vec![values(rng, &[m, k], dtype)?]);
            arrays.insert("b", vec![values(rng, &[k, n], dtype)?]);
            arrays.insert("segments", vec![indices(rng, &[3, 2], k)?]);
        }
        "block_masked_mm" => {
            let (m, k, n) = (rng.pick(&[33, 64]), rng.pick(&[32, 65]), 64);
            arrays.insert("a", vec![values(rng, &[m, k], dtype)?]);
            arrays.insert("b", vec![values(rng, &[k, n], dtype)?]);
            let blocks = |size: i32| (size + 63) / 64;
            let mask =
                |rows: i32, columns: i32| Array::ones::<bool>(&[blocks(rows), blocks(columns)]);
            arrays.insert("mask_out", vec![mask(m, n)?]);
            arrays.insert("mask_lhs", vec![mask(m, k)?]);
            arrays.insert("mask_rhs", vec![mask(k, n)?]);
        }
        "hadamard_transform" => {
            let width = rng.pick(&[2, 4, 12, 16, 20, 28, 64]);
            arrays.insert("a", vec![values(rng, &[m, width], dtype)?]);
        }
        _ => {
            let batch = rng.pick(&[&[][..], &[2], &[1, 3]]);
            let of = |rows: i32, columns: i32| [batch, &[rows, columns]].concat();
            let second = match name {
                "inner" => of(n, k),
                "vecdot" => of(m, k),
                _ => of(k, n),
            };
            let left = values(rng, &of(m, k), dtype)?;
            let right = values(rng, &second, dtype)?;
            for names in [["lhs", "rhs"], ["a", "b"]] {
                arrays.insert(names[0], vec![left.clone()]);
                arrays.insert(names[1], vec![right.clone()]);
            }
            arrays.insert("c", vec![values(rng, &[n], dtype)?]);
        }
    }
    Ok(())
}

fn quantised(
    rng: &mut Rng,
    name: &str,
    arrays: &mut Arrays,
    numbers: &mut Numbers,
) -> Result<&'static str> {
    let global = name.ends_with("global_scale");
    let mode = rng.pick(&[
        if global {
            QuantizationMode::Nvfp4
        } else {
            QuantizationMode::Affine
        },
        QuantizationMode::Affine,
        QuantizationMode::Mxfp4,
        QuantizationMode::Mxfp8,
        QuantizationMode::Nvfp4,
    ]);
    let (group, bits) = match mode {
        QuantizationMode::Affine => (rng.pick(&[32, 64, 128]), rng.pick(&[1, 2, 3, 4, 5, 6, 8])),
        QuantizationMode::Mxfp4 => (32, 4),
        QuantizationMode::Mxfp8 => (32, 8),
        _ => (16, 4),
    };
    let layout = QuantizationLayout {
        group_size: Some(group),
        bits: Some(bits),
        mode,
    };
    let dtype = rng.pick(&[Dtype::Float32, Dtype::Float16, Dtype::Bfloat16]);
    let (rows, n, k) = (size(rng), size(rng), group * rng.int(1, 2));
    let experts = rng.int(1, 3);
    let stacked = name.starts_with("gather");
    let shape = if stacked {
        vec![experts, n, k]
    } else {
        vec![n, k]
    };
    let dense = values(rng, &shape, dtype)?;
    if global {
        arrays.insert("global_scale", vec![Array::scalar(0.5f32)?]);
    }
    if name.starts_with("quantize_with") || name == "quantize" || name == "to_fp8" {
        arrays.insert("w", vec![dense.clone()]);
        arrays.insert("a", vec![dense]);
    } else {
        let packed = quantize(&dense, layout)?;
        arrays.insert("w", vec![packed.weight]);
        arrays.insert("scales", vec![packed.scales.clone()]);
        arrays.insert("w_scales", vec![packed.scales]);
        if let Some(biases) = packed.biases {
            arrays.insert("biases", vec![biases]);
        }
        let inner = if rng.chance(70) { k } else { n };
        let x = if stacked {
            vec![experts, rows, inner]
        } else {
            vec![rows, inner]
        };
        arrays.insert("x", vec![values(rng, &x, dtype)?]);
        if stacked {
            arrays.insert("lhs_indices", vec![indices(rng, &[4], experts)?]);
            arrays.insert("rhs_indices", vec![indices(rng, &[4], experts)?]);
        }
    }
    numbers.insert("group_size", vec![group]);
    numbers.insert("bits", vec![bits]);
    if rng.chance(20) {
        misfit(rng, arrays)?;
    }
    Ok(mode.as_str())
}

/// Gives one of the parts of packed weights a shape that has to do with its own, and rarely fits.
fn misfit(rng: &mut Rng, arrays: &mut Arrays) -> Result<()> {
    let name = rng.pick(&["w", "scales", "w_scales", "biases"]);
    let Some(part) = arrays.get(name).and_then(|parts| parts.first()) else {
        return Ok(());
    };
    let mut shape = part.shape().to_vec();
    let axis = rng.below(shape.len());
    match rng.below(4) {
        0 => shape[axis] = rng.pick(&[0, 1, shape[axis] + 1, 2 * shape[axis]]),
        1 => shape.insert(axis, rng.pick(&[1, 1, 2])),
        2 if shape.len() > 1 => {
            shape.remove(axis);
        }
        _ => shape.reverse(),
    }
    let other = Array::ones_dtype(&shape, part.dtype())?;
    // MLX wants biases as it wants scales.
    if name == "scales" && rng.chance(50) && arrays.contains_key("biases") {
        arrays.insert("biases", vec![other.clone()]);
    }
    arrays.insert(name, vec![other]);
    Ok(())
}

fn convolution(
    rng: &mut Rng,
    name: &str,
    arrays: &mut Arrays,
    numbers: &mut Numbers,
) -> Result<()> {
    let axes = name.chars().find_map(|c| c.to_digit(10)).unwrap_or(2) as usize;
    let groups = rng.pick(&[1, 1, 2]);
    let (channels, filters) = (groups * rng.int(1, 3), groups * rng.int(1, 3));
    let mut input = vec![rng.int(1, 2)];
    let mut weight = vec![filters];
    for _ in 0..axes {
        input.push(rng.int(3, 7));
        weight.push(rng.int(1, 3));
    }
    input.push(channels);
    weight.push(channels / groups);
    let dtype = float(rng);
    arrays.insert("input", vec![values(rng, &input, dtype)?]);
    arrays.insert("weight", vec![values(rng, &weight, dtype)?]);
    numbers.insert("groups", vec![groups]);
    numbers.insert("output_padding", vec![0; axes]);
    Ok(())
}

fn fused(rng: &mut Rng, name: &str, arrays: &mut Arrays, numbers: &mut Numbers) -> Result<()> {
    let dtype = float(rng);
    let (batch, length, width) = (rng.int(1, 2), size(rng), 2 * rng.int(1, 16));
    match name {
        "cross_entropy" => {
            arrays.insert("logits", vec![values(rng, &[length, width], dtype)?]);
            arrays.insert("targets", vec![indices(rng, &[length], width)?]);
        }
        "rms_norm" | "layer_norm" => {
            arrays.insert("x", vec![values(rng, &[batch, length, width], dtype)?]);
            arrays.insert("weight", vec![values(rng, &[width], dtype)?]);
            arrays.insert("bias", vec![values(rng, &[width], dtype)?]);
        }
        "rope" | "rope_with_offsets" => {
            arrays.insert("x", vec![values(rng, &[batch, 2, length, width], dtype)?]);
            arrays.insert("offsets", vec![indices(rng, &[batch], 9)?]);
            arrays.insert("freqs", vec![values(rng, &[width / 2], Dtype::Float32)?]);
            numbers.insert("dims", vec![width]);
        }
        "scaled_dot_product_attention" | "scaled_dot_product_attention_fused" => {
            let (heads, groups, keys) = (rng.int(1, 2), rng.int(1, 3), size(rng));
            let queries = values(rng, &[batch, heads * groups, length, width], dtype)?;
            arrays.insert("queries", vec![queries]);
            for name in ["keys", "values"] {
                arrays.insert(
                    name,
                    vec![values(rng, &[batch, heads, keys, width], dtype)?],
                );
            }
            arrays.insert("mask", vec![values(rng, &[length, keys], Dtype::Bool)?]);
            arrays.insert("sinks", vec![values(rng, &[heads * groups], dtype)?]);
        }
        "gated_delta_update" => {
            let (heads, groups, inner) = (rng.int(1, 2), rng.int(1, 2), rng.pick(&[4, 8, 32]));
            for name in ["queries", "keys"] {
                arrays.insert(
                    name,
                    vec![values(rng, &[batch, length, heads, inner], dtype)?],
                );
            }
            let values_shape = [batch, length, heads * groups, inner];
            arrays.insert("values", vec![values(rng, &values_shape, dtype)?]);
            for name in ["gates", "beta"] {
                arrays.insert(name, vec![values(rng, &values_shape[..3], dtype)?]);
            }
            let state = [batch, heads * groups, inner, inner];
            arrays.insert("initial_state", vec![values(rng, &state, dtype)?]);
            arrays.insert("mask", vec![values(rng, &[batch, length], Dtype::Bool)?]);
        }
        _ => {}
    }
    Ok(())
}

fn indexing(rng: &mut Rng, name: &str, arrays: &mut Arrays, numbers: &mut Numbers) -> Result<()> {
    let (rows, columns) = (size(rng), size(rng));
    let dtype = rng.pick(&[Dtype::Float32, Dtype::Int32, Dtype::Bool, Dtype::Bfloat16]);
    arrays.insert("a", vec![values(rng, &[rows, columns], dtype)?]);
    let along = [rows, rng.int(1, 4)];
    match name {
        "take_along_axis" | "put_along_axis" | "scatter_add_axis" => {
            arrays.insert("indices", vec![indices(rng, &along, columns)?]);
            arrays.insert("values", vec![values(rng, &along, dtype)?]);
            numbers.insert("axis", vec![1]);
        }
        "take" => {
            arrays.insert("indices", vec![indices(rng, &along, columns)?]);
            numbers.insert("axis", vec![-1]);
        }
        "slice_dynamic" | "slice_update_dynamic" => {
            arrays.insert("start", vec![indices(rng, &[2], rows.min(columns))?]);
            arrays.insert("update", vec![values(rng, &[1, columns], dtype)?]);
            numbers.insert("axes", vec![0, 1]);
        }
        "masked_scatter" => {
            arrays.insert("mask", vec![values(rng, &[rows, columns], Dtype::Bool)?]);
            arrays.insert("src", vec![values(rng, &[rows * columns], dtype)?]);
        }
        _ if name.starts_with("scatter") || name == "gather" => {
            let height = rng.int(1, rows);
            arrays.insert("indices", vec![indices(rng, &[3], rows)?]);
            arrays.insert("updates", vec![values(rng, &[3, height, columns], dtype)?]);
            numbers.insert("axes", vec![0]);
            numbers.insert("slice_sizes", vec![height, columns]);
        }
        _ if name.starts_with("slice_update") => {
            arrays.insert("update", vec![values(rng, &[1, columns], dtype)?]);
            numbers.insert("starts", vec![0, 0]);
            numbers.insert("stops", vec![rows, columns]);
            numbers.insert("strides", vec![1, 1]);
        }
        _ => {}
    }
    Ok(())
}
