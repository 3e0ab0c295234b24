//! `mlx-lm perplexity`: how well a model predicts a text.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use mlx_core::memory;
use mlx_lm::cli::{Failure, Progress, Unit, interrupt_flag, write_out};
use mlx_lm::evaluate::{Perplexity, likelihood};
use mlx_lm::memory::MemoryBudget;
use serde_json::json;

use super::lines::{Record, read_records};
use super::model::RunArguments;

/// Arguments of `mlx-lm perplexity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm perplexity --file book.txt
  mlx-lm perplexity --model models/qwen3-0.6b --file test.jsonl --sequence-length 1024 --json

A .jsonl file holds an object with the key \"text\" on each line; any other file is one text.
The tokens of all texts are joined, BOS before each, and cut into sequences.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: RunArguments,
    /// The text; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Tokens per sequence
    #[arg(short = 'l', long, default_value_t = 512, value_name = "N")]
    sequence_length: usize,
    /// At most so many sequences
    #[arg(short = 'n', long, value_name = "N")]
    num_samples: Option<usize>,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Arguments {
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.sequence_length < 2 {
        return Err(Failure::usage(
            "--sequence-length must be 2 or more",
            "512 is customary",
        ));
    }
    let texts = texts(&arguments.file)?;
    let cancel = interrupt_flag();
    let model = arguments
        .model
        .load(MemoryBudget::default(), arguments.quiet, &cancel)?;
    let mut tokens = Vec::new();
    for text in &texts {
        tokens.extend(model.tokenizer().encode(text, true)?);
    }
    let sequences: Vec<&[u32]> = tokens
        .chunks(arguments.sequence_length)
        .filter(|sequence| sequence.len() > 1)
        .take(arguments.num_samples.unwrap_or(usize::MAX))
        .collect();
    let started = Instant::now();
    let mut logprobs = Vec::new();
    let mut progress = Progress::new("scoring", Unit::Items, arguments.quiet);
    for (done, sequence) in sequences.iter().enumerate() {
        progress.set(done, sequences.len());
        logprobs.extend(likelihood(model.model(), sequence, &cancel)?.logprobs);
    }
    drop(progress);
    let result = Perplexity::new(&logprobs).ok_or_else(|| {
        Failure::usage("the text has fewer than two tokens", "give a longer text")
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let count = f64::from(u32::try_from(result.tokens).unwrap_or(u32::MAX));
    let peak = memory::peak_memory().unwrap_or(0);
    if arguments.json {
        let record = json!({
            "model": model.path().display().to_string(),
            "perplexity": result.value,
            "standard_error": result.error,
            "tokens": result.tokens,
            "sequences": sequences.len(),
            "sequence_length": arguments.sequence_length,
            "tokens_per_second": count / seconds,
            "peak_memory_bytes": peak,
        });
        return write_out(&format!("{record}\n"));
    }
    write_out(&format!(
        "Perplexity: {:.3} ± {:.3}\nTokens: {} in {} sequences, {:.1} tokens-per-sec\nPeak memory: {} MB\n",
        result.value,
        result.error,
        result.tokens,
        sequences.len(),
        count / seconds,
        peak / 1_000_000
    ))
}

fn texts(path: &std::path::Path) -> Result<Vec<String>, Failure> {
    let jsonl = path.extension().is_some_and(|end| end == "jsonl");
    if !jsonl {
        return Ok(vec![super::lines::read_text(path)?]);
    }
    read_records(path)?
        .into_iter()
        .map(
            |Record { line, value }| match value.get("text").and_then(|text| text.as_str()) {
                Some(text) => Ok(text.to_owned()),
                None => Err(Failure::usage(
                    format!("line {line} of {} has no string `text`", path.display()),
                    "each line is an object with the key \"text\"",
                )),
            },
        )
        .collect()
}
