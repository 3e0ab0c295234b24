//! Tokenizers, streamed decoding and chat templates against the goldens of transformers.

mod chat;
mod encode;
mod files;
mod folder;
mod stream;
mod tools;

use std::path::{Path, PathBuf};

use mlx_lm::tokenizer::{GgufVocab, Tokenizer};
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn golden(name: &str) -> Value {
    let path = fixtures().join("text").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn corpus() -> Vec<String> {
    serde_json::from_value(golden("corpus.json")["texts"].clone()).unwrap()
}

fn ids(text: &Value) -> Vec<u32> {
    let text = text.as_str().unwrap();
    text.split_whitespace()
        .map(|id| id.parse().unwrap())
        .collect()
}

fn prose() -> Tokenizer {
    Tokenizer::from_folder(fixtures().join("prose-5m")).unwrap()
}

fn sentencepiece(golden: &Value) -> Tokenizer {
    let field = |name: &str| golden[name].clone();
    let id = |name: &str| serde_json::from_value(field(name)).unwrap();
    let vocab = GgufVocab {
        architecture: "llama".to_owned(),
        model: "llama".to_owned(),
        tokens: serde_json::from_value(field("tokens")).unwrap(),
        scores: serde_json::from_value(field("scores")).unwrap(),
        token_types: serde_json::from_value(field("token_types")).unwrap(),
        bos: id("bos"),
        eos: id("eos"),
        unk: id("unk"),
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf(&vocab).unwrap()
}

/// The default model's tokenizer, from its GGUF file; fetched on first use.
fn smollm2() -> Tokenizer {
    let folder = mlx_sys::vendor::fetch_model("smollm2-135m-instruct", &mut |_| {}).unwrap();
    let file = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .unwrap();
    mlx_lm::load(file).unwrap().tokenizer().clone()
}
