//! `mlx-lm cache-prompt`, and the use of what it keeps.

use std::path::{Path, PathBuf};

use clap::Args;
use mlx_lm::chat::Message;
use mlx_lm::cli::{Failure, NewFile, Progress, Unit, interrupt_flag, note, read_stdin, write_out};
use mlx_lm::generate::PromptCache;
use mlx_lm::{GenerateOptions, LoadedModel};
use serde_json::json;

use super::caching::CacheArguments;
use super::model::RunArguments;
use super::template::TemplateArguments;

/// Arguments of `mlx-lm cache-prompt`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm cache-prompt --prompt-cache-file book.safetensors --prompt - < book.txt
  mlx-lm generate --prompt-cache-file book.safetensors --prompt \"Who is the narrator?\"
  mlx-lm cache-prompt --model org/name --kv-bits 8 --prompt-cache-file rules.safetensors \\
      --prompt \"Rules of the house: ...\"

With a chat template, the text becomes the beginning of the user's message, which the prompt of
`mlx-lm generate` completes. Python's mlx-lm reads the same files.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: RunArguments,
    /// What to remember; `-` reads standard input
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// Where to keep it
    #[arg(long, value_name = "FILE")]
    prompt_cache_file: PathBuf,
    /// Instructions that precede the conversation
    #[arg(
        long,
        visible_alias = "system-prompt",
        value_name = "TEXT",
        conflicts_with = "ignore_chat_template"
    )]
    system: Option<String>,
    #[command(flatten)]
    caching: CacheArguments,
    #[command(flatten)]
    template: TemplateArguments,
    /// Remember the text as it stands
    #[arg(long)]
    ignore_chat_template: bool,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress and no statistics
    #[arg(short, long)]
    quiet: bool,
}

impl Arguments {
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let prompt = match arguments.prompt.as_str() {
        "-" => read_stdin("the prompt")?,
        text => text.to_owned(),
    };
    // Nobody should wait for a long prompt to learn that the file cannot be made.
    let file = NewFile::create(&arguments.prompt_cache_file)?;
    let cancel = interrupt_flag();
    let budget = arguments.caching.budget(prompt.len() / 4);
    let model = arguments.model.load(budget, arguments.quiet, &cancel)?;
    let tokens = tokens(arguments, &model, &prompt)?;
    let options = arguments
        .caching
        .apply(GenerateOptions::default())
        .cancel(cancel);
    let mut progress = Progress::new("reading the prompt", Unit::Tokens, arguments.quiet);
    let mut cache = PromptCache::compute(&model, &tokens, &options, |done, total| {
        progress.set(done, total);
    })?;
    if let Some(name) = arguments.model.name() {
        cache = cache.named(name.display().to_string());
    }
    cache.save(file.temporary())?;
    let bytes = std::fs::metadata(file.temporary()).map_or(0, |data| data.len());
    file.finish()?;
    if arguments.json {
        let record = json!({
            "prompt_cache_file": arguments.prompt_cache_file.display().to_string(),
            "prompt_tokens": cache.len(),
            "bytes": bytes,
        });
        return write_out(&format!("{record}\n"));
    }
    if !arguments.quiet {
        let size = mlx_lm::memory::human(bytes);
        let path = arguments.prompt_cache_file.display();
        note(&format!("{} tokens in {path}, {size}\n", cache.len()));
    }
    Ok(())
}

fn tokens(arguments: &Arguments, model: &LoadedModel, prompt: &str) -> Result<Vec<u32>, Failure> {
    let tokenizer = model.tokenizer();
    if arguments.ignore_chat_template || tokenizer.chat_templates().is_empty() {
        if arguments.system.is_some() {
            return Err(Failure::usage(
                "--system needs a chat template, and this model has none",
                "put the text into --prompt",
            ));
        }
        return Ok(tokenizer.encode(prompt, true)?);
    }
    let system = arguments
        .system
        .iter()
        .map(|text| Message::system(text.as_str()));
    let messages: Vec<Message> = system.chain([Message::user(prompt)]).collect();
    let options = arguments.template.options()?.continue_final_message();
    let rendered = tokenizer.apply_chat_template(&messages, &options)?;
    Ok(tokenizer.encode(&rendered, false)?)
}

/// Reads what `cache-prompt` has kept.
pub(crate) fn load(path: &Path) -> Result<PromptCache, Failure> {
    PromptCache::load(path).map_err(|error| {
        Failure::from_error(
            &error,
            "make the file with `mlx-lm cache-prompt`, or with Python's `mlx_lm.cache_prompt`",
        )
        .about(path)
    })
}

/// The model to load: the one that the cache was made with.
pub(crate) fn model(
    arguments: &RunArguments,
    cache: Option<&PromptCache>,
) -> Result<RunArguments, Failure> {
    let Some(made_with) = cache.and_then(PromptCache::model).map(Path::new) else {
        return Ok(arguments.clone());
    };
    let Some(given) = arguments.name() else {
        return Ok(arguments.of(made_with));
    };
    let place = |path: &Path| path.canonicalize().ok();
    let same = given == made_with || (place(given).is_some() && place(given) == place(made_with));
    match same {
        true => Ok(arguments.clone()),
        false => Err(Failure::usage(
            format!(
                "the prompt cache was made with {}, not with {}",
                made_with.display(),
                given.display()
            ),
            "leave --model out, or make the cache anew",
        )),
    }
}

/// Refuses a cache of other layers than the model's: its name may be the same by accident.
pub(crate) fn fits(cache: &PromptCache, model: &LoadedModel) -> Result<(), Failure> {
    let (found, expected) = (
        cache.cache().len(),
        model.model().make_cache(&Default::default()).len(),
    );
    match found == expected {
        true => Ok(()),
        false => Err(Failure::usage(
            format!("the prompt cache has {found} layers, the model {expected}"),
            "make the cache anew with this model",
        )),
    }
}
