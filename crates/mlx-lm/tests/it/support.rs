//! Tiny checkpoints with random weights from fixed seeds.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use mlx_core::Array;
use mlx_core::io::save_safetensors;
use mlx_core::ops::random;
use mlx_lm::{LoadedModel, load};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Rows of the tokenizer's vocabulary.
pub(crate) const VOCAB: i32 = 4096;

/// A small trained model with a real tokenizer.
pub(crate) fn prose() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/prose-5m")
}

/// The configuration of a two-layer model that is quick to run.
pub(crate) fn config(model_type: &str) -> Value {
    json!({
        "model_type": model_type,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "eos_token_id": 0,
    })
}

/// The configuration with some keys replaced; `null` removes one.
pub(crate) fn with(mut config: Value, changes: Value) -> Value {
    if let (Some(config), Value::Object(changes)) = (config.as_object_mut(), changes) {
        for (key, value) in changes {
            if value.is_null() {
                config.remove(&key);
            } else {
                config.insert(key, value);
            }
        }
    }
    config
}

/// Keys and shapes of the weights that the configuration asks for.
pub(crate) fn shapes(config: &Value) -> Vec<(String, Vec<i32>)> {
    let get = |key: &str| i32::try_from(config[key].as_i64().unwrap_or(0)).unwrap_or(0);
    let (dim, hidden, head_dim) = (
        get("hidden_size"),
        get("intermediate_size"),
        get("head_dim"),
    );
    let (queries, keys) = (
        get("num_attention_heads") * head_dim,
        get("num_key_value_heads") * head_dim,
    );
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, dim]),
        ("model.norm.weight".to_owned(), vec![dim]),
    ];
    if config["tie_word_embeddings"] == false {
        all.push(("lm_head.weight".to_owned(), vec![VOCAB, dim]));
    }
    for layer in 0..get("num_hidden_layers") {
        let mut add =
            |name: &str, shape: Vec<i32>| all.push((format!("model.layers.{layer}.{name}"), shape));
        add("input_layernorm.weight", vec![dim]);
        add("post_attention_layernorm.weight", vec![dim]);
        add("mlp.gate_proj.weight", vec![hidden, dim]);
        add("mlp.up_proj.weight", vec![hidden, dim]);
        add("mlp.down_proj.weight", vec![dim, hidden]);
        add("self_attn.q_proj.weight", vec![queries, dim]);
        add("self_attn.k_proj.weight", vec![keys, dim]);
        add("self_attn.v_proj.weight", vec![keys, dim]);
        add("self_attn.o_proj.weight", vec![dim, queries]);
        if model_type == "qwen2" {
            add("self_attn.q_proj.bias", vec![queries]);
            add("self_attn.k_proj.bias", vec![keys]);
            add("self_attn.v_proj.bias", vec![keys]);
        }
        if model_type == "qwen3" {
            add("self_attn.q_norm.weight", vec![head_dim]);
            add("self_attn.k_norm.weight", vec![head_dim]);
        }
    }
    all
}

/// Random arrays for these shapes, wide enough that logits differ clearly.
pub(crate) fn weights(shapes: &[(String, Vec<i32>)]) -> mlx_core::Result<HashMap<String, Array>> {
    let mut arrays = HashMap::new();
    for (seed, (key, shape)) in (0..).zip(shapes) {
        let noise = random::normal::<f32>(0.0, 0.3, shape, Some(&random::key(seed)?))?;
        let array = if key.ends_with("norm.weight") {
            ((noise * 0.1)? + 1.0)?
        } else {
            noise
        };
        arrays.insert(key.clone(), array);
    }
    Ok(arrays)
}

/// Writes a model folder.
pub(crate) fn write(
    config: &Value,
    arrays: &HashMap<String, Array>,
) -> Result<TempDir, Box<dyn std::error::Error>> {
    let folder = TempDir::new()?;
    fs::write(
        folder.path().join("config.json"),
        serde_json::to_vec(config)?,
    )?;
    save_safetensors(
        folder.path().join("model.safetensors"),
        arrays,
        &HashMap::new(),
    )?;
    fs::copy(
        prose().join("tokenizer.json"),
        folder.path().join("tokenizer.json"),
    )?;
    Ok(folder)
}

/// A folder with random weights for the configuration.
pub(crate) fn checkpoint(config: &Value) -> Result<TempDir, Box<dyn std::error::Error>> {
    write(config, &weights(&shapes(config))?)
}

/// A model with random weights for the configuration.
pub(crate) fn model(config: &Value) -> Result<LoadedModel, Box<dyn std::error::Error>> {
    Ok(load(checkpoint(config)?.path())?)
}

/// The largest difference between two arrays of one shape.
pub(crate) fn distance(a: &Array, b: &Array) -> Result<f32, Box<dyn std::error::Error>> {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    Ok(a.iter()
        .zip(&b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max))
}

/// Token ids `[1, L]`.
pub(crate) fn row(tokens: &[u32]) -> mlx_core::Result<Array> {
    Array::from_slice::<u32>(
        tokens,
        &[1, i32::try_from(tokens.len()).unwrap_or(i32::MAX)],
    )
}
