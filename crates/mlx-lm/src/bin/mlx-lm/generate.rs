//! `mlx-lm generate`: text for a prompt.

use std::time::Instant;

use clap::Args;
use mlx_lm::chat::{Message, OutputPart, ReasoningParser, ToolFormat, ToolParser};
use mlx_lm::cli::{Failure, Progress, Unit, interrupt_flag, note, read_stdin, write_out};
use mlx_lm::{CancelFlag, Error, Generation, LoadedModel, Stats};
use serde_json::{Map, Value, json};

use super::model::RunArguments;
use super::sampling::SamplingArguments;
use super::template::TemplateArguments;

/// Arguments of `mlx-lm generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm generate --prompt \"What is the capital of France?\"
  mlx-lm generate --model models/qwen3-0.6b --prompt \"Write a haiku\" --temp 0.7 --seed 1
  mlx-lm generate --model model.gguf --prompt - --max-tokens 200 < question.txt
  mlx-lm generate --prompt \"Say hi\" --json | jq .text
  mlx-lm generate --model org/name --quantize 4 --prompt \"Say hi\" --stop \"\\n\"

Sampling values that are not given come from the model's generation_config.json.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: RunArguments,
    /// What to answer or continue; `-` reads standard input
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// Instructions that precede the conversation
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    /// Upper limit of tokens to write
    #[arg(short, long, default_value_t = 100, value_name = "N")]
    max_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    template: TemplateArguments,
    /// Words that the answer begins with
    #[arg(long, value_name = "TEXT", conflicts_with = "ignore_chat_template")]
    prefill_response: Option<String>,
    /// Further token that ends the answer; may be given several times
    #[arg(long, value_name = "TOKEN")]
    extra_eos_token: Vec<String>,
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
    let mut model = arguments.model.load(arguments.quiet, &cancel)?;
    for token in &arguments.extra_eos_token {
        let id = model.tokenizer().token_to_id(token).ok_or_else(|| {
            Failure::usage(
                format!("--extra-eos-token: `{token}` is no token of this model"),
                "spell it as the model's vocabulary does",
            )
        })?;
        model.tokenizer_mut().add_eos_ids([id]);
    }
    if arguments.verbose {
        let took = started.elapsed().as_secs_f64();
        note(&format!(
            "Model: {} ({took:.2} s to load)\n",
            model.path().display()
        ));
    }
    let mut generation = start(arguments, &model, &prompt, &cancel)?;
    let (text, tokens) = stream(arguments, &mut generation)?;
    let stats = generation.stats();
    if arguments.json {
        let mut record = record(&model, &text, &stats);
        if let Some(map) = record.as_object_mut()
            && let Some(rendered) = conversation(arguments, &model, &prompt)?
        {
            let tools = arguments.template.tools()?.unwrap_or_default();
            map.extend(parts(&model, &rendered, &tokens, &tools)?);
        }
        return write_out(&format!("{record}\n"));
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
    let options = arguments
        .sampling
        .options()
        .max_tokens(arguments.max_tokens)
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
    let generation = match conversation(arguments, model, prompt)? {
        Some(rendered) => {
            let tokens = model.tokenizer().encode(&rendered, false)?;
            model.generate_tokens(&tokens, &options)?
        }
        None => model.generate(prompt, &options)?,
    };
    let mut progress = Progress::new("reading the prompt", Unit::Tokens, arguments.quiet);
    Ok(generation.on_prefill(move |done, total| progress.set(done, total)))
}

