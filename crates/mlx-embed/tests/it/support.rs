//! Tiny sentence-transformers folders with random weights from fixed seeds.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use mlx_core::Array;
use mlx_core::io::save_safetensors;
use mlx_core::ops::random;
use mlx_embed::Embedder;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

pub(crate) const HIDDEN: i32 = 8;
const WORDS: [&str; 12] = [
    "a", "man", "is", "eating", "food", "the", "girl", "carrying", "baby", "who", "eats", "query",
];

/// A two-layer BERT, its tokenizer, mean pooling and normalisation.
pub(crate) struct Folder {
    root: TempDir,
    pub(crate) weights: HashMap<String, Array>,
}

impl Folder {
    pub(crate) fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let folder = Self {
            root: TempDir::new()?,
            weights: weights()?,
        };
        folder.write("config.json", &config())?;
        folder.write("tokenizer.json", &tokenizer())?;
        folder.write(
            "sentence_bert_config.json",
            &json!({ "max_seq_length": 12 }),
        )?;
        folder.write("modules.json", &modules(&["Pooling", "Normalize"]))?;
        folder.pooling(
            &json!({ "word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": true }),
        )?;
        folder.save()?;
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn write(&self, file: &str, json: &Value) -> Outcome {
        let path = self.path().join(file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(path, serde_json::to_vec(json)?)?)
    }

    pub(crate) fn remove(&self, file: &str) -> Outcome {
        Ok(fs::remove_file(self.path().join(file))?)
    }

    pub(crate) fn pooling(&self, config: &Value) -> Outcome {
        self.write("1_Pooling/config.json", config)
    }

    /// Writes the weights as they are now.
    pub(crate) fn save(&self) -> Outcome {
        let path = self.path().join("model.safetensors");
        Ok(save_safetensors(path, &self.weights, &HashMap::new())?)
    }

    pub(crate) fn load(&self) -> mlx_embed::Result<Embedder> {
        Embedder::load(self.path())
    }

    /// The whole message of the failure to load.
    pub(crate) fn complaint(&self) -> String {
        match self.load() {
            Ok(_) => "loads".to_owned(),
            Err(error) => chain(&error),
        }
    }
}

/// An error and its causes, as a terminal shows them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// `modules.json` with a Transformer and these, numbered as sentence-transformers does.
pub(crate) fn modules(classes: &[&str]) -> Value {
    let mut all = vec![
        json!({ "idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer" }),
    ];
    for (place, class) in (1..).zip(classes) {
        all.push(json!({
            "idx": place,
            "name": place.to_string(),
            "path": format!("{place}_{class}"),
            "type": format!("sentence_transformers.models.{class}"),
        }));
    }
    Value::Array(all)
}

pub(crate) fn config() -> Value {
    json!({
        "model_type": "bert",
        "vocab_size": 32,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    })
}

/// Lower-case words split at spaces, between [CLS] and [SEP]. As in many published files, its own
/// truncation and padding are not those of the model.
fn tokenizer() -> Value {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let all = special.iter().chain(&WORDS).enumerate();
    let vocab: serde_json::Map<String, Value> = all
        .map(|(id, word)| ((*word).to_owned(), json!(id)))
        .collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({
                "id": id, "content": token, "special": true, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        })
        .collect();
    let token = |name: &str, id: u32| json!({ "id": name, "ids": [id], "tokens": [name] });
    json!({
        "version": "1.0",
        "truncation": { "max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right" },
        "padding": {
            "strategy": { "Fixed": 4 }, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "[CLS]", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "[SEP]", "type_id": 0 } },
            ],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "[CLS]": token("[CLS]", 2), "[SEP]": token("[SEP]", 3) },
        },
        "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    })
}

fn weights() -> mlx_core::Result<HashMap<String, Array>> {
    let mut shapes: Vec<(String, Vec<i32>)> = Vec::new();
    let norm = |shapes: &mut Vec<(String, Vec<i32>)>, name: String| {
        shapes.push((format!("{name}.LayerNorm.weight"), vec![HIDDEN]));
        shapes.push((format!("{name}.LayerNorm.bias"), vec![HIDDEN]));
    };
    let dense = |shapes: &mut Vec<(String, Vec<i32>)>, name: String, out: i32, dims: i32| {
        shapes.push((format!("{name}.weight"), vec![out, dims]));
        shapes.push((format!("{name}.bias"), vec![out]));
    };
    for (table, rows) in [("word", 32), ("position", 16), ("token_type", 2)] {
        shapes.push((
            format!("embeddings.{table}_embeddings.weight"),
            vec![rows, HIDDEN],
        ));
    }
    norm(&mut shapes, "embeddings".to_owned());
    for layer in 0..2 {
        let layer = format!("encoder.layer.{layer}");
        for part in ["query", "key", "value"] {
            dense(
                &mut shapes,
                format!("{layer}.attention.self.{part}"),
                HIDDEN,
                HIDDEN,
            );
        }
        dense(
            &mut shapes,
            format!("{layer}.attention.output.dense"),
            HIDDEN,
            HIDDEN,
        );
        norm(&mut shapes, format!("{layer}.attention.output"));
        dense(
            &mut shapes,
            format!("{layer}.intermediate.dense"),
            64,
            HIDDEN,
        );
        dense(&mut shapes, format!("{layer}.output.dense"), HIDDEN, 64);
        norm(&mut shapes, format!("{layer}.output"));
    }
    let mut arrays = HashMap::new();
    for (seed, (key, shape)) in (0..).zip(shapes) {
        let noise = random::normal::<f32>(0.0, 0.5, &shape, Some(&random::key(seed)?))?;
        let array = match key.ends_with("LayerNorm.weight") {
            true => (noise + 1.0)?,
            false => noise,
        };
        arrays.insert(key, array);
    }
    Ok(arrays)
}

/// The rows of an `[N, D]` array.
pub(crate) fn rows(x: &Array) -> Result<Vec<Vec<f32>>, Box<dyn std::error::Error>> {
    let columns = usize::try_from(x.dim(1)?)?;
    Ok(x.to_vec::<f32>()?
        .chunks(columns)
        .map(<[f32]>::to_vec)
        .collect())
}

pub(crate) fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// Fails unless both hold the same numbers within `tolerance`.
#[track_caller]
pub(crate) fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (x, y) in a.iter().zip(b) {
        assert!((x - y).abs() <= tolerance, "{a:?}\n{b:?}");
    }
}
