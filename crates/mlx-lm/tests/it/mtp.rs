//! Models that propose tokens by heads of their own, and drafters that cannot go back.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use mlx_core::io::{SafetensorsFile, save_safetensors};
use mlx_core::ops::indexing::slice;
use mlx_core::{Array, Dtype};
use mlx_lm::cache::CacheOptions;
use mlx_lm::generate::{Event, Generator, Request, SequenceId, Speculation};
use mlx_lm::load::{QuantizeOptions, SaveOptions};
use mlx_lm::sample::SamplingOptions;
use mlx_lm::{Error, LoadedModel, Loader};
use tempfile::TempDir;

use crate::support::{Outcome, row};

type Failure = Box<dyn std::error::Error>;

const CASES: [&str; 5] = [
    "deepseek_v3",
    "glm4_moe",
    "qwen3_next",
    "qwen3_5_text",
    "qwen3_5_moe_text",
];

fn fixture(path: impl AsRef<Path>) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    fixtures.join(path)
}

fn arrays(path: impl AsRef<Path>) -> Result<HashMap<String, Array>, Failure> {
    let file = SafetensorsFile::open(path.as_ref())?;
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let read = |name: String| {
        let array = file.read(&name)?;
        Ok((name, array))
    };
    names.into_iter().map(read).collect()
}

/// A checkpoint without heads, as a folder of its own.
fn plain(path: &str) -> Result<TempDir, Failure> {
    let folder = TempDir::new()?;
    let source = fixture("lm").join(path);
    let mut weights = source.join("model.safetensors");
    if !weights.exists() {
        // Some cases are another configuration of the same weights.
        weights = source.join("../f32/model.safetensors");
    }
    for (from, name) in [
        (source.join("config.json"), "config.json"),
        (weights, "model.safetensors"),
    ] {
        fs::copy(from, folder.path().join(name))?;
    }
    let tokenizer = fixture("lm/llama/f32/tokenizer.json");
    fs::copy(tokenizer, folder.path().join("tokenizer.json"))?;
    Ok(folder)
}

/// The same with the random heads that belong to it.
fn with_heads(model_type: &str) -> Result<TempDir, Failure> {
    let folder = plain(&format!("{model_type}/f32"))?;
    let heads = fixture("lm-mtp").join(model_type).join("heads.safetensors");
    fs::copy(heads, folder.path().join("model-heads.safetensors"))?;
    Ok(folder)
}

/// A model whose layers add nothing, so that a token alone decides what follows it, and a head that
/// knows that: it passes on the embedding, normalised as the model does it.
fn foreseeing(model_type: &str) -> Result<TempDir, Failure> {
    let folder = with_heads(model_type)?;
    let is_qwen = model_type.starts_with("qwen");
    let mut norm = None;
    for name in ["model.safetensors", "model-heads.safetensors"] {
        let path = folder.path().join(name);
        let mut weights = arrays(&path)?;
        norm = norm.or_else(|| weights.get("model.norm.weight").cloned());
        for (key, array) in &mut weights {
            let key = key.trim_end_matches(".weight");
            let shape = array.shape().to_vec();
            if ["o_proj", "out_proj", "down_proj"]
                .iter()
                .any(|end| key.ends_with(end))
            {
                *array = (&*array * 0.0)?;
            } else if key.ends_with("enorm") || key.ends_with("pre_fc_norm_embedding") {
                *array = norm.clone().ok_or("no norm")?;
            } else if key.ends_with("shared_head.norm") || key == "mtp.norm" {
                let one = if is_qwen { 0.0 } else { 1.0 };
                *array = ((&*array * 0.0)? + one)?;
            } else if key.ends_with("eh_proj") || key == "mtp.fc" {
                let identity: Vec<f32> = (0..shape[0])
                    .flat_map(|row| (0..shape[1]).map(move |at| f32::from(u8::from(row == at))))
                    .collect();
                *array = Array::from_slice::<f32>(&identity, &shape)?;
            }
        }
        // Its own matrices would know other tokens.
        weights.retain(|key, _| !key.ends_with("shared_head.head.weight"));
        weights.retain(|key, _| key.starts_with("model.embed") || !key.contains("embed_tokens"));
        save_safetensors(&path, &weights, &HashMap::new())?;
    }
    Ok(folder)
}

