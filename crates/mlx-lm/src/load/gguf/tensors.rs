//! Tensors of a file under the names, shapes and formats of this crate.

use mlx_core::io::gguf::{Repacked, ScaleFormat, Scales, TensorInfo, TensorView};
use mlx_core::ops::misc::astype;
use mlx_core::ops::shape::{reshape, transpose_axes};
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;

use super::super::Monitor;
use super::architecture::Architecture;
use super::files::Files;
use super::packed;
use crate::registry::ConfigMap;
use crate::{Error, Result};

/// Reads every tensor that the model has, computing in `dtype`.
///
/// Blocks that one of MLX's quantised formats holds exactly, scales in `dtype`
/// included, stay quantised; the others become dense.
pub(super) fn read(
    file: &Files,
    architecture: Architecture,
    config: &ConfigMap,
    dtype: Dtype,
    monitor: &mut Monitor<'_>,
) -> Result<Weights> {
    let heads = Heads::new(architecture, config);
    let mut weights = Weights::new();
    monitor.start(file.tensors().map(TensorInfo::nbytes).sum())?;
    for tensor in file.views() {
        let Some(name) = key(architecture, tensor.name())? else {
            continue;
        };
        let layout = Layout {
            heads: heads.of(&name),
            offset: match architecture.adds_one_to_norms() && name.ends_with("norm.weight") {
                true => -1.0,
                false => 0.0,
            },
            is_row: is_row(&name),
        };
        insert(&mut weights, &name, &tensor, layout, dtype)?;
        monitor.advance(tensor.bytes().len())?;
    }
    Ok(weights)
}

/// Zeros of the shapes and dtypes that [`read`] would give, which are lazy and stay so.
pub(super) fn outlines(file: &Files, architecture: Architecture, dtype: Dtype) -> Result<Weights> {
    let mut weights = Weights::new();
    for tensor in file.tensors() {
        let Some(name) = key(architecture, tensor.name())? else {
            continue;
        };
        let mut shape = dims(tensor.shape())?;
        let columns = shape.last().copied().unwrap_or(0);
        let path = name.strip_suffix(".weight").filter(|_| shape.len() > 1);
        if let (Some(path), Some(packing)) = (path, packed(tensor.ggml_type(), dtype)) {
            let mut insert = |part: &str, columns: u64, dtype: Dtype| {
                if let (Some(last), Ok(columns)) = (shape.last_mut(), i32::try_from(columns)) {
                    *last = columns;
                }
                let zeros = Array::zeros_dtype(&shape, dtype)?;
                Ok::<_, Error>(weights.insert(format!("{path}.{part}"), zeros)?)
            };
            let columns = u64::try_from(columns).unwrap_or(0);
            insert("weight", columns * packing.bits / 32, Dtype::Uint32)?;
            let groups = columns / packing.group_size;
            if packing.is_float {
                insert("scales", groups, Dtype::Uint8)?;
            } else {
                insert("scales", groups, dtype)?;
                insert("biases", groups, dtype)?;
            }
            continue;
        }
        if is_row(&name) && shape.len() == 1 {
            shape.insert(0, 1);
        }
        weights.insert(name, Array::zeros_dtype(&shape, dtype)?)?;
    }
    Ok(weights)
}

/// The checkpoint key for a tensor, or `None` if the configuration has taken it up.
fn key(architecture: Architecture, name: &str) -> Result<Option<String>> {
    if name.starts_with("rope_f") {
        return Ok(None);
    }
    let key = rename(architecture, name).ok_or_else(|| {
        Error::weights(format!("tensor `{name}` is not known in this architecture"))
    })?;
    Ok(Some(key))
}

/// A matrix of one row is stored without saying so.
fn is_row(name: &str) -> bool {
    name.ends_with("shared_expert_gate.weight")
}

