//! `mlx-lm chat`: a conversation on the terminal.

mod commands;
mod input;
mod reply;

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use mlx_lm::CancelFlag;
use mlx_lm::chat::Message;
use mlx_lm::cli::{Failure, note, write_out};
use mlx_lm::generate::ChatSession;

use self::commands::Next;
use self::input::{Input, Line};
use super::caching::CacheArguments;
use super::constraint::ConstraintArguments;
use super::drafting::DraftArguments;
use super::model::RunArguments;
use super::sampling::SamplingArguments;
use super::template::TemplateArguments;

/// Arguments of `mlx-lm chat`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm chat
  mlx-lm chat --model models/qwen3-0.6b --system \"Answer in French.\" --temp 0.7
  mlx-lm chat --load talk.json
  mlx-lm chat --model org/large --draft-model org/small --kv-bits 8

Ctrl-C stops the answer, Ctrl-D leaves. A line that ends in \\ goes on in the next one; lines
between two lines of three quotes are one message. /help lists the commands. Each answer begins with
what the model remembers: only new tokens are processed.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: RunArguments,
    /// Instructions that precede the conversation
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    system: Option<String>,
    /// Upper limit of tokens of an answer
    #[arg(short, long, default_value_t = 2048, value_name = "N")]
    max_tokens: usize,
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
    /// Go on with a conversation that /save wrote
    #[arg(long, value_name = "FILE")]
    load: Option<PathBuf>,
    /// Show statistics after each answer
    #[arg(short, long)]
    verbose: bool,
    /// Write answers only: no greeting, no progress, no warnings
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
}

impl Arguments {
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

/// The conversation and its settings.
pub(super) struct Session<'m> {
    chat: ChatSession<'m>,
    /// The answer that another is to replace, until that is there.
    replaced: Option<Message>,
    /// Whether there is an answer of which to tell.
    answered: bool,
    verbose: bool,
    quiet: bool,
    /// Whether thoughts are set apart with colour.
    colour: bool,
    interrupt: Interrupt,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let interrupt = Interrupt::install();
    let cancel = interrupt.begin();
    let grammar = arguments.constraint.grammar()?;
    let budget = arguments.caching.budget(2 * arguments.max_tokens);
    let named = arguments.model.own_heads(arguments.drafting.own_heads());
    let model = named.load(budget, arguments.quiet, &cancel)?;
    if model.tokenizer().chat_templates().is_empty() {
        return Err(Failure::usage(
            "this model has no chat template",
            "continue texts with `mlx-lm generate`, or choose a chat model",
        ));
    }
    let draft = arguments.drafting.load(arguments.quiet, &cancel)?;
    interrupt.end();
    let options = arguments.sampling.options(model.tokenizer())?;
    let options = arguments
        .caching
        .apply(options)
        .max_tokens(arguments.max_tokens)
        .grammar(grammar);
    let mut chat = ChatSession::new(&model, &options).render(arguments.template.options()?);
    if let Some(speculation) = arguments.drafting.speculation(&model, draft.as_ref())? {
        chat = chat.speculation(speculation);
    }
    if let Some(system) = &arguments.system {
        chat.push(Message::system(system.as_str()));
    }
    let mut session = Session {
        chat,
        replaced: None,
        answered: false,
        verbose: arguments.verbose,
        quiet: arguments.quiet,
        colour: stderr().is_terminal() && std::io::stdout().is_terminal(),
        interrupt,
    };
    if let Some(path) = &arguments.load {
        session.load(path)?;
    }
    let mut input = Input::new();
    if !arguments.quiet && input.is_terminal() {
        note(&format!(
            "{}\nCtrl-C stops an answer, Ctrl-D leaves, /help lists the commands.\n",
            model.path().display()
        ));
    }
    loop {
        let line = match input.read()? {
            Line::Message(text) => text,
            Line::Interrupted => {
                note("Ctrl-D or /quit leaves.\n");
                continue;
            }
            Line::End => break,
        };
        if line.trim().is_empty() {
            continue;
        }
        let outcome = match line.trim().strip_prefix('/') {
            Some(command) => match session.command(command) {
                Ok(Next::Go) => Ok(()),
                Ok(Next::Answer) => session.answer(),
                Ok(Next::Quit) => break,
                Err(failure) => Err(failure),
            },
            None => {
                session.chat.push(Message::user(line));
                session.answer()
            }
        };
        match outcome {
            Ok(()) => {}
            // A conversation outlives what goes wrong in it; a script does not.
            Err(failure) if input.is_terminal() => note(&failure.text()),
            Err(failure) => return Err(failure),
        }
    }
    if input.is_terminal() && !arguments.quiet {
        write_out("\n")?;
    }
    Ok(())
}

/// Ctrl-C: stops the answer if there is one, else the program.
#[derive(Debug, Clone)]
struct Interrupt(Arc<Mutex<Option<CancelFlag>>>);

impl Interrupt {
    fn install() -> Self {
        let interrupt = Self(Arc::new(Mutex::new(None)));
        let current = interrupt.clone();
        let installed = ctrlc::set_handler(move || match &*current.lock() {
            Some(flag) if !flag.is_cancelled() => flag.cancel(),
            _ => std::process::exit(130),
        });
        if let Err(error) = installed {
            tracing::debug!(%error, "Ctrl-C ends the process without cleaning up");
        }
        interrupt
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<CancelFlag>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh flag for the work that begins.
    fn begin(&self) -> CancelFlag {
        let flag = CancelFlag::new();
        *self.lock() = Some(flag.clone());
        flag
    }

    fn end(&self) {
        *self.lock() = None;
    }
}
