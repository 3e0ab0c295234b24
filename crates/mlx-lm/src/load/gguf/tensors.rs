//! Tensors of a file under the names, shapes and formats of this crate.

use mlx_core::io::gguf::{GgufFile, Repacked, ScaleFormat, Scales, TensorInfo, TensorView};
use mlx_core::ops::misc::astype;
use mlx_core::ops::shape::{reshape, transpose_axes};
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;

use super::super::Monitor;
use super::Architecture;
use crate::registry::ConfigMap;
use crate::{Error, Result};

/// Reads every tensor that the model has, computing in `dtype`.
///
/// Blocks that one of MLX's quantised formats holds exactly, scales in `dtype`
/// included, stay quantised; the others become dense.
pub(super) fn read(
    file: &GgufFile,
    architecture: Architecture,
    config: &ConfigMap,
    dtype: Dtype,
    monitor: &mut Monitor<'_>,
) -> Result<Weights> {
    let heads = Heads::new(architecture, config);
    let mut weights = Weights::new();
    monitor.start(file.tensors().iter().map(TensorInfo::nbytes).sum())?;
    for tensor in file.views() {
        if tensor.name() == "rope_freqs.weight" {
            continue;
        }
        let name = rename(tensor.name()).ok_or_else(|| {
            Error::weights(format!(
                "tensor `{}` is not known in this architecture",
                tensor.name()
            ))
        })?;
        insert(&mut weights, &name, &tensor, heads.of(&name), dtype)?;
        monitor.advance(tensor.bytes().len())?;
    }
    Ok(weights)
}

/// The checkpoint key for a tensor, or `None` if the Llama family has no such tensor.
fn rename(name: &str) -> Option<String> {
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
            let part = match part {
                "attn_norm" => "input_layernorm",
                "attn_q" => "self_attn.q_proj",
                "attn_k" => "self_attn.k_proj",
                "attn_v" => "self_attn.v_proj",
                "attn_output" => "self_attn.o_proj",
                "attn_q_norm" => "self_attn.q_norm",
                "attn_k_norm" => "self_attn.k_norm",
                "ffn_norm" => "post_attention_layernorm",
                "ffn_gate" => "mlp.gate_proj",
                "ffn_up" => "mlp.up_proj",
                "ffn_down" => "mlp.down_proj",
                _ => return None,
            };
            format!("model.layers.{layer}.{part}")
        }
    };
    Some(format!("{path}.{kind}"))
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
    heads: Option<i32>,
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
        return insert_quantized(weights, path, repacked, heads);
    }
    let shape = dims(tensor.shape())?;
    let array = Array::from_vec::<f32>(tensor.dequantize()?, &shape)?;
    let array = restore_rows(astype(&array, dtype)?, heads)?;
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
    fn names_of_the_family_are_translated() {
        assert_eq!(
            rename("blk.3.ffn_down.weight").as_deref(),
            Some("model.layers.3.mlp.down_proj.weight")
        );
        assert_eq!(
            rename("blk.0.attn_q.bias").as_deref(),
            Some("model.layers.0.self_attn.q_proj.bias")
        );
        assert_eq!(rename("output.weight").as_deref(), Some("lm_head.weight"));
        assert_eq!(rename("blk.x.attn_q.weight"), None);
        assert_eq!(rename("blk.0.ffn_gate_exps.weight"), None);
        assert_eq!(rename("token_embd"), None);
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
