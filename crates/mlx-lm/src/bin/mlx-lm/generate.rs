//! `mlx-lm generate`: text for a prompt.

mod parts;
mod stream;

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use mlx_lm::chat::Message;
use mlx_lm::cli::{Failure, Progress, Unit, interrupt_flag, note, read_stdin, write_out};
use mlx_lm::generate::{GeneratorOptions, PromptCache, Speculation};
use mlx_lm::{
    GenerateOptions, Generation, Generator, LoadedModel, Request, SamplingOptions, Stats,
};
use serde_json::{Value, json};

use self::stream::Answer;
use super::caching::CacheArguments;
use super::constraint::ConstraintArguments;
use super::drafting::DraftArguments;
use super::model::RunArguments;
use super::sampling::SamplingArguments;
use super::template::TemplateArguments;
use super::{logprobs, prompt_cache};

/// Arguments of `mlx-lm generate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm generate --prompt \"What is the capital of France?\"
  mlx-lm generate --model models/qwen3-0.6b --prompt \"Write a haiku\" --temp 0.7 --seed 1
  mlx-lm generate --model model.gguf --prompt - --max-tokens 200 < question.txt
  mlx-lm generate --prompt \"Say hi\" --json | jq .text
  mlx-lm generate --prompt \"Name a city and its country.\" --json-schema city.json
  mlx-lm generate --prompt \"Is water wet?\" --regex \"yes|no\" --logprobs 3
  mlx-lm generate --model org/large --draft-model org/small --prompt \"Explain tides\"
  mlx-lm generate --model models/qwen3.5-4b --mtp --prompt \"Explain tides\"
  mlx-lm generate --prompt-cache-file book.safetensors --prompt \"Who is the narrator?\"
  mlx-lm generate --model org/name --quantize 4 --kv-bits 8 --prompt \"Say hi\" --stop \"\\n\"

Sampling values that are not given come from the model's generation_config.json.
Exit codes: 0, 1 for failure, 2 for wrong usage, 130 if Ctrl-C cut the answer short; what came
until then has been written.")]
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
    /// Go on from what `mlx-lm cache-prompt` has kept in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["system", "max_kv_size"])]
    prompt_cache_file: Option<PathBuf>,
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    constraint: ConstraintArguments,
    #[command(flatten)]
    drafting: DraftArguments,
    #[command(flatten)]
    caching: CacheArguments,
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
    /// Tell how likely each token was, and N of the likeliest in its place
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    logprobs: Option<usize>,
    /// Write one JSON object with text and statistics
    #[arg(long)]
    json: bool,
    /// Write a JSON object for each token as it comes, and that of --json at the end
    #[arg(long, conflicts_with = "json")]
    json_lines: bool,
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
    let grammar = arguments.constraint.grammar()?;
    let cache = arguments
        .prompt_cache_file
        .as_deref()
        .map(prompt_cache::load)
        .transpose()?;
    let cancel = interrupt_flag();
    let started = Instant::now();
    let (quiet, named) = (
        arguments.quiet,
        prompt_cache::model(&arguments.model, cache.as_ref()),
    );
    // Four bytes a token is what tokenizers make of English.
    let budget = arguments
        .caching
        .budget(arguments.max_tokens + prompt.len() / 4);
    let named = named?.own_heads(arguments.drafting.own_heads());
    let mut model = named.load(budget, quiet, &cancel)?;
    add_eos(&mut model, &arguments.extra_eos_token)?;
    let draft = arguments.drafting.load(quiet, &cancel)?;
    let speculation = arguments.drafting.speculation(&model, draft.as_ref())?;
    if arguments.verbose {
        let took = started.elapsed().as_secs_f64();
        let path = model.path().display();
        note(&format!("Model: {path} ({took:.2} s to load)\n"));
    }
    let options = arguments.sampling.options(model.tokenizer())?;
    let options = arguments
        .caching
        .apply(options)
        .max_tokens(arguments.max_tokens)
        .logprobs(arguments.logprobs)
        .grammar(grammar)
        .cancel(cancel);
    let begun = Begun {
        arguments,
        model: &model,
        options,
    };
    let rendered = begun.conversation(&prompt)?;
    let mut generation = begun.start(&prompt, rendered.as_deref(), speculation, cache)?;
    let answer = stream::stream(arguments, &model, &mut generation)?;
    begun.report(&answer, rendered.as_deref(), &generation.stats())?;
    match answer.interrupted {
        true => Err(Failure::cut_short()),
        false => Ok(()),
    }
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

fn add_eos(model: &mut LoadedModel, tokens: &[String]) -> Result<(), Failure> {
    for token in tokens {
        let id = model.tokenizer().token_to_id(token).ok_or_else(|| {
            Failure::usage(
                format!("--extra-eos-token: `{token}` is no token of this model"),
                "spell it as the model's vocabulary does",
            )
        })?;
        model.tokenizer_mut().add_eos_ids([id]);
    }
    Ok(())
}

/// A model that is ready, and what is wanted of it.
struct Begun<'a> {
    arguments: &'a Arguments,
    model: &'a LoadedModel,
    options: GenerateOptions,
}