fn load(folder: &TempDir) -> Result<LoadedModel, Error> {
    let loader = Loader::new(folder.path()).dtype(Dtype::Float32);
    loader.own_heads(true).load()
}

fn values(array: &Array) -> Result<Vec<f32>, Failure> {
    Ok(array.to_vec::<f32>()?)
}

fn close(what: &str, found: &Array, expected: &Array) -> Outcome {
    assert_eq!(found.size(), expected.size(), "{what}");
    let (found, expected) = (values(found)?, values(expected)?);
    let scale = expected
        .iter()
        .fold(1e-30_f32, |most, value| most.max(value.abs()));
    let gaps = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    let gap = gaps.fold(0.0, f32::max) / scale;
    assert!(gap < 1e-4, "{what}: {gap:.1e}");
    Ok(())
}

#[test]
fn heads_compute_what_their_definition_says() -> Outcome {
    for model_type in CASES {
        let model = load(&with_heads(model_type)?)?;
        let golden = fixture("lm-mtp")
            .join(model_type)
            .join("golden.safetensors");
        let golden = arrays(golden)?;
        let heads = model.model().multi_token().ok_or("no heads")?;
        let tokens = golden["tokens"].astype(Dtype::Uint32)?.to_vec::<u32>()?;
        let hidden = &golden["hidden"];
        let (length, width) = (hidden.dim(1)?, hidden.dim(2)?);
        let mut cache = heads.make_cache();
        let next = heads.hidden(hidden, &row(&tokens[..tokens.len() - 1])?, &mut cache)?;
        close(model_type, &next, &golden["next"])?;
        close(model_type, &heads.logits(&next)?, &golden["logits"])?;
        let last = slice(&next, &[0, length - 1, 0], &[1, length, width])?;
        let chained = heads.hidden(&last, &row(&tokens[tokens.len() - 1..])?, &mut cache)?;
        close(model_type, &heads.logits(&chained)?, &golden["chained"])?;
        // The same pairs in two pieces.
        let mut cache = heads.make_cache();
        for (start, stop) in [(0, 3), (3, length)] {
            let piece = slice(hidden, &[0, start, 0], &[1, stop, width])?;
            let range = usize::try_from(start)?..usize::try_from(stop)?;
            let found = heads.hidden(&piece, &row(&tokens[range])?, &mut cache)?;
            let expected = slice(&golden["next"], &[0, start, 0], &[1, stop, width])?;
            close(model_type, &found, &expected)?;
        }
    }
    Ok(())
}

fn prompt(seed: u32, length: u32) -> Vec<u32> {
    (0..length)
        .map(|at| (at * 97 + seed * 131 + 7) % 290 + 3)
        .collect()
}

fn ragged() -> Vec<Request> {
    (0..3)
        .map(|seed| Request::new(prompt(seed, 3 + seed * 9)).max_tokens(14 + 3 * seed as usize))
        .collect()
}

/// What a generator answers, and for each of its steps how many tokens of each sequence were drafted
/// and how many were not.
#[derive(Default)]
struct Answers {
    tokens: Vec<Vec<u32>>,
    steps: Vec<BTreeMap<SequenceId, (usize, usize)>>,
}

impl Answers {
    fn drafted(&self) -> usize {
        let steps = self.steps.iter().flat_map(BTreeMap::values);
        steps.map(|(drafted, _)| drafted).sum()
    }
}

