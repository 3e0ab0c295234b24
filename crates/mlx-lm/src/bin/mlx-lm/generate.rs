//! `mlx-lm generate`: text for a prompt.

use std::time::Instant;

use clap::Args;
use mlx_lm::chat::Message;
use mlx_lm::cli::{Failure, Progress, Unit, interrupt_flag, note, read_stdin, write_out};
use mlx_lm::{CancelFlag, Error, GenerateOptions, Generation, LoadedModel, Stats};
use serde_json::json;

use super::model::ModelArguments;

/// Arguments of `mlx-lm generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm generate --prompt \"What is the capital of France?\"
  mlx-lm generate --model models/qwen3-0.6b --prompt \"Write a haiku\" --temp 0.7 --seed 1
  mlx-lm generate --model model.gguf --prompt - --max-tokens 200 < question.txt
  mlx-lm generate --prompt \"Say hi\" --json | jq .text

Sampling values that are not given come from the model's generation_config.json.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What to answer or continue; `-` reads standard input
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// Instructions that precede the conversation
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    /// Upper limit of tokens to write
    #[arg(short, long, default_value_t = 100, value_name = "N")]
    max_tokens: usize,
    /// Randomness; 0 always takes the most likely token
    #[arg(long, visible_alias = "temperature", value_name = "T")]
    temp: Option<f32>,
    /// Keep the most likely tokens up to this probability in all
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Make recent tokens less likely; 1 does nothing
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// How many recent tokens the penalty looks at
    #[arg(long, value_name = "N")]
    repetition_context_size: Option<usize>,
    /// Repeat the same random choices
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Limit of positions remembered, so that text may outgrow the model's context
    #[arg(long, value_name = "N")]
    max_kv_size: Option<i32>,
    /// Prompt tokens processed at a time
    #[arg(long, default_value_t = 2048, value_name = "N")]
    prefill_step_size: usize,
    /// Continue the prompt as it stands
    #[arg(long)]
    ignore_chat_template: bool,
    /// Write one JSON object with text and statistics
    #[arg(long)]
    json: bool,
    /// Show also how long loading took and which sampling applied
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
    /// Write the text only: no statistics, no progress, no warnings
    #[arg(short, long)]
    quiet: bool,
}

impl Arguments {
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let prompt = prompt(&arguments.prompt)?;
    let cancel = interrupt_flag();
    let started = Instant::now();
    let model = arguments.model.load(arguments.quiet, &cancel)?;
    if arguments.verbose {
        let took = started.elapsed().as_secs_f64();
        note(&format!(
            "Model: {} ({took:.2} s to load)\n",
            model.path().display()
        ));
    }
    let mut generation = start(arguments, &model, &prompt, &cancel)?;
    let text = stream(arguments, &mut generation)?;
    let stats = generation.stats();
    if arguments.json {
        return write_out(&format!("{}\n", record(&model, &text, &stats)));
    }
    if !arguments.quiet {
        note(&summary(&stats));
    }
    Ok(())
}

fn prompt(argument: &str) -> Result<String, Failure> {
    let text = match argument {
        "-" => read_stdin("the prompt")?,
        text => text.to_owned(),
    };
    if text.is_empty() {
        return Err(Failure::usage(
            "the prompt is empty",
            "give some text with --prompt, or `-` and text on standard input",
        ));
    }
    Ok(text)
}

fn start<'m>(
    arguments: &Arguments,
    model: &'m LoadedModel,
    prompt: &str,
    cancel: &CancelFlag,
) -> Result<Generation<'m>, Failure> {
    let options = GenerateOptions::default()
        .max_tokens(arguments.max_tokens)
        .temperature(arguments.temp)
        .top_p(arguments.top_p)
        .top_k(arguments.top_k)
        .min_p(arguments.min_p)
        .repetition_penalty(arguments.repetition_penalty)
        .repetition_context(arguments.repetition_context_size)
        .seed(arguments.seed)
        .stop(arguments.stop.clone())
        .max_kv_size(arguments.max_kv_size)
        .prefill_step_size(arguments.prefill_step_size)
        .cancel(cancel.clone());
    if arguments.verbose {
        let sampling = options.sampling(model.sampling());
        note(&format!(
            "Sampling: temperature {}, top-p {}, top-k {}, min-p {}, repetition penalty {}\n",
            sampling.temperature,
            sampling.top_p,
            sampling.top_k,
            sampling.min_p,
            sampling.repetition_penalty
        ));
    }
    let templated =
        !arguments.ignore_chat_template && !model.tokenizer().chat_templates().is_empty();
    let generation = if templated {
        let system = arguments
            .system
            .iter()
            .map(|text| Message::system(text.as_str()));
        let messages: Vec<Message> = system.chain([Message::user(prompt)]).collect();
        model.chat(&messages, &options)?
    } else if arguments.system.is_some() {
        let message = "--system needs a chat template, and this model has none or it is ignored";
        return Err(Failure::usage(
            message,
            "put the instructions into --prompt",
        ));
    } else {
        model.generate(prompt, &options)?
    };
    let mut progress = Progress::new("reading the prompt", Unit::Tokens, arguments.quiet);
    Ok(generation.on_prefill(move |done, total| progress.set(done, total)))
}

/// Writes text as it comes, unless it is wanted as JSON, and returns all of it.
fn stream(arguments: &Arguments, generation: &mut Generation<'_>) -> Result<String, Failure> {
    let mut text = String::new();
    for segment in generation {
        let segment = match segment {
            Ok(segment) => segment,
            Err(Error::Cancelled) if !arguments.json && !text.is_empty() => {
                write_out("\n")?;
                return Err(Failure::cut_short());
            }
            Err(error) => return Err(error.into()),
        };
        if !arguments.json && !segment.text.is_empty() {
            write_out(&segment.text)?;
        }
        text.push_str(&segment.text);
    }
    if !arguments.json {
        write_out("\n")?;
    }
    Ok(text)
}

fn summary(stats: &Stats) -> String {
    let megabytes = stats.peak_memory / 1_000_000;
    format!(
        "Prompt: {} tokens, {:.1} tokens-per-sec\nGeneration: {} tokens, {:.1} tokens-per-sec\nPeak memory: {megabytes} MB\n",
        stats.prompt_tokens,
        stats.prompt_tps(),
        stats.generation_tokens,
        stats.generation_tps(),
    )
}

fn record(model: &LoadedModel, text: &str, stats: &Stats) -> serde_json::Value {
    json!({
        "model": model.path().display().to_string(),
        "text": text,
        "finish_reason": stats.finish_reason.map(|reason| reason.to_string()),
        "prompt_tokens": stats.prompt_tokens,
        "prompt_tps": stats.prompt_tps(),
        "generation_tokens": stats.generation_tokens,
        "generation_tps": stats.generation_tps(),
        "peak_memory_bytes": stats.peak_memory,
    })
}