impl<'a> Begun<'a> {
    fn start(
        &self,
        prompt: &str,
        rendered: Option<&str>,
        speculation: Option<Speculation<'a>>,
        mut cache: Option<PromptCache>,
    ) -> Result<Generation<'a>, Failure> {
        let (arguments, model) = (self.arguments, self.model);
        let sampling = self.options.sampling(model.sampling());
        if arguments.verbose {
            note(&described(&sampling));
        }
        let tokens = match (rendered, &cache) {
            (Some(rendered), None) => model.tokenizer().encode(rendered, false)?,
            (Some(rendered), Some(_)) => {
                let rest = self.behind_cache(rendered)?;
                model.tokenizer().encode(&rest, false)?
            }
            (None, cache) => model.tokenizer().encode(prompt, cache.is_none())?,
        };
        let mut request = Request::with(tokens, &sampling, &self.options);
        if let Some(cache) = &mut cache {
            prompt_cache::fits(cache, model)?;
            if let Some(format) = arguments.caching.quantization() {
                cache.quantize(format)?;
            }
            request = cache.follow(request);
        }
        let mut generator = Generator::new(model.model())
            .tokenizer(model.tokenizer())
            .options(GeneratorOptions::default().cache(self.options.cache()));
        if let Some(speculation) = speculation {
            generator = generator.speculation(speculation);
        }
        let generation = Generation::of(generator, request)?;
        let mut progress = Progress::new("reading the prompt", Unit::Tokens, arguments.quiet);
        Ok(generation.on_prefill(move |done, total| progress.set(done, total)))
    }

    /// The prompt as the model's chat template renders it, if there is one that applies.
    fn conversation(&self, prompt: &str) -> Result<Option<String>, Failure> {
        let arguments = self.arguments;
        let tokenizer = self.model.tokenizer();
        if arguments.ignore_chat_template || tokenizer.chat_templates().is_empty() {
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
        let mut rendered = tokenizer.apply_chat_template(&messages, &options)?;
        rendered.push_str(arguments.prefill_response.as_deref().unwrap_or_default());
        Ok(Some(rendered))
    }

    /// What of a conversation follows the beginning that the prompt cache holds: the message,
    /// and all that the template puts behind it.
    fn behind_cache(&self, rendered: &str) -> Result<String, Failure> {
        const MARK: &str = "<query>";
        let marked = self.conversation(MARK)?.unwrap_or_default();
        let at = marked.find(MARK);
        let shared = at.and_then(|at| marked.get(..at));
        let rest = shared.and_then(|shared| rendered.strip_prefix(shared));
        rest.map(str::to_owned).ok_or_else(|| {
            Failure::usage(
                "the chat template changes the message, so it cannot follow a cached prompt",
                "use --ignore-chat-template here and for cache-prompt",
            )
        })
    }

    /// What is told besides the text.
    fn report(
        &self,
        answer: &Answer,
        rendered: Option<&str>,
        stats: &Stats,
    ) -> Result<(), Failure> {
        let (arguments, model) = (self.arguments, self.model);
        if arguments.json || arguments.json_lines {
            let mut record = record(model, answer, stats);
            if let Some(map) = record.as_object_mut() {
                if arguments.logprobs.is_some() && arguments.json {
                    let records = answer.segments.iter();
                    let records = records.map(|segment| logprobs::record(model, segment));
                    let records = records.collect::<Result<Vec<Value>, _>>()?;
                    map.insert("logprobs".to_owned(), Value::Array(records));
                }
                if let Some(rendered) = rendered {
                    let tools = arguments.template.tools()?.unwrap_or_default();
                    map.extend(parts::parts(model, rendered, &answer.tokens(), &tools)?);
                }
            }
            return write_out(&format!("{record}\n"));
        }
        if arguments.logprobs.is_some() {
            write_out(&format!("\n{}", logprobs::table(model, &answer.segments)?))?;
        }
        if !arguments.quiet && !answer.interrupted {
            note(&summary(stats));
            note(&drafted(answer, &arguments.drafting));
        }
        Ok(())
    }
}

fn described(sampling: &SamplingOptions) -> String {
    format!(
        "Sampling: temperature {}, top-p {}, top-k {}, min-p {}, repetition penalty {}\n",
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        sampling.min_p,
        sampling.repetition_penalty
    )
}

fn drafted(answer: &Answer, drafting: &DraftArguments) -> String {
    if !drafting.is_asked() {
        return String::new();
    }
    let drafted = answer.segments.iter().filter(|segment| segment.from_draft);
    format!("Drafts: {} tokens accepted\n", drafted.count())
}

pub(crate) fn summary(stats: &Stats) -> String {
    let megabytes = stats.peak_memory / 1_000_000;
    let cached = match stats.cached_tokens {
        0 => String::new(),
        cached => format!(" ({cached} of them cached)"),
    };
    format!(
        "Prompt: {} tokens{cached}, {:.1} tokens-per-sec\nGeneration: {} tokens, {:.1} tokens-per-sec\nPeak memory: {megabytes} MB\n",
        stats.prompt_tokens,
        stats.prompt_tps(),
        stats.generation_tokens,
        stats.generation_tps(),
    )
}

fn record(model: &LoadedModel, answer: &Answer, stats: &Stats) -> Value {
    let reason = match answer.interrupted {
        true => Some("interrupted".to_owned()),
        false => stats.finish_reason.map(|reason| reason.to_string()),
    };
    json!({
        "model": model.path().display().to_string(),
        "text": answer.text,
        "finish_reason": reason,
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "prompt_tps": stats.prompt_tps(),
        "generation_tokens": stats.generation_tokens,
        "generation_tps": stats.generation_tps(),
        "draft_tokens": answer.segments.iter().filter(|segment| segment.from_draft).count(),
        "peak_memory_bytes": stats.peak_memory,
    })
}