fn answers(
    model: &LoadedModel,
    speculation: Option<Speculation<'_>>,
    requests: Vec<Request>,
) -> Result<Answers, Error> {
    let mut generator = Generator::new(model.model());
    if let Some(speculation) = speculation {
        generator = generator.speculation(speculation);
    }
    let mut ids = Vec::new();
    for request in requests {
        ids.push(generator.insert(request)?);
    }
    let mut answers = Answers::default();
    let mut tokens: BTreeMap<SequenceId, Vec<u32>> = BTreeMap::new();
    while !generator.is_idle() {
        let mut step: BTreeMap<SequenceId, (usize, usize)> = BTreeMap::new();
        for event in generator.step()? {
            match event {
                Event::Segment { id, segment } => {
                    tokens.entry(id).or_default().push(segment.token);
                    let counts = step.entry(id).or_default();
                    match segment.from_draft {
                        true => counts.0 += 1,
                        false => counts.1 += 1,
                    }
                }
                Event::Failed { error, .. } => return Err(error),
                _ => {}
            }
        }
        answers.steps.push(step);
    }
    answers.tokens = ids.iter().filter_map(|id| tokens.remove(id)).collect();
    Ok(answers)
}

#[test]
fn own_heads_change_no_greedy_answer() -> Outcome {
    for model_type in CASES {
        let model = load(&with_heads(model_type)?)?;
        let expected = answers(&model, None, ragged())?.tokens;
        for count in [1, 3] {
            let speculation = Speculation::own_heads(count);
            let found = answers(&model, Some(speculation.clone()), ragged())?;
            assert_eq!(found.tokens, expected, "{model_type}, {count}");
            for (request, expected) in ragged().into_iter().zip(&expected) {
                let found = answers(&model, Some(speculation.clone()), vec![request])?;
                assert_eq!(&found.tokens[0], expected, "{model_type}, {count}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_head_that_foresees_the_model_is_believed() -> Outcome {
    for model_type in CASES {
        let model = load(&foreseeing(model_type)?)?;
        let expected = answers(&model, None, ragged())?.tokens;
        let found = answers(&model, Some(Speculation::own_heads(2)), ragged())?;
        assert_eq!(found.tokens, expected, "{model_type}");
        // Prompts join one after the other. All but a first token come two drafted ones and one
        // more at a time, and the last passes are as short as the answer.
        let most: usize = expected
            .iter()
            .map(|tokens| (tokens.len() - 1) * 2 / 3)
            .sum();
        assert_eq!(found.drafted(), most, "{model_type}");
    }
    Ok(())
}

#[test]
fn heads_stay_on_the_disk_unless_asked_for() -> Outcome {
    for model_type in CASES {
        let folder = with_heads(model_type)?;
        let without = Loader::new(folder.path()).dtype(Dtype::Float32).load()?;
        assert!(without.model().multi_token().is_none());
        let bare = Loader::new(plain(&format!("{model_type}/f32"))?.path())
            .dtype(Dtype::Float32)
            .own_heads(true)
            .load()?;
        assert!(bare.model().multi_token().is_none());
        assert_eq!(without.size(), bare.size());
        let whole = load(&folder)?;
        assert!(whole.size().bytes > bare.size().bytes);
        let estimate = |own_heads| Loader::new(folder.path()).own_heads(own_heads).estimate();
        assert!(estimate(true)?.weights > estimate(false)?.weights);

        let refused = answers(&without, Some(Speculation::own_heads(1)), ragged());
        let Err(error) = refused else {
            return Err("drafts without heads".into());
        };
        assert!(error.to_string().contains("heads"), "{error}");
    }
    Ok(())
}

#[test]
fn copies_keep_their_heads() -> Outcome {
    for model_type in CASES {
        let whole = load(&with_heads(model_type)?)?;
        let target = TempDir::new()?;
        let expected = answers(&whole, Some(Speculation::own_heads(2)), ragged())?;
        whole.save(target.path().join("copy"), &SaveOptions::default())?;
        let loader = || Loader::new(target.path().join("copy")).own_heads(true);
        let again = loader().load()?;
        let found = answers(&again, Some(Speculation::own_heads(2)), ragged())?;
        assert_eq!(found.tokens, expected.tokens, "{model_type}");
        assert_eq!(found.drafted(), expected.drafted(), "{model_type}");
        let bits = QuantizeOptions::bits(4).group_size(32);
        let small = loader().quantize(bits).load()?;
        let expected = answers(&small, None, ragged())?.tokens;
        let found = answers(&small, Some(Speculation::own_heads(2)), ragged())?;
        assert_eq!(found.tokens, expected, "{model_type} of 4 bits");
    }
    Ok(())
}

#[test]
fn heads_of_a_multimodal_checkpoint_are_found_beside_the_text_part() -> Outcome {
    let folder = with_heads("qwen3_5_text")?;
    let text: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("config.json"))?)?;
    let outer = serde_json::json!({"model_type": "qwen3_5", "text_config": text});
    fs::write(folder.path().join("config.json"), outer.to_string())?;
    let path = folder.path().join("model.safetensors");
    let wrapped = arrays(&path)?
        .into_iter()
        .map(|(key, array)| match key.strip_prefix("model.") {
            Some(rest) => (format!("model.language_model.{rest}"), array),
            None => (key, array),
        });
    save_safetensors(&path, &wrapped.collect::<HashMap<_, _>>(), &HashMap::new())?;
    let model = load(&folder)?;
    let expected = answers(&load(&with_heads("qwen3_5_text")?)?, None, ragged())?;
    let found = answers(&model, Some(Speculation::own_heads(2)), ragged())?;
    assert_eq!(found.tokens, expected.tokens);
    Ok(())
}

/// The probabilities of the two likeliest tokens after some, and which they are.
fn likeliest(model: &LoadedModel, tokens: &[u32]) -> Result<[(u32, f64); 2], Failure> {
    let mut cache = model.model().make_cache(&CacheOptions::default());
    let logits = model.model().forward(&row(tokens)?, &mut cache)?;
    let (length, vocab) = (logits.dim(1)?, logits.dim(2)?);
    let last = slice(&logits, &[0, length - 1, 0], &[1, length, vocab])?;
    let mut all: Vec<(u32, f32)> = (0..).zip(values(&last.reshape(&[-1])?)?).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    let second = f64::from(all[1].1 - all[0].1).exp();
    let first = 1.0 / (1.0 + second);
    Ok([(all[0].0, first), (all[1].0, second * first)])
}

#[test]
fn drawn_answers_are_distributed_as_without_heads() -> Outcome {
    const DRAWS: usize = 600;
    let model = load(&foreseeing("deepseek_v3")?)?;
    let prompt = prompt(1, 6);
    let request = |seed| {
        let sampling = SamplingOptions::default().temperature(1.0).top_k(2);
        Request::new(prompt.clone())
            .max_tokens(3)
            .sampling(sampling.seed(Some(seed)))
    };
    let requests: Vec<Request> = (0..DRAWS as u64).map(request).collect();
    let found = answers(&model, Some(Speculation::own_heads(1)), requests)?;
    assert!(found.drafted() > DRAWS / 10, "{}", found.drafted());
    for (first, p_first) in likeliest(&model, &prompt)? {
        let after = [prompt.as_slice(), &[first]].concat();
        for (second, p_second) in likeliest(&model, &after)? {
            let pairs = found.tokens.iter().filter(|t| t[..2] == [first, second]);
            let part = pairs.count() as f64 / DRAWS as f64;
            let expected = p_first * p_second;
            // Four and a half standard deviations.
            let spread = 4.5 * (expected * (1.0 - expected) / DRAWS as f64).sqrt();
            assert!((part - expected).abs() < spread, "{part} for {expected}");
        }
    }
    Ok(())
}

/// A drafter whose cache cannot be trimmed, for a model that at times departs from what it proposes,
/// goes on proposing after that.
#[test]
fn a_drafter_that_cannot_go_back_goes_on() -> Outcome {
    for path in ["qwen3_next/f32", "mistral/sliding", "mamba2/f32"] {
        let folder = plain(path)?;
        let model = Loader::new(folder.path()).dtype(Dtype::Float32).load()?;
        // Drafts are drawn without looking back.
        let sampling = SamplingOptions::default().repetition_penalty(1.6);
        let requests = || {
            let with = |request: Request| request.max_tokens(40).sampling(sampling.clone());
            ragged().into_iter().map(with).collect::<Vec<_>>()
        };
        let expected = answers(&model, None, requests())?.tokens;
        let speculation = Speculation::model(model.model(), 3);
        let found = answers(&model, Some(speculation), requests())?;
        assert_eq!(found.tokens, expected, "{path}");
        let ids: Vec<SequenceId> = found
            .steps
            .iter()
            .flat_map(BTreeMap::keys)
            .copied()
            .collect();
        for id in ids {
            let drafted: Vec<usize> = found
                .steps
                .iter()
                .filter_map(|step| Some(step.get(&id)?.0))
                .collect();
            let refused = drafted.iter().position(|&drafted| drafted < 3);
            let refused = refused.ok_or("no draft was refused")?;
            let later: usize = drafted[refused + 1..].iter().sum();
            assert!(later > 0, "{path}: {drafted:?}");
        }
    }
    Ok(())
}

#[cfg(feature = "cli")]
mod command {
    use std::process::{Command, Output};

    use serde_json::Value;

    use super::{Outcome, foreseeing, plain};

    fn run(arguments: &[&str]) -> std::io::Result<Output> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-lm"));
        command
            .env_clear()
            .env("MLX_SYS_OFFLINE", "1")
            .env("HF_HUB_OFFLINE", "1");
        command.args(arguments).output()
    }

    fn json(arguments: &[&str]) -> Result<Value, super::Failure> {
        let output = run(arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    #[test]
    fn the_program_drafts_by_the_models_own_head() -> Outcome {
        let folder = foreseeing("glm4_moe")?;
        let model = folder.path().to_str().ok_or("no text")?;
        let generate = [
            "generate",
            "--json",
            "--ignore-chat-template",
            "--temp",
            "0",
        ];
        let what = [
            "--model",
            model,
            "--prompt",
            "the sea",
            "--max-tokens",
            "24",
        ];
        let alone = json(&[&generate[..], &what].concat())?;
        let drafted = json(&[&generate[..], &what, &["--mtp"]].concat())?;
        assert_eq!(drafted["text"], alone["text"]);
        assert_eq!(alone["draft_tokens"], 0);
        assert!(drafted["draft_tokens"].as_u64() > Some(0), "{drafted}");

        let benchmark = ["benchmark", "--json", "-p", "5", "-g", "12", "-n", "1"];
        let what = ["--model", model, "--batch-size", "1", "3"];
        let found = json(&[&benchmark[..], &what, &["--mtp"]].concat())?;
        for result in found["results"].as_array().ok_or("no results")? {
            assert!(result["drafted_part"].as_f64() > Some(0.5), "{result}");
            assert!(result["generation_tps"].as_f64() > Some(0.0), "{result}");
        }
        Ok(())
    }

    #[test]
    fn a_head_that_is_not_there_is_an_error() -> Outcome {
        for case in ["glm4_moe/f32", "llama/f32"] {
            let folder = plain(case)?;
            let model = folder.path().to_str().ok_or("no text")?;
            for command in [
                &["generate", "--prompt", "a", "--ignore-chat-template"][..],
                &["benchmark", "-p", "4", "-g", "2"],
            ] {
                let output = run(&[command, &["--mtp", "--quiet", "--model", model]].concat())?;
                assert_eq!(output.status.code(), Some(1));
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(errors.starts_with("error: --mtp: "), "{errors}");
                assert!(errors.contains("hint: "), "{errors}");
            }
        }
        Ok(())
    }
}
