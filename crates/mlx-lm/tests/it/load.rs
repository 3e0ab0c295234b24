//! Loading, and what is said when it fails.

use std::collections::HashMap;
use std::error::Error as _;
use std::fs;
use std::path::Path;

use mlx_core::io::save_safetensors;
use mlx_core::ops::quantized::{QuantizationLayout, dequantize, quantize};
use mlx_core::{Array, Dtype};
use mlx_lm::cache::CacheOptions;
use mlx_lm::registry::ConfigMap;
use mlx_lm::{CancelFlag, Error, GenerateOptions, Loader, Registry, load};
use serde_json::json;

use crate::support::{Outcome, checkpoint, config, distance, row, shapes, weights, with, write};

/// The whole chain of messages.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(" < ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Loads and expects a failure whose chain contains `part`.
fn fails(folder: &Path, part: &str) -> Outcome {
    let error = load(folder)
        .err()
        .ok_or_else(|| format!("loaded in spite of: {part}"))?;
    let text = chain(&error);
    assert!(text.contains(part), "`{part}` is not in `{text}`");
    assert!(text.starts_with("load "), "{text}");
    Ok(())
}

/// A tiny checkpoint whose configuration has `changes`, which must not load.
fn refused(changes: serde_json::Value, part: &str) -> Outcome {
    let config = config("llama");
    let folder = write(&with(config.clone(), changes), &weights(&shapes(&config))?)?;
    fails(folder.path(), part)
}

#[test]
fn llama_like_types_load() -> Outcome {
    for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
        let model = load(checkpoint(&config(model_type))?.path())?;
        assert_eq!(model.model().vocab_size(), 4096);
        assert_eq!(model.model().max_position_embeddings(), Some(128));
        assert_eq!(model.config()["model_type"], model_type);
    }
    Ok(())
}

#[test]
fn what_is_nowhere_is_named() -> Outcome {
    let error = load("no/such/model").err().ok_or("loaded")?;
    assert_eq!(error.to_string(), "no model at `no/such/model`");
    assert!(error.hint().contains("Hugging Face cache"));
    Ok(())
}

#[test]
fn missing_files_are_named() -> Outcome {
    let folder = checkpoint(&config("llama"))?;
    fs::remove_file(folder.path().join("tokenizer.json"))?;
    fails(folder.path(), "tokenizer.json")?;
    let folder = checkpoint(&config("llama"))?;
    fs::remove_file(folder.path().join("model.safetensors"))?;
    fails(folder.path(), "`model.safetensors` is missing")?;
    let folder = checkpoint(&config("llama"))?;
    fs::remove_file(folder.path().join("config.json"))?;
    fails(folder.path(), "`config.json` is missing")
}

#[test]
fn broken_json_is_named_with_its_place() -> Outcome {
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
    ] {
        let folder = checkpoint(&config("llama"))?;
        fs::write(folder.path().join(file), "{\"a\": ")?;
        fails(folder.path(), file)?;
        fails(folder.path(), "line 1")?;
    }
    let folder = checkpoint(&config("llama"))?;
    fs::write(folder.path().join("config.json"), "[1, 2]")?;
    fails(folder.path(), "config.json")
}

#[test]
fn an_unknown_architecture_lists_the_known_ones() -> Outcome {
    let folder = checkpoint(&with(config("llama"), json!({ "model_type": "abacus" })))?;
    fails(folder.path(), "unsupported model_type `abacus`")?;
    let hint = load(folder.path())
        .err()
        .map(|error| error.hint())
        .ok_or("no hint")?;
    assert!(hint.contains("llama") && hint.contains("qwen3"), "{hint}");
    refused(
        json!({ "model_type": null }),
        "config field `model_type`: is missing",
    )
}

