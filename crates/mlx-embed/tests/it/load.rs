//! Which folders load, and what is said about the others.

use std::collections::HashMap;
use std::fs;

use mlx_core::Array;
use mlx_core::io::save_safetensors;
use mlx_core::ops::quantized::{QuantizationLayout, quantize};
use mlx_embed::{Embedder, EncodeOptions, Error, Registry, Similarity, registry};
use serde_json::{Value, json};

use crate::support::{Folder, HIDDEN, Outcome, close, config, modules};

static_assertions::assert_impl_all!(Embedder: Send, Sync);

#[test]
fn a_folder_without_modules_is_averaged() -> Outcome {
    let folder = Folder::new()?;
    let normalised = folder
        .load()?
        .encode(&["who eats"], EncodeOptions::default())?;
    fs::remove_file(folder.path().join("modules.json"))?;
    let plain = folder.load()?;
    let options = EncodeOptions::default();
    let vectors = plain.encode(&["who eats"], options.clone())?;
    assert!((crate::support::length(&vectors.to_vec::<f32>()?) - 1.0).abs() > 0.1);
    let vectors = plain.encode(&["who eats"], options.normalize(true))?;
    close(
        &vectors.to_vec::<f32>()?,
        &normalised.to_vec::<f32>()?,
        1e-6,
    );
    Ok(())
}

#[test]
fn checkpoints_of_all_kinds_hold_the_same_model() -> Outcome {
    let mut folder = Folder::new()?;
    let text = ["a man is eating food"];
    let expected = folder.load()?.encode(&text, EncodeOptions::default())?;
    let own = folder.weights.clone();
    let renamed = |rename: &dyn Fn(&str) -> String| -> HashMap<String, Array> {
        own.iter()
            .map(|(key, array)| (rename(key), array.clone()))
            .collect()
    };
    let mut with_heads = renamed(&|key| format!("bert.{key}"));
    for key in ["bert.pooler.dense.weight", "cls.predictions.bias"] {
        with_heads.insert(key.to_owned(), Array::ones::<f32>(&[3])?);
    }
    let positions = Array::arange::<i64>(0.0, 16.0, 1.0)?;
    with_heads.insert("bert.embeddings.position_ids".to_owned(), positions);
    let tensorflow = renamed(&|key| {
        key.replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta")
    });
    for weights in [with_heads, tensorflow] {
        folder.weights = weights;
        folder.save()?;
        let vectors = folder.load()?.encode(&text, EncodeOptions::default())?;
        close(&vectors.to_vec::<f32>()?, &expected.to_vec::<f32>()?, 0.0);
    }
    Ok(())
}

