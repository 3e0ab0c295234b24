//! `mlx-lm info`: what a model is, without running it.

use clap::Args;
use mlx_lm::LoadedModel;
use mlx_lm::cli::{Failure, interrupt_flag, write_out};
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
    let model = arguments.model.load(arguments.json, &cancel)?;
    let facts = facts(&model);
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

fn facts(model: &LoadedModel) -> Vec<(&'static str, Value)> {
    let config = |key: &str| model.config().get(key).cloned().unwrap_or(Value::Null);
    let size = model.size();
    let templates: Vec<&str> = model.tokenizer().chat_templates().names().collect();
    vec![
        ("path", json!(model.path().display().to_string())),
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