/// The checkpoint key for a tensor, or `None` if the architecture has no such tensor.
fn rename(architecture: Architecture, name: &str) -> Option<String> {
    let (stem, kind) = name
        .rsplit_once('.')
        .filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let path = match stem {
        "token_embd" => "model.embed_tokens".to_owned(),
        "output_norm" => "model.norm".to_owned(),
        "output" => "lm_head".to_owned(),
        _ => {
            let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
            let layer: usize = layer.parse().ok()?;
            if (architecture, part, kind) == (Architecture::GptOss, "attn_sinks", "weight") {
                return Some(format!("model.layers.{layer}.self_attn.sinks"));
            }
            let module = architecture.module(part)?;
            format!("model.layers.{layer}.{module}")
        }
    };
    Some(format!("{path}.{kind}"))
}

/// What the converter did to a tensor.
#[derive(Clone, Copy)]
struct Layout {
    /// How many heads' rows it interleaved.
    heads: Option<i32>,
    /// What to add to each value.
    offset: f32,
    is_row: bool,
}

/// Which rows the converter interleaved, by the number of heads.
struct Heads {
    queries: Option<i32>,
    keys: Option<i32>,
}

impl Heads {
    fn new(architecture: Architecture, config: &ConfigMap) -> Self {
        let count = |key: &str| {
            let heads = config.get(key).and_then(serde_json::Value::as_i64);
            heads
                .and_then(|heads| i32::try_from(heads).ok())
                .filter(|_| architecture.interleaves_heads())
        };
        Self {
            queries: count("num_attention_heads"),
            keys: count("num_key_value_heads"),
        }
    }

    fn of(&self, name: &str) -> Option<i32> {
        let projection = name.rsplit_once('.').map_or(name, |(path, _)| path);
        match projection {
            path if path.ends_with(".q_proj") => self.queries,
            path if path.ends_with(".k_proj") => self.keys,
            _ => None,
        }
    }
}

/// Puts the rows of each head back into the order of the original checkpoint:
/// first halves of the rotated pairs, then second halves.
fn restore_rows(array: Array, heads: Option<i32>) -> Result<Array> {
    let Some(heads) = heads else {
        return Ok(array);
    };
    let shape = array.shape().to_vec();
    let paired: Vec<i32> = [heads, -1, 2]
        .iter()
        .chain(shape.get(1..).unwrap_or_default())
        .copied()
        .collect();
    let order: Vec<i32> = if shape.len() == 1 {
        vec![0, 2, 1]
    } else {
        vec![0, 2, 1, 3]
    };
    Ok(reshape(
        &transpose_axes(&reshape(&array, &paired)?, &order)?,
        &shape,
    )?)
}

fn insert(
    weights: &mut Weights,
    name: &str,
    tensor: &TensorView<'_>,
    layout: Layout,
    dtype: Dtype,
) -> Result<()> {
    let scale_format = if dtype == Dtype::Float32 {
        ScaleFormat::F32
    } else {
        ScaleFormat::F16
    };
    if let Some(path) = name.strip_suffix(".weight")
        && let Some(repacked) = tensor.repack(scale_format)
        && holds(&repacked, dtype)
    {
        return insert_quantized(weights, path, repacked, layout.heads);
    }
    let mut shape = dims(tensor.shape())?;
    if layout.is_row && shape.len() == 1 {
        shape.insert(0, 1);
    }
    let mut values = tensor.dequantize()?;
    if layout.offset != 0.0 {
        values.iter_mut().for_each(|value| *value += layout.offset);
    }
    let array = Array::from_vec::<f32>(values, &shape)?;
    let array = restore_rows(astype(&array, dtype)?, layout.heads)?;
    Ok(weights.insert(name, array)?)
}

/// Whether the scales can be kept in the model's own dtype, so that a layer's
/// result has that dtype too.
fn holds(repacked: &Repacked, dtype: Dtype) -> bool {
    match repacked.scales {
        Scales::F32(_) => dtype == Dtype::Float32,
        Scales::F16(_) => dtype == Dtype::Float16,
        Scales::U8(_) => true,
        _ => false,
    }
}