#[test]
fn layers_that_mlx_has_quantised_stay_so() -> Outcome {
    let mut folder = Folder::new()?;
    let text = ["a man is eating food"];
    let dense = folder.load()?.encode(&text, EncodeOptions::default())?;
    for layer in 0..2 {
        let key = format!("encoder.layer.{layer}.output.dense");
        let weight = folder
            .weights
            .get(&format!("{key}.weight"))
            .ok_or("weight")?;
        let packed = quantize(weight, QuantizationLayout::affine(32, 8))?;
        let biases = packed.biases.ok_or("biases")?;
        for (part, array) in [
            ("weight", packed.weight),
            ("scales", packed.scales),
            ("biases", biases),
        ] {
            folder.weights.insert(format!("{key}.{part}"), array);
        }
    }
    folder.save()?;
    let mut stated = config();
    stated["quantization"] = json!({ "group_size": 32, "bits": 8 });
    folder.write("config.json", &stated)?;
    let vectors = folder.load()?.encode(&text, EncodeOptions::default())?;
    let (vectors, dense) = (vectors.to_vec::<f32>()?, dense.to_vec::<f32>()?);
    assert_ne!(vectors, dense);
    close(&vectors, &dense, 0.02);
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> Outcome {
    for file in [
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "1_Pooling/config.json",
    ] {
        let folder = Folder::new()?;
        folder.remove(file)?;
        let complaint = folder.complaint();
        assert!(
            complaint.ends_with(&format!("`{file}` is missing")),
            "{complaint}"
        );
    }
    let error = Embedder::load("no/such/folder").err();
    assert!(
        matches!(error, Some(Error::ModelNotFound { .. })),
        "{error:?}"
    );
    Ok(())
}

#[test]
fn weights_that_do_not_fit_are_all_listed() -> Outcome {
    let mut folder = Folder::new()?;
    folder.weights.remove("encoder.layer.1.output.dense.bias");
    let wrong = Array::zeros::<f32>(&[3, 5])?;
    folder.weights.insert(
        "encoder.layer.0.attention.self.query.weight".to_owned(),
        wrong,
    );
    let extra = Array::zeros::<f32>(&[1])?;
    folder.weights.insert("classifier.bias".to_owned(), extra);
    folder.save()?;
    let complaint = folder.complaint();
    for part in [
        "weights in `model.safetensors`",
        "1 missing (encoder.layer.1.output.dense.bias)",
        "1 unexpected (classifier.bias)",
        "encoder.layer.0.attention.self.query.weight: expected [8, 8], found [3, 5]",
    ] {
        assert!(complaint.contains(part), "{complaint}");
    }
    Ok(())
}

#[test]
fn damaged_files_are_refused() -> Outcome {
    let folder = Folder::new()?;
    let weights = folder.path().join("model.safetensors");
    let bytes = fs::read(&weights)?;
    for kept in [0, 7, 100, bytes.len() - 1] {
        fs::write(&weights, bytes.get(..kept).unwrap_or_default())?;
        let complaint = folder.complaint();
        assert!(
            complaint.contains("model.safetensors"),
            "{kept}: {complaint}"
        );
    }
    fs::write(&weights, &bytes)?;
    for file in [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    ] {
        let path = folder.path().join(file);
        let good = fs::read(&path)?;
        fs::write(&path, b"{ nonsense")?;
        let complaint = folder.complaint();
        assert!(
            complaint.contains("parse ") && complaint.contains(file),
            "{complaint}"
        );
        fs::write(&path, good)?;
    }
    fs::write(folder.path().join("tokenizer.json"), b"{}")?;
    let complaint = folder.complaint();
    assert!(complaint.contains("read `tokenizer.json`: "), "{complaint}");
    Ok(())
}

#[test]
fn configurations_that_cannot_run_are_refused() -> Outcome {
    let folder = Folder::new()?;
    let cases = [
        (
            "model_type",
            json!("abacus"),
            "unsupported model_type `abacus`",
        ),
        (
            "model_type",
            Value::Null,
            "field `model_type` is not a string",
        ),
        (
            "hidden_size",
            json!(0),
            "field `hidden_size`: 0 is not within 1 to",
        ),
        ("hidden_size", json!("wide"), "field `hidden_size`"),
        (
            "num_attention_heads",
            json!(3),
            "8 is not a multiple of num_attention_heads = 3",
        ),
        (
            "num_hidden_layers",
            json!(2_000_000_000),
            "field `num_hidden_layers`",
        ),
        ("layer_norm_eps", json!(-1.0), "field `layer_norm_eps`"),
        ("hidden_act", json!("sine"), "unsupported activation `sine`"),
        (
            "position_embedding_type",
            json!("relative_key"),
            "`relative_key` is not supported",
        ),
        ("is_decoder", json!(true), "a decoder is not supported"),
    ];
    for (key, value, part) in cases {
        let mut changed = config();
        changed[key] = value;
        folder.write("config.json", &changed)?;
        let complaint = folder.complaint();
        assert!(complaint.contains(part), "{complaint}");
    }
    let mut without = config();
    if let Some(keys) = without.as_object_mut() {
        keys.remove("vocab_size");
    }
    folder.write("config.json", &without)?;
    assert!(
        folder.complaint().contains("missing field `vocab_size`"),
        "{}",
        folder.complaint()
    );
    Ok(())
}

#[test]
fn module_lists_that_cannot_run_are_refused() -> Outcome {
    let folder = Folder::new()?;
    let module =
        |class: &str, path: &str| json!({ "idx": 0, "name": "x", "path": path, "type": class });
    let cases = [
        (
            modules(&["CNN"]),
            "unsupported module `sentence_transformers.models.CNN`",
        ),
        (modules(&[]), "the second module is no Pooling"),
        (json!([]), "the first module is no Transformer"),
        (
            json!([module("models.Pooling", "1_Pooling")]),
            "the first module is no Transformer",
        ),
        (
            json!([module("models.Transformer", "../elsewhere")]),
            "leaves the folder",
        ),
        (
            json!([module("models.Transformer", "/tmp")]),
            "leaves the folder",
        ),
        (json!([{ "idx": 0 }]), "missing field `path`"),
        (json!({}), "`modules.json`"),
    ];
    for (list, part) in cases {
        folder.write("modules.json", &list)?;
        let complaint = folder.complaint();
        assert!(complaint.contains(part), "{complaint}");
    }
    folder.write("modules.json", &modules(&["Pooling", "Dense"]))?;
    assert!(
        folder
            .complaint()
            .ends_with("`2_Dense/config.json` is missing")
    );
    let dense = |inputs: i32, activation: &str| json!({ "in_features": inputs, "out_features": 3, "bias": true, "activation_function": activation });
    folder.write(
        "2_Dense/config.json",
        &dense(5, "torch.nn.modules.linear.Identity"),
    )?;
    assert!(
        folder
            .complaint()
            .contains("field `in_features`: 5, but the module before it gives 8")
    );
    folder.write(
        "2_Dense/config.json",
        &dense(HIDDEN, "torch.nn.modules.activation.Sine"),
    )?;
    assert!(
        folder
            .complaint()
            .contains("`torch.nn.modules.activation.Sine` is not supported")
    );
    folder.write(
        "2_Dense/config.json",
        &dense(HIDDEN, "torch.nn.modules.activation.Tanh"),
    )?;
    assert!(
        folder
            .complaint()
            .ends_with("`2_Dense/model.safetensors` is missing")
    );
    let weights = HashMap::from([("linear.weight", Array::ones::<f32>(&[3, 4])?)]);
    save_safetensors(
        folder.path().join("2_Dense/model.safetensors"),
        weights.iter().map(|(key, array)| (*key, array)),
        &HashMap::new(),
    )?;
    let complaint = folder.complaint();
    assert!(
        complaint.contains("2_Dense/model.safetensors")
            && complaint.contains("expected [3, 8], found [3, 4]"),
        "{complaint}"
    );
    Ok(())
}

#[test]
fn settings_of_the_folder_are_read() -> Outcome {
    let folder = Folder::new()?;
    let settings = json!({
        "prompts": { "query": "query ", "document": "" },
        "default_prompt_name": null,
        "similarity_fn_name": "dot",
    });
    folder.write("config_sentence_transformers.json", &settings)?;
    let model = folder.load()?;
    assert_eq!(model.similarity(), Similarity::Dot);
    assert_eq!(model.max_seq_length(), 12);
    assert_eq!(
        model.prompts().collect::<Vec<_>>(),
        [("document", ""), ("query", "query ")]
    );
    for (settings, part) in [
        (
            json!({ "default_prompt_name": "query" }),
            "there is no prompt `query`",
        ),
        (
            json!({ "similarity_fn_name": "hamming" }),
            "`hamming` is not supported",
        ),
    ] {
        folder.write("config_sentence_transformers.json", &settings)?;
        assert!(folder.complaint().contains(part), "{}", folder.complaint());
    }
    Ok(())
}

#[test]
fn the_length_of_texts_comes_from_the_first_file_that_says_it() -> Outcome {
    let folder = Folder::new()?;
    folder.write(
        "sentence_bert_config.json",
        &json!({ "max_seq_length": 999 }),
    )?;
    assert_eq!(
        folder.load()?.max_seq_length(),
        16,
        "no more than positions"
    );
    folder.write(
        "sentence_bert_config.json",
        &json!({ "max_seq_length": null }),
    )?;
    folder.write("tokenizer_config.json", &json!({ "model_max_length": 9 }))?;
    assert_eq!(folder.load()?.max_seq_length(), 9);
    folder.write(
        "tokenizer_config.json",
        &json!({ "model_max_length": 1e30 }),
    )?;
    assert_eq!(folder.load()?.max_seq_length(), 16);
    folder.write("sentence_bert_config.json", &json!({ "max_seq_length": 2 }))?;
    assert!(
        folder
            .complaint()
            .contains("leaves no room beside 2 special tokens")
    );
    Ok(())
}

#[test]
fn callers_can_add_architectures() -> Outcome {
    let folder = Folder::new()?;
    let mut other = config();
    other["model_type"] = json!("my-bert");
    folder.write("config.json", &other)?;
    let mut registry = Registry::new();
    assert_eq!(registry.model_types(), registry::MODEL_TYPES);
    registry.register("my-bert", registry.constructor("bert")?);
    let model = Embedder::load_with(folder.path(), &registry)?;
    assert_eq!(model.dimension(), HIDDEN);
    let unknown = registry.constructor("abacus").err();
    let hint = unknown.and_then(|error| error.hint());
    assert_eq!(hint.as_deref(), Some("supported are bert, my-bert"));
    Ok(())
}
