//! Layers that other programs have quantised in several ways within one checkpoint.

use std::collections::HashMap;

use mlx_core::ops::misc::view;
use mlx_core::ops::quantized::to_fp8;
use mlx_core::{Array, Dtype};
use mlx_lm::cache::CacheOptions;
use mlx_lm::load;
use serde_json::{Value, json};

use crate::support::{Outcome, config, distance, row, shapes, weights, with, write};

/// The logits of a checkpoint whose up projections are stored as `replaced`, and those of the values
/// that this stands for.
fn compare(quantization: &Value, stored: HashMap<&str, Array>, dense: &Array) -> Outcome {
    let config = with(
        config("llama"),
        json!({ "intermediate_size": 64, "hidden_size": 64 }),
    );
    let mut arrays = weights(&shapes(&config))?;
    let path = "model.layers.0.mlp.up_proj";
    arrays.insert(format!("{path}.weight"), dense.astype(Dtype::Bfloat16)?);
    let run = |config: &Value, arrays: &HashMap<String, Array>| {
        let loaded = load(write(config, arrays)?.path())?;
        let model = loaded.model();
        let mut cache = model.make_cache(&CacheOptions::default());
        Ok::<_, Box<dyn std::error::Error>>(model.forward(&row(&[7, 8, 900])?, &mut cache)?)
    };
    let expected = run(&config, &arrays)?;
    arrays.remove(&format!("{path}.weight"));
    for (part, array) in stored {
        arrays.insert(format!("{path}.{part}"), array);
    }
    let found = run(
        &with(config, json!({ "quantization_config": quantization })),
        &arrays,
    )?;
    // Products with what stays packed add up in another order.
    let error = distance(&found, &expected)?;
    assert!(error < 1e-4, "{error}");
    Ok(())
}

fn settings(format: &str, schemes: &[Value]) -> Value {
    let groups: serde_json::Map<String, Value> = schemes
        .iter()
        .enumerate()
        .map(|(index, scheme)| (format!("group_{index}"), json!({ "weights": scheme })))
        .collect();
    json!({ "quant_method": "compressed-tensors", "format": format, "config_groups": groups })
}

/// Small integers, scaled.
fn codes() -> Result<Vec<i32>, Box<dyn std::error::Error>> {
    Ok((0..64 * 64)
        .map(|at| (at * 37 + at / 64 * 5) % 15 - 7)
        .collect())
}

fn matrix(values: &[i32]) -> mlx_core::Result<Array> {
    Array::from_slice::<i32>(values, &[64, 64])
}

/// A scale for each of `[down, across]` parts, and the same for each number.
fn scales(down: usize, across: usize) -> mlx_core::Result<(Array, Array)> {
    let scale = |row: usize, column: usize| {
        let step = u8::try_from((row * 3 + column) % 7 + 1).unwrap_or(1);
        f32::from(step) / 64.0
    };
    let few: Vec<f32> = (0..down * across)
        .map(|at| scale(at / across, at % across))
        .collect();
    let (height, width) = (64_usize.div_ceil(down), 64_usize.div_ceil(across));
    let each: Vec<f32> = (0..64 * 64)
        .map(|at| scale(at / 64 / height, at % 64 / width))
        .collect();
    Ok((
        Array::from_slice::<f32>(&few, &[down, across])?,
        Array::from_slice::<f32>(&each, &[64, 64])?,
    ))
}

#[test]
fn eight_bit_floats_in_blocks() -> Outcome {
    let codes = matrix(&codes()?)?.astype(Dtype::Float32)?;
    let (few, each) = scales(2, 2)?;
    let dense = (&codes * &each)?;
    let weight = to_fp8(&codes)?;
    let block =
        json!({ "num_bits": 8, "type": "float", "strategy": "block", "block_structure": [32, 32] });
    // The first group is that of other layers.
    let first = json!({ "num_bits": 8, "type": "float", "strategy": "channel" });
    compare(
        &settings("float-quantized", &[first, block]),
        HashMap::from([("weight", weight), ("weight_scale", few)]),
        &dense,
    )
}

#[test]
fn eight_bit_integers_in_groups_with_zero_points() -> Outcome {
    let codes = codes()?;
    let (few, each) = scales(64, 2)?;
    let zeros: Vec<i32> = (0..128).map(|at| at % 5 - 2).collect();
    let spread: Vec<i32> = (0..64 * 64)
        .map(|at| zeros[at / 64 * 2 + at % 64 / 32])
        .collect();
    let shifted = (matrix(&codes)? - matrix(&spread)?)?;
    let dense = (&shifted.astype(Dtype::Float32)? * &each)?;
    let zeros = Array::from_slice::<i32>(&zeros, &[64, 2])?;
    let scheme = json!({ "num_bits": 8, "type": "int", "strategy": "group", "group_size": 32, "symmetric": false });
    compare(
        &settings("int-quantized", &[scheme]),
        HashMap::from([
            ("weight", matrix(&codes)?.astype(Dtype::Int8)?),
            ("weight_scale", few),
            ("weight_zero_point", zeros.astype(Dtype::Int8)?),
        ]),
        &dense,
    )
}

#[test]
fn each_layer_is_in_its_own_format() -> Outcome {
    let codes = codes()?;
    let (few, each) = scales(64, 2)?;
    let dense = (&matrix(&codes)?.astype(Dtype::Float32)? * &each)?;
    // Eight to a word, from zero on.
    let words: Vec<u32> = codes
        .chunks(8)
        .map(|chunk| {
            let place =
                |(at, &code): (usize, &i32)| u32::try_from(code + 8).unwrap_or(0) << (4 * at);
            chunk.iter().enumerate().map(place).sum()
        })
        .collect();
    let words = view(&Array::from_slice::<u32>(&words, &[64, 8])?, Dtype::Int32)?;
    let eight = json!({ "num_bits": 8, "type": "int", "strategy": "channel" });
    let four = json!({ "num_bits": 4, "type": "int", "strategy": "group", "group_size": 32 });
    compare(
        &settings("mixed-precision", &[eight, four]),
        HashMap::from([
            ("weight_packed", words),
            ("weight_scale", few.astype(Dtype::Bfloat16)?),
            ("weight_shape", Array::from_slice::<i64>(&[64, 64], &[2])?),
        ]),
        &dense,
    )
}