fn insert_quantized(
    weights: &mut Weights,
    path: &str,
    repacked: Repacked,
    heads: Option<i32>,
) -> Result<()> {
    let (weight_shape, scales_shape) = (
        dims(&repacked.weight_shape())?,
        dims(&repacked.scales_shape())?,
    );
    let weight = Array::from_vec::<u32>(repacked.weight, &weight_shape)?;
    weights.insert(format!("{path}.weight"), restore_rows(weight, heads)?)?;
    let parts = [
        ("scales", Some(repacked.scales)),
        ("biases", repacked.biases),
    ];
    for (part, values) in parts
        .into_iter()
        .filter_map(|(part, values)| Some((part, values?)))
    {
        let array = match values {
            Scales::F16(values) => Array::from_vec(values, &scales_shape)?,
            Scales::F32(values) => Array::from_vec(values, &scales_shape)?,
            Scales::U8(values) => Array::from_vec(values, &scales_shape)?,
            _ => {
                return Err(Error::weights(format!(
                    "`{path}.{part}` is of a kind that cannot be read"
                )));
            }
        };
        weights.insert(format!("{path}.{part}"), restore_rows(array, heads)?)?;
    }
    Ok(())
}

fn dims(shape: &[usize]) -> Result<Vec<i32>> {
    let dim = |&dim: &usize| {
        i32::try_from(dim).map_err(|_| Error::weights(format!("a dimension of {dim} is too large")))
    };
    shape.iter().map(dim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_each_family_are_translated() {
        use Architecture::{Gemma3, GptOss, Llama, Mixtral, Phi3, Qwen2Moe};
        let named = |architecture, name: &str| {
            rename(architecture, name).map(|key| key.replace("model.layers.", ""))
        };
        for (architecture, name, key) in [
            (Llama, "blk.3.ffn_down.weight", "3.mlp.down_proj.weight"),
            (Llama, "blk.0.attn_q.bias", "0.self_attn.q_proj.bias"),
            (Llama, "output.weight", "lm_head.weight"),
            (
                Llama,
                "blk.1.ffn_norm.weight",
                "1.post_attention_layernorm.weight",
            ),
            (
                Gemma3,
                "blk.1.ffn_norm.weight",
                "1.pre_feedforward_layernorm.weight",
            ),
            (Phi3, "blk.1.ffn_up.weight", "1.mlp.gate_up_proj.weight"),
            (
                Mixtral,
                "blk.0.ffn_gate_exps.weight",
                "0.block_sparse_moe.switch_mlp.gate_proj.weight",
            ),
            (
                Qwen2Moe,
                "blk.0.ffn_gate_inp_shexp.weight",
                "0.mlp.shared_expert_gate.weight",
            ),
            (
                GptOss,
                "blk.0.ffn_up_exps.bias",
                "0.mlp.experts.up_proj.bias",
            ),
            (GptOss, "blk.5.attn_sinks.weight", "5.self_attn.sinks"),
        ] {
            assert_eq!(named(architecture, name).as_deref(), Some(key));
        }
        for name in [
            "blk.x.attn_q.weight",
            "blk.0.ffn_gate_exps.weight",
            "token_embd",
        ] {
            assert_eq!(named(Llama, name), None);
        }
    }

    #[test]
    fn rows_of_each_head_are_put_back() -> Result<()> {
        // Two heads of four rows; pairs (0, 2) and (1, 3) were stored side by side.
        let stored = Array::from_slice::<i32>(&[0, 2, 1, 3, 4, 6, 5, 7], &[8, 1])?;
        let restored = restore_rows(stored, Some(2))?;
        assert_eq!(restored.shape(), [8, 1]);
        assert_eq!(restored.to_vec::<i32>()?, [0, 1, 2, 3, 4, 5, 6, 7]);
        Ok(())
    }
}