#[test]
fn configuration_values_are_checked() -> Outcome {
    refused(
        json!({ "hidden_size": null }),
        "config field `hidden_size`: is missing",
    )?;
    refused(
        json!({ "hidden_size": "32" }),
        "config field `hidden_size`: invalid type: string",
    )?;
    refused(
        json!({ "num_hidden_layers": 0 }),
        "config field `num_hidden_layers`: must be 1 or more",
    )?;
    refused(
        json!({ "num_key_value_heads": 3 }),
        "config field `num_attention_heads`: 4 is not a multiple",
    )?;
    refused(
        json!({ "hidden_act": "gelu" }),
        "config field `hidden_act`: `gelu` is not supported",
    )?;
    refused(
        json!({ "layer_types": ["full_attention"] }),
        "config field `layer_types`: has 1 entries",
    )?;
    refused(
        json!({ "layer_types": ["full_attention", "linear_attention"] }),
        "`linear_attention` is not supported",
    )?;
    refused(
        json!({ "layer_types": ["full_attention", "sliding_attention"] }),
        "config field `sliding_window`",
    )?;
    refused(
        json!({ "rope_scaling": { "rope_type": "spiral" } }),
        "spiral",
    )?;
    refused(
        json!({ "rope_scaling": { "rope_type": "linear" } }),
        "factor",
    )?;
    refused(
        json!({ "quantization": { "group_size": "x", "bits": 4 } }),
        "config field `quantization`",
    )?;
    refused(
        json!({ "quantization": { "bits": 4 } }),
        "config field `quantization.group_size`: is missing",
    )?;
    refused(
        json!({ "quantization": { "group_size": 32, "bits": 7 } }),
        "config field `quantization`: 7 bits in groups of 32",
    )?;
    refused(
        json!({ "quantization_config": { "quant_method": "bitsandbytes" } }),
        "`bitsandbytes` is not supported",
    )
}

#[test]
fn weights_that_do_not_fit_are_all_listed() -> Outcome {
    let config = config("llama");
    let mut arrays = weights(&shapes(&config))?;
    arrays.remove("model.norm.weight");
    arrays.remove("lm_head.weight");
    arrays.insert("model.extra.weight".to_owned(), Array::ones::<f32>(&[2])?);
    arrays.insert(
        "model.layers.1.mlp.up_proj.weight".to_owned(),
        Array::ones::<f32>(&[32, 48])?,
    );
    let folder = write(&config, &arrays)?;
    for part in [
        "2 missing (lm_head.weight, model.norm.weight)",
        "1 unexpected (model.extra.weight)",
        "model.layers.1.mlp.up_proj.weight: expected [48, 32], found [32, 48]",
    ] {
        fails(folder.path(), part)?;
    }
    Ok(())
}

#[test]
fn weights_that_are_no_numbers_for_a_layer_are_refused() -> Outcome {
    let config = config("llama");
    let mut arrays = weights(&shapes(&config))?;
    arrays.insert("model.norm.weight".to_owned(), Array::ones::<i32>(&[32])?);
    let folder = write(&config, &arrays)?;
    fails(folder.path(), "weights: `model.norm.weight` holds int32")
}

#[test]
fn a_loaded_model_serves_several_threads() -> Outcome {
    let model = load(checkpoint(&config("qwen3"))?.path())?;
    let options = GenerateOptions::default()
        .max_tokens(12)
        .temperature(Some(0.9))
        .seed(Some(5));
    let run = || -> Result<String, mlx_lm::Error> { model.generate("The rain", &options)?.text() };
    let expected = run()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        for thread in threads {
            assert_eq!(
                thread.join().expect("no panic").expect("no error"),
                expected
            );
        }
    });
    Ok(())
}

#[test]
fn damaged_safetensors_are_refused() -> Outcome {
    let folder = checkpoint(&config("llama"))?;
    let file = folder.path().join("model.safetensors");
    let whole = fs::read(&file)?;
    for length in [0, 4, 60, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length])?;
        fails(folder.path(), "model.safetensors")?;
    }
    let mut lying = whole.clone();
    lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&file, &lying)?;
    fails(folder.path(), "model.safetensors")
}

