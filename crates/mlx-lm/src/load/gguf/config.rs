//! The model's shape in a file's metadata, as a `config.json` would say it.

use mlx_core::io::gguf::GgufFile;
use serde_json::{Value, json};

use super::Architecture;
use crate::registry::ConfigMap;
use crate::{Error, Result};

pub(super) fn read(file: &GgufFile, architecture: Architecture) -> Result<ConfigMap> {
    let metadata = file.metadata();
    let name = architecture.name();
    let key = |suffix: &str| format!("{name}.{suffix}");
    let count = |suffix: &str| metadata.require::<u32>(&key(suffix));
    let maybe = |suffix: &str| metadata.get::<u32>(&key(suffix));

    let heads = count("attention.head_count")?;
    let hidden_size = count("embedding_length")?;
    let head_dim = match maybe("attention.key_length")?.or(maybe("rope.dimension_count")?) {
        Some(head_dim) => head_dim,
        None => hidden_size.checked_div(heads).unwrap_or_default(),
    };
    let rope_dims = maybe("rope.dimension_count")?.unwrap_or(head_dim);
    if rope_dims != head_dim {
        let message = format!("{rope_dims} of {head_dim} dimensions is not supported");
        return Err(Error::config(key("rope.dimension_count"), message));
    }
    if maybe("expert_count")?.unwrap_or(0) > 0 {
        return Err(Error::config(
            key("expert_count"),
            "mixtures of experts are not supported in this architecture",
        ));
    }
    let embeddings = file.tensor("token_embd.weight")?;
    let vocab_size = embeddings.shape().first().copied().unwrap_or_default();

    let mut config = ConfigMap::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("model_type", json!(name));
    set("hidden_size", json!(hidden_size));
    set("num_hidden_layers", json!(count("block_count")?));
    set("intermediate_size", json!(count("feed_forward_length")?));
    set("num_attention_heads", json!(heads));
    set(
        "num_key_value_heads",
        json!(maybe("attention.head_count_kv")?.unwrap_or(heads)),
    );
    set("head_dim", json!(head_dim));
    set("vocab_size", json!(vocab_size));
    set(
        "rms_norm_eps",
        json!(metadata.require::<f32>(&key("attention.layer_norm_rms_epsilon"))?),
    );
    set(
        "rope_theta",
        json!(
            metadata
                .get::<f32>(&key("rope.freq_base"))?
                .unwrap_or(10_000.0)
        ),
    );
    set(
        "tie_word_embeddings",
        json!(!file.contains("output.weight")),
    );
    if let Some(length) = maybe("context_length")? {
        set("max_position_embeddings", json!(length));
    }
    if architecture == Architecture::Llama {
        set("attention_bias", json!(file.contains("blk.0.attn_q.bias")));
        set("mlp_bias", json!(file.contains("blk.0.ffn_gate.bias")));
    }
    if let Some(scaling) = rope_scaling(file, &key)? {
        set("rope_scaling", scaling);
    }
    Ok(config)
}

/// Linear and YaRN scaling are named in the metadata. Llama 3's comes as a tensor
/// with a factor for each wavelength, which is LongRoPE with one set of factors
/// and no amplification.
fn rope_scaling(file: &GgufFile, key: &dyn Fn(&str) -> String) -> Result<Option<Value>> {
    let metadata = file.metadata();
    if file.contains("rope_freqs.weight") {
        let factors = file.tensor("rope_freqs.weight")?.dequantize()?;
        let context = metadata.require::<u32>(&key("context_length"))?;
        return Ok(Some(json!({
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "original_max_position_embeddings": context,
            "attention_factor": 1.0,
        })));
    }
    if file.contains("rope_factors_long.weight") {
        return Err(Error::config(
            key("rope.scaling"),
            "LongRoPE factors are not supported for this architecture",
        ));
    }
    let kind = metadata.get::<&str>(&key("rope.scaling.type"))?;
    let factor = metadata.get::<f32>(&key("rope.scaling.factor"))?;
    match (kind, factor) {
        (None | Some("none"), _) => Ok(None),
        (Some("linear"), Some(factor)) => {
            Ok(Some(json!({ "rope_type": "linear", "factor": factor })))
        }
        (Some("yarn"), Some(factor)) => {
            let original = metadata.require::<u32>(&key("rope.scaling.original_context_length"))?;
            Ok(Some(
                json!({ "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original }),
            ))
        }
        (Some(kind), _) => Err(Error::config(
            key("rope.scaling.type"),
            format!("`{kind}` is not supported"),
        )),
    }
}
