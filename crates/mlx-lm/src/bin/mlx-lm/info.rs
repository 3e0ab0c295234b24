//! `mlx-lm info`: what a model is, without running it.

use std::path::Path;

use clap::Args;
use mlx_lm::cli::{Failure, interrupt_flag, write_out};
use mlx_lm::{Error, LoadedModel, Loader};
use serde_json::{Value, json};

use super::model::ModelArguments;

/// Arguments of `mlx-lm info`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm info --model models/qwen3-0.6b
  mlx-lm info --model model.gguf --json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let cancel = interrupt_flag();
    let path = arguments.model.find(arguments.json, &cancel)?;
    let facts = match Loader::new(&path).cancel(&cancel).load() {
        Ok(model) => facts(&model),
        // A model that cannot be run still has a configuration to show.
        Err(error) => match unsupported(&path, &error) {
            Some(facts) => facts,
            None => return Err(error.into()),
        },
    };
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
            Value::String(text) => format!("{key:<20} {text}\n"),
            other => format!("{key:<20} {other}\n"),
        };
        facts.into_iter().map(line).collect()
    };
    write_out(&text)
}

/// What the configuration tells of a model that is whole and yet cannot be run, and why.
fn unsupported(path: &Path, error: &Error) -> Option<Vec<(&'static str, Value)>> {
    let Error::Load { source, .. } = error else {
        return None;
    };
    if !matches!(**source, Error::UnsupportedModel { .. }) {
        return None;
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
        ("why", json!(source.to_string())),
        ("model_type", config("model_type")),
        ("bytes", json!(weights)),
        ("layers", config("num_hidden_layers")),
        ("hidden_size", config("hidden_size")),
        ("vocab_size", config("vocab_size")),
        ("context", config("max_position_embeddings")),
    ])
}

fn facts(model: &LoadedModel) -> Vec<(&'static str, Value)> {
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
        ("vocab_size", json!(model.model().vocab_size())),
        ("context", json!(model.model().max_position_embeddings())),
        ("chat_templates", json!(templates)),
        ("eos_token_ids", json!(model.tokenizer().eos_ids())),
        ("temperature", json!(model.sampling().temperature)),
        ("top_p", json!(model.sampling().top_p)),
    ]
}
