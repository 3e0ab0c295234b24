//! Prompt caches that Python mlx-lm has written.

use std::collections::BTreeSet;
use std::fs;

use mlx_core::Dtype;
use mlx_core::io::SafetensorsFile;
use mlx_lm::cache::KvQuantization;
use mlx_lm::generate::{Event, Generator, PromptCache, Request};
use mlx_lm::{GenerateOptions, LoadedModel, Loader};
use serde_json::Value;

use crate::support::{Outcome, copied, fixture, ids, json};

fn load(checkpoint: &str) -> Result<LoadedModel, Box<dyn std::error::Error>> {
    let folder = copied(fixture("lm").join(checkpoint));
    let tokenizer = folder.path().join("tokenizer.json");
    if !tokenizer.exists() {
        fs::copy(fixture("lm/llama/f32/tokenizer.json"), tokenizer)?;
    }
    Ok(Loader::new(folder.path()).dtype(Dtype::Float32).load()?)
}

/// Greedy tokens of one request.
fn tokens(model: &LoadedModel, request: Request) -> Result<Vec<u32>, mlx_lm::Error> {
    let mut generator = Generator::new(model.model());
    generator.insert(request)?;
    let mut found = Vec::new();
    while !generator.is_idle() {
        for event in generator.step()? {
            match event {
                Event::Segment { segment, .. } => found.push(segment.token),
                Event::Failed { error, .. } => return Err(error),
                _ => {}
            }
        }
    }
    Ok(found)
}

/// Names of arrays and of metadata, the tokens that only we note left out.
fn layout(path: &std::path::Path) -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
    let file = SafetensorsFile::open(path)?;
    let mut names: BTreeSet<String> = file.names().map(str::to_owned).collect();
    let pairs = file.metadata().iter();
    let ours = |key: &&String| *key != "0.tokens" && !key.starts_with("0.state_offset");
    names.extend(pairs.filter(|(key, _)| ours(key)).map(
        |(key, value)| match key.starts_with("0.") {
            true => format!("metadata {key}"),
            false => format!("metadata {key} {value}"),
        },
    ));
    Ok(names)
}

#[test]
fn caches_go_on_as_in_python_and_are_written_alike() -> Outcome {
    let golden = json(fixture("prompt-cache/golden.json"));
    let cases = golden.as_object().ok_or("not an object")?;
    assert_eq!(cases.len(), 5);
    let scratch = tempfile::tempdir()?;
    for (name, case) in cases {
        let model = load(case["checkpoint"].as_str().ok_or("no checkpoint")?)?;
        let (prompt, rest) = (ids(&case["prompt"]), ids(&case["rest"]));
        let expected = ids(&case["tokens"]);
        let request = || Request::new(rest.clone()).max_tokens(expected.len());
        let path = fixture(format!("prompt-cache/golden-{name}.safetensors"));
        let theirs = PromptCache::load(&path)?;
        if name == "list" {
            // Python keeps states before attention's keys, we after: such files are refused.
            assert!(tokens(&model, theirs.follow(request())).is_err());
            continue;
        }
        assert_eq!(theirs.model(), case["checkpoint"].as_str(), "{name}");
        assert_eq!(theirs.len(), prompt.len(), "{name}");
        assert_eq!(
            tokens(&model, theirs.follow(request()))?,
            expected,
            "{name}"
        );

        let options = GenerateOptions::default().prefill_step_size(8);
        let options = match name.as_str() {
            "quantized" => options.kv_quantization(Some(KvQuantization::new(4).group_size(32))),
            _ => options,
        };
        let ours = PromptCache::compute(&model, &prompt, &options, |_, _| {})?;
        let file = scratch.path().join(format!("{name}.safetensors"));
        ours.save(&file)?;
        assert_eq!(layout(&file)?, layout(&path)?, "{name}");
        let again = PromptCache::load(&file)?;
        let followed = tokens(&model, again.follow(request()))?;
        // Python lets a chunk of the prompt see itself unpacked and packs it afterwards, so that at
        // 4 bits later tokens may differ.
        if name != "quantized" {
            assert_eq!(followed, expected, "{name}");
        }
    }
    Ok(())
}

#[test]
fn a_cache_of_unknown_tokens_counts_as_prompt_and_is_not_handed_out() -> Outcome {
    let golden = json(fixture("prompt-cache/golden.json"));
    let case: &Value = &golden["kv"];
    let model = load("llama/f32")?;
    let theirs = PromptCache::load(fixture("prompt-cache/golden-kv.safetensors"))?;
    let mut generator = Generator::new(model.model());
    generator.insert(theirs.follow(Request::new(ids(&case["rest"])).max_tokens(2)))?;
    let mut counted = None;
    while !generator.is_idle() {
        for event in generator.step()? {
            if let Event::Finished { stats, .. } = event {
                counted = Some((stats.prompt_tokens, stats.cached_tokens));
            }
        }
    }
    assert_eq!(counted, Some((25, 21)));
    let mut request = theirs.follow(Request::new(ids(&case["rest"])));
    request.keep_cache = true;
    assert!(generator.insert(request).is_err());
    // What is packed in one way is not packed in another.
    let mut packed = PromptCache::load(fixture("prompt-cache/golden-quantized.safetensors"))?;
    assert!(
        packed
            .quantize(KvQuantization::new(8).group_size(32))
            .is_err()
    );
    assert!(
        packed
            .quantize(KvQuantization::new(4).group_size(32))
            .is_ok()
    );
    Ok(())
}
