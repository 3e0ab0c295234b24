//! `mlx-lm info`: what a model is, without running it.

use std::path::Path;

use clap::Args;
use mlx_lm::cli::{Failure, interrupt_flag, write_out};
use mlx_lm::load::ModelInfo;
use mlx_lm::memory::{MemoryBudget, MemoryEstimate, human};
use mlx_lm::{Error, Loader};
use serde_json::{Value, json};

use super::caching::CacheArguments;
use super::model::{MemoryArguments, ModelArguments};

/// Arguments of `mlx-lm info`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm info --model models/qwen3-0.6b
  mlx-lm info --model model.gguf --json
  mlx-lm info --model org/name --tokens 32768 --kv-bits 4 --memory-limit 8GB

The memory is estimated for one conversation of so many tokens. All of it is told from the heads of
the files alone; no weights are read.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    #[command(flatten)]
    caching: CacheArguments,
    /// Tokens of the conversation that has to fit [default: 2048]
    #[arg(
        long,
        value_name = "N",
        default_value_t = 2048,
        hide_default_value = true
    )]
    tokens: usize,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

type Facts = Vec<(&'static str, Value)>;

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cancel = interrupt_flag();
    let path = arguments.model.find(arguments.json, &cancel)?;
    let budget = arguments
        .memory
        .apply(arguments.caching.budget(arguments.tokens));
    budget.cache.validate()?;
    let available = budget.available();
    let budget = budget.limit(available);
    let loader = Loader::new(&path).memory(budget.clone()).cancel(&cancel);
    let estimate = loader.estimate();
    let mut facts = match loader.inspect() {
        Ok(model) => facts(&model),
        // A model that cannot be run still has a configuration to show.
        Err(error) => match outline(&path, &error) {
            Some(facts) => facts,
            None => return Err(error.into()),
        },
    };
    if let Ok(estimate) = estimate {
        facts.extend(memory(&estimate, &path, &arguments.caching, &budget)?);
    }
    let text = if arguments.json {
        format!(
            "{}\n",
            Value::Object(
                facts
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect()
            )
        )
    } else {
        let line = |(key, value): (&str, Value)| match value {
            Value::String(text) => format!("{key:<26} {text}\n"),
            other => format!("{key:<26} {other}\n"),
        };
        let shown = facts.into_iter().map(readable);
        shown.map(line).collect()
    };
    write_out(&text)
}

/// Bytes as people read them, where a fact is a number of bytes.
fn readable((key, value): (&'static str, Value)) -> (&'static str, Value) {
    match value.as_u64().filter(|_| key.starts_with("memory")) {
        Some(bytes) => (key, json!(human(bytes))),
        None => (key, value),
    }
}

/// What the model needs, part by part, and whether that is there.
fn memory(
    estimate: &MemoryEstimate,
    path: &Path,
    caching: &CacheArguments,
    budget: &MemoryBudget,
) -> Result<Facts, Failure> {
    let cache = |tokens: usize| -> Result<u64, Failure> {
        let budget = caching.budget(tokens);
        Ok(Loader::new(path).memory(budget).estimate()?.cache)
    };
    let per_thousand = cache(1000)?;
    let mut facts = vec![
        ("memory_weights", json!(estimate.weights)),
        ("memory_while_loading", json!(estimate.loading)),
        ("memory_cache_per_1k_tokens", json!(per_thousand)),
        ("memory_cache", json!(estimate.cache)),
        ("memory_workspace", json!(estimate.workspace)),
        ("memory_needed", json!(estimate.total())),
        ("memory_available", json!(budget.available())),
        (
            "fits",
            json!(
                budget
                    .available()
                    .map(|available| estimate.total() <= available)
            ),
        ),
    ];
    if let Err(error) = estimate.check(budget) {
        facts.push(("why", json!(error.to_string())));
    }
    Ok(facts)
}

/// What the configuration tells of a model that is whole and yet cannot be run, and why.
fn outline(path: &Path, error: &Error) -> Option<Facts> {
    let Error::Load { source, .. } = error else {
        return None;
    };
    match **source {
        // A file that is missing or damaged is no trait of the model.
        Error::MissingFile { .. } | Error::Io { .. } | Error::Json { .. } | Error::Text(_) => {
            return None;
        }
        Error::Core(mlx_core::Error::Io { .. } | mlx_core::Error::Format { .. }) => return None,
        _ => {}
    }
    let why = chain(source.as_ref());
    if path.is_file() {
        return Some(vec![
            ("path", json!(path.display().to_string())),
            ("supported", json!(false)),
            ("why", json!(why)),
        ]);
    }
    let bytes = std::fs::read(path.join("config.json")).ok()?;
    let config: Value = serde_json::from_slice(&bytes).ok()?;
    let config = |key: &str| {
        let text = config.get("text_config");
        let value = config.get(key).or_else(|| text?.get(key));
        value.cloned().unwrap_or(Value::Null)
    };
    let weights: u64 = std::fs::read_dir(path)
        .ok()?
        .flatten()
        .filter(|entry| {
            let extension = entry.path().extension().map(ToOwned::to_owned);
            extension.is_some_and(|end| end == "safetensors")
        })
        .filter_map(|entry| Some(std::fs::metadata(entry.path()).ok()?.len()))
        .sum();
    Some(vec![
        ("path", json!(path.display().to_string())),
        ("supported", json!(false)),
        ("why", json!(why)),
        ("model_type", config("model_type")),
        ("bytes", json!(weights)),
        ("layers", config("num_hidden_layers")),
        ("hidden_size", config("hidden_size")),
        ("vocab_size", config("vocab_size")),
        ("context", config("max_position_embeddings")),
    ])
}

/// An error with its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn facts(model: &ModelInfo) -> Facts {
    let config = |key: &str| model.config().get(key).cloned().unwrap_or(Value::Null);
    let size = model.size();
    let templates: Vec<&str> = model.tokenizer().chat_templates().names().collect();
    vec![
        ("path", json!(model.path().display().to_string())),
        ("supported", json!(true)),
        ("model_type", config("model_type")),
        ("parameters", json!(size.parameters)),
        ("bytes", json!(size.bytes)),
        ("dtypes", json!(size.dtypes)),
        ("layers", config("num_hidden_layers")),
        ("hidden_size", config("hidden_size")),
        ("vocab_size", json!(model.vocab_size())),
        ("context", json!(model.max_position_embeddings())),
        ("chat_templates", json!(templates)),
        ("eos_token_ids", json!(model.tokenizer().eos_ids())),
        ("temperature", json!(model.sampling().temperature)),
        ("top_p", json!(model.sampling().top_p)),
    ]
}
