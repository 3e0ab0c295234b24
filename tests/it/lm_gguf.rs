//! GGUF files of every family that is read, written by llama.cpp's own package, against what
//! transformers computes of the values that they hold.

use std::fs;

use mlx_core::Dtype;
use mlx_lm::cache::CacheOptions;
use mlx_lm::{LoadedModel, Loader};

use crate::support::{Outcome, arrays, fixture, json, relative_difference, row, tokens, values};

fn logits(
    model: &LoadedModel,
    prompt: &[u32],
    chunk: usize,
) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let model = model.model();
    let mut cache = model.make_cache(&CacheOptions::default());
    let mut all = Vec::new();
    for tokens in prompt.chunks(chunk) {
        all.extend(values(&model.forward(&row(tokens), &mut cache)?));
    }
    Ok(all)
}

#[test]
fn every_family_computes_what_its_file_holds() -> Outcome {
    let mut families = Vec::new();
    for folder in fs::read_dir(fixture("lm_gguf"))? {
        let folder = folder?.path();
        let note = json(folder.join("note.json"));
        let tolerance: f32 = serde_json::from_value(note["tolerance"].clone())?;
        let model = Loader::new(folder.join("model.gguf"))
            .dtype(Dtype::Float32)
            .load()?;
        assert_eq!(model.config()["model_type"], note["model_type"]);
        // What MLX's formats hold exactly stays packed.
        assert!(model.size().dtypes.contains_key("uint32"));
        let golden = arrays(folder.join("golden.safetensors"));
        let prompt = tokens(&golden["prompt"]);
        let expected = values(&golden["logits"]);
        for chunk in [prompt.len(), 1] {
            let found = logits(&model, &prompt, chunk)?;
            let last = &found[found.len() - expected.len()..];
            let gap = relative_difference(last, &expected);
            let shown = folder.display();
            assert!(gap <= tolerance, "{shown}, {chunk} at a time: {gap:.2e}");
        }
        families.push(note["model_type"].as_str().unwrap_or_default().to_owned());
    }
    families.sort();
    families.dedup();
    let expected = [
        "gemma2",
        "gemma3_text",
        "gpt_oss",
        "llama",
        "mixtral",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
    ];
    assert_eq!(families, expected);
    Ok(())
}