#[test]
fn shards_are_read_through_the_index() -> Outcome {
    let config = config("qwen2");
    let arrays = weights(&shapes(&config))?;
    let single = write(&config, &arrays)?;
    let sharded = write(&config, &HashMap::new())?;
    fs::remove_file(sharded.path().join("model.safetensors"))?;
    let mut keys: Vec<&String> = arrays.keys().collect();
    keys.sort();
    let mut map = serde_json::Map::new();
    for (index, part) in keys.chunks(7).enumerate() {
        let file = format!("model-{index:05}.safetensors");
        let shard: HashMap<String, Array> = part
            .iter()
            .map(|&key| (key.clone(), arrays[key].clone()))
            .collect();
        save_safetensors(sharded.path().join(&file), &shard, &HashMap::new())?;
        map.extend(part.iter().map(|&key| (key.clone(), json!(file))));
    }
    let index = sharded.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string())?;
    let run = |folder: &Path| -> Result<Array, Box<dyn std::error::Error>> {
        let loaded = load(folder)?;
        let model = loaded.model();
        Ok(model.forward(
            &row(&[1, 2, 3])?,
            &mut model.make_cache(&CacheOptions::default()),
        )?)
    };
    assert_eq!(distance(&run(single.path())?, &run(sharded.path())?)?, 0.0);

    fs::remove_file(sharded.path().join("model-00001.safetensors"))?;
    fails(sharded.path(), "model-00001.safetensors")?;
    fs::write(
        &index,
        json!({ "weight_map": { "a": "../secret.safetensors" } }).to_string(),
    )?;
    fails(sharded.path(), "is no name of a file beside the index")
}

#[test]
fn quantised_layers_load_with_their_own_settings() -> Outcome {
    let config = with(
        config("llama"),
        json!({ "hidden_size": 64, "intermediate_size": 64 }),
    );
    let mut arrays = weights(&shapes(&config))?;
    let mut dense = arrays.clone();
    for (key, bits) in [
        ("model.embed_tokens", 4),
        ("model.layers.0.mlp.up_proj", 8),
        ("model.layers.1.self_attn.q_proj", 4),
    ] {
        let layout = QuantizationLayout::affine(32, bits);
        let quantized = quantize(&arrays[&format!("{key}.weight")], layout)?;
        let biases = quantized.biases.ok_or("affine has biases")?;
        let values = dequantize(
            &quantized.weight,
            &quantized.scales,
            Some(&biases),
            layout,
            None,
        )?;
        dense.insert(format!("{key}.weight"), values);
        arrays.insert(format!("{key}.weight"), quantized.weight);
        arrays.insert(format!("{key}.scales"), quantized.scales);
        arrays.insert(format!("{key}.biases"), biases);
    }
    let settings = json!({ "quantization": {
        "group_size": 32, "bits": 4, "model.layers.0.mlp.up_proj": { "group_size": 32, "bits": 8 },
    } });
    let folders = [
        write(&with(config.clone(), settings), &arrays)?,
        write(&config, &dense)?,
    ];
    let mut logits = Vec::new();
    for folder in &folders {
        let loaded = load(folder.path())?;
        let model = loaded.model();
        logits.push(model.forward(
            &row(&[1, 2, 3])?,
            &mut model.make_cache(&CacheOptions::default()),
        )?);
    }
    assert!(distance(&logits[0], &logits[1])? < 1e-3);

    let lie = json!({ "quantization": {
        "group_size": 32, "bits": 4, "model.layers.0.mlp.up_proj": { "group_size": 32, "bits": 2 },
    } });
    fails(
        write(&with(config, lie), &arrays)?.path(),
        "`model.layers.0.mlp.up_proj` is packed otherwise",
    )
}

#[test]
fn both_spellings_of_rope_settings_mean_the_same() -> Outcome {
    let base = config("llama");
    let arrays = weights(&shapes(&base))?;
    let scaling = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64 });
    let old = with(
        base.clone(),
        json!({ "rope_theta": 500.0, "rope_scaling": scaling }),
    );
    let new = with(
        base.clone(),
        json!({ "rope_theta": null, "rope_parameters": with(scaling, json!({ "rope_theta": 500.0 })) }),
    );
    let mut logits = Vec::new();
    for config in [&old, &new, &base] {
        let loaded = load(write(config, &arrays)?.path())?;
        let model = loaded.model();
        let tokens: Vec<u32> = (1..100).collect();
        logits.push(model.forward(
            &row(&tokens)?,
            &mut model.make_cache(&CacheOptions::default()),
        )?);
    }
    assert_eq!(distance(&logits[0], &logits[1])?, 0.0);
    assert!(distance(&logits[0], &logits[2])? > 1e-3);
    Ok(())
}