/// The prompt as the model's chat template renders it, if there is one that applies.
fn conversation(
    arguments: &Arguments,
    model: &LoadedModel,
    prompt: &str,
) -> Result<Option<String>, Failure> {
    if arguments.ignore_chat_template || model.tokenizer().chat_templates().is_empty() {
        let flag = match (&arguments.system, &arguments.prefill_response) {
            (Some(_), _) => "--system",
            (_, Some(_)) => "--prefill-response",
            _ => return Ok(None),
        };
        return Err(Failure::usage(
            format!("{flag} needs a chat template, and this model has none or it is ignored"),
            "put the text into --prompt",
        ));
    }
    let system = arguments
        .system
        .iter()
        .map(|text| Message::system(text.as_str()));
    let messages: Vec<Message> = system.chain([Message::user(prompt)]).collect();
    let options = arguments.template.options()?;
    let mut rendered = model.tokenizer().apply_chat_template(&messages, &options)?;
    rendered.push_str(arguments.prefill_response.as_deref().unwrap_or_default());
    Ok(Some(rendered))
}

/// Writes text as it comes, unless it is wanted as JSON, and returns all of it.
fn stream(
    arguments: &Arguments,
    generation: &mut Generation<'_>,
) -> Result<(String, Vec<u32>), Failure> {
    let (mut text, mut tokens) = (String::new(), Vec::new());
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
        tokens.push(segment.token);
    }
    if !arguments.json {
        write_out("\n")?;
    }
    Ok((text, tokens))
}

/// What of an answer is thought, what is said, and which tools it calls.
fn parts(
    model: &LoadedModel,
    prompt: &str,
    tokens: &[u32],
    tools: &[Value],
) -> Result<Map<String, Value>, Failure> {
    let tokenizer = model.tokenizer();
    let templates = tokenizer.chat_templates();
    let sources: Vec<&str> = templates
        .names()
        .filter_map(|name| templates.source(name))
        .collect();
    let source = sources.join("\n");
    let mut thoughts = ReasoningParser::detect(&source, prompt);
    let format = ToolFormat::detect(&source, |token| tokenizer.token_to_id(token).is_some());
    let mut marks: Vec<&str> = format.map(ToolFormat::marks).unwrap_or_default().to_vec();
    let thought_marks = thoughts
        .as_ref()
        .map(|parser| parser.marks().map(str::to_owned));
    marks.extend(thought_marks.iter().flatten().map(String::as_str));
    let mut detokenizer = tokenizer.detokenizer_showing(marks);
    let mut text = String::new();
    for &token in tokens.iter().filter(|&&token| !tokenizer.is_eos(token)) {
        text.push_str(&detokenizer.push(token)?);
    }
    text.push_str(&detokenizer.finish()?);
    let (mut reasoning, mut content) = (String::new(), text);
    if let Some(parser) = &mut thoughts {
        let sorted = [parser.push(&content), parser.finish()];
        content.clear();
        for part in sorted {
            reasoning.push_str(&part.reasoning);
            content.push_str(&part.content);
        }
    }
    let mut calls = Vec::new();
    if let Some(format) = format {
        let mut parser = ToolParser::new(format, tools);
        let found = [parser.push(&content), parser.finish()].concat();
        content.clear();
        for part in found {
            match part {
                OutputPart::Text(text) => content.push_str(&text),
                OutputPart::Reasoning(text) => reasoning.push_str(&text),
                OutputPart::Call(call) => calls.push(call.to_message_entry()),
                _ => {}
            }
        }
    }
    let mut parts = Map::new();
    parts.insert("content".to_owned(), json!(content.trim()));
    if !reasoning.trim().is_empty() {
        parts.insert("reasoning_content".to_owned(), json!(reasoning.trim()));
    }
    if !calls.is_empty() {
        parts.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Ok(parts)
}

pub(crate) fn summary(stats: &Stats) -> String {
    let megabytes = stats.peak_memory / 1_000_000;
    format!(
        "Prompt: {} tokens, {:.1} tokens-per-sec\nGeneration: {} tokens, {:.1} tokens-per-sec\nPeak memory: {megabytes} MB\n",
        stats.prompt_tokens,
        stats.prompt_tps(),
        stats.generation_tokens,
        stats.generation_tps(),
    )
}

fn record(model: &LoadedModel, text: &str, stats: &Stats) -> Value {
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
