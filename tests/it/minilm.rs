//! all-MiniLM-L6-v2 against the reference: transformers with the pooling of sentence-transformers.
//! The model is fetched into the cache on first use.

use std::fs;
use std::sync::OnceLock;

use mlx_embed::{Embedder, EncodeOptions};
use mlx_sys::vendor;
use serde_json::Value;

use crate::support::{
    Outcome, arrays, copied, fails, fixture, ids, json, program, relative_difference, values,
};

/// The least cosine between our vector and the reference's.
const ALIKE: f32 = 0.9999;

fn model() -> &'static Embedder {
    static MODEL: OnceLock<Embedder> = OnceLock::new();
    MODEL.get_or_init(|| {
        Embedder::load(vendor::fetch_model("all-minilm-l6-v2", &mut |_| {}).unwrap()).unwrap()
    })
}

fn sentences() -> Vec<(String, Vec<u32>)> {
    let cases: Vec<Value> = serde_json::from_value(json(fixture("minilm/sentences.json"))).unwrap();
    cases
        .iter()
        .map(|case| (case["text"].as_str().unwrap().to_owned(), ids(&case["ids"])))
        .collect()
}

fn encode(texts: &[String], batch_size: usize) -> Result<Vec<Vec<f32>>, mlx_embed::Error> {
    let mut options = EncodeOptions::default();
    options.batch_size = batch_size;
    let vectors = values(&model().encode(texts, options)?);
    Ok(vectors.chunks(384).map(<[f32]>::to_vec).collect())
}

/// The cosine of two vectors of any length.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn sentences_become_the_same_tokens() -> Outcome {
    assert_eq!(model().max_seq_length(), 256);
    for (text, expected) in sentences() {
        assert_eq!(model().token_ids(&text)?, expected, "{text:?}");
    }
    Ok(())
}

#[test]
fn vectors_are_those_of_the_reference() -> Outcome {
    let tolerance: f32 =
        serde_json::from_value(json(fixture("minilm/note.json"))["tolerance"].clone())?;
    let golden = values(&arrays(fixture("minilm/golden.safetensors"))["embeddings"]);
    let texts: Vec<String> = sentences().into_iter().map(|(text, _)| text).collect();
    let found = encode(&texts, 32)?;
    assert_eq!((texts.len(), found.len(), golden.len()), (64, 64, 64 * 384));
    for ((text, found), expected) in texts.iter().zip(&found).zip(golden.chunks(384)) {
        let alike = cosine(found, expected);
        assert!(alike >= ALIKE, "{alike}: {text:?}");
        let gap = relative_difference(found, expected);
        assert!(gap <= tolerance, "{gap:.2e}: {text:?}");
    }
    Ok(())
}

#[test]
fn company_in_a_batch_changes_nothing() -> Outcome {
    let mut all = sentences();
    all.sort_by_key(|(_, ids)| ids.len());
    // Padded to the longest of all, every sentence would cost as much as that one.
    let (short, long): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, ids)| ids.len() <= 40);
    let (shortest, longest) = (
        short.first().ok_or("none short")?,
        long.last().ok_or("none long")?,
    );
    let batches = [
        vec![longest.0.clone(), shortest.0.clone()],
        short.iter().map(|(text, _)| text.clone()).collect(),
    ];
    for texts in batches {
        let together = encode(&texts, texts.len())?;
        let alone = encode(&texts, 1)?;
        for ((text, together), alone) in texts.iter().zip(&together).zip(&alone) {
            let gap = relative_difference(together, alone);
            assert!(gap <= 1e-5, "{gap:.2e}: {text:?}");
        }
    }
    Ok(())
}

#[test]
fn the_program_explains_what_is_wrong_with_a_model() -> Outcome {
    let run = |model: &std::path::Path| {
        program("mlx-embed")
            .args(["encode", "hi", "--model"])
            .arg(model)
            .output()
    };
    fails(&run("no/such/model".as_ref())?, 1, "no/such/model");
    let good = vendor::fetch_model("all-minilm-l6-v2", &mut |_| {})?;
    let damages: [(&str, Option<&[u8]>, &str); 8] = [
        ("config.json", None, "config.json"),
        ("config.json", Some(b"not json"), "config.json"),
        (
            "config.json",
            Some(br#"{"model_type": "abacus"}"#),
            "abacus",
        ),
        ("modules.json", Some(b"{"), "modules.json"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("tokenizer.json", Some(b"{"), "tokenizer"),
        ("model.safetensors", None, "model.safetensors"),
        (
            "model.safetensors",
            Some(b"\x10\0\0\0\0\0\0\0{}"),
            "model.safetensors",
        ),
    ];
    for (name, content, part) in damages {
        let folder = tempfile::tempdir()?;
        for entry in [
            "config.json",
            "modules.json",
            "sentence_bert_config.json",
            "tokenizer.json",
            "model.safetensors",
        ] {
            // Ninety megabytes need no copying.
            std::os::unix::fs::symlink(good.join(entry), folder.path().join(entry))?;
        }
        fs::create_dir(folder.path().join("1_Pooling"))?;
        fs::copy(
            good.join("1_Pooling/config.json"),
            folder.path().join("1_Pooling/config.json"),
        )?;
        fs::remove_file(folder.path().join(name))?;
        if let Some(content) = content {
            fs::write(folder.path().join(name), content)?;
        }
        fails(&run(folder.path())?, 1, part);
    }
    fails(&run(copied(fixture("lm/llama/f32")).path())?, 1, "llama");
    Ok(())
}