#[test]
fn the_text_part_of_a_multimodal_checkpoint_loads() -> Outcome {
    let config = config("llama");
    let arrays = weights(&shapes(&config))?;
    let expected = load(write(&config, &arrays)?.path())?;
    let old = |key: &str| format!("language_model.{key}");
    let new = |key: &str| match key.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => key.to_owned(),
    };
    for rename in [&old as &dyn Fn(&str) -> String, &new] {
        let mut wrapped: HashMap<String, Array> = arrays
            .iter()
            .map(|(key, array)| (rename(key), array.clone()))
            .collect();
        wrapped.insert(
            "vision_tower.patch.weight".to_owned(),
            Array::ones::<f32>(&[3])?,
        );
        let folder = write(&config, &wrapped)?;
        let mut total = 0;
        let loader = Loader::new(folder.path()).on_progress(|step| total = step.total);
        let loaded = loader.load()?;
        // What sees is not even read.
        assert_eq!(total, loaded.size().bytes);
        let run = |model: &dyn mlx_lm::LanguageModel| {
            model.forward(
                &row(&[7, 8])?,
                &mut model.make_cache(&CacheOptions::default()),
            )
        };
        assert_eq!(
            distance(&run(loaded.model())?, &run(expected.model())?)?,
            0.0
        );
    }
    Ok(())
}

#[test]
fn a_dtype_can_be_chosen() -> Outcome {
    let folder = checkpoint(&config("qwen3"))?;
    let loaded = Loader::new(folder.path()).dtype(Dtype::Bfloat16).load()?;
    let model = loaded.model();
    let logits = model.forward(&row(&[1])?, &mut model.make_cache(&CacheOptions::default()))?;
    assert_eq!(logits.dtype(), Dtype::Bfloat16);
    assert_eq!(
        loaded.size().dtypes.keys().collect::<Vec<_>>(),
        ["bfloat16"]
    );
    Ok(())
}

#[test]
fn progress_ends_at_the_total_and_a_flag_cancels() -> Outcome {
    let folder = checkpoint(&config("llama"))?;
    let mut last = None;
    let loaded = Loader::new(folder.path())
        .on_progress(|step| last = Some(step))
        .load()?;
    let last = last.ok_or("no progress")?;
    assert_eq!(
        (last.done, last.total),
        (loaded.size().bytes, loaded.size().bytes)
    );
    let cancel = CancelFlag::new();
    cancel.cancel();
    assert!(matches!(
        Loader::new(folder.path()).cancel(&cancel).load(),
        Err(Error::Cancelled)
    ));
    Ok(())
}

#[test]
fn a_registry_can_be_extended_at_run_time() -> Outcome {
    fn like_llama(
        config: &ConfigMap,
        weights: &mut mlx_nn::Weights,
    ) -> mlx_lm::Result<Box<dyn mlx_lm::LanguageModel>> {
        let config = mlx_lm::models::llama::Config::from_json(config)?;
        mlx_lm::models::llama::sanitize(&config, weights)?;
        Ok(Box::new(mlx_lm::models::llama::Model::new(config)?))
    }
    let folder = checkpoint(&with(config("llama"), json!({ "model_type": "mine" })))?;
    assert!(load(folder.path()).is_err());
    let mut registry = Registry::new();
    registry.register("mine", like_llama);
    assert!(registry.model_types().contains(&"mine".to_owned()));
    assert_eq!(
        Loader::new(folder.path())
            .registry(registry)
            .load()?
            .config()["model_type"],
        "mine"
    );
    Ok(())
}
