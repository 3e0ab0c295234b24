//! `mlx-embed encode`: vectors for texts.

use std::path::PathBuf;

use clap::Args;
use mlx_embed::{CancelFlag, EncodeOptions};

use mlx_lm::cli::{Failure, interrupt_flag};

use super::model::{ModelArguments, check};
use super::output::Output;
use super::texts::Texts;

/// Texts encoded together: enough to sort by length, few enough to show results early.
const WINDOW: usize = 1024;

/// Arguments of `mlx-embed encode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-embed encode \"A man is eating food.\" \"The girl is carrying a baby.\"
  mlx-embed encode --json < sentences.txt > vectors.jsonl
  mlx-embed encode --file sentences.txt --output vectors.npy
  mlx-embed encode --model models/nomic --prompt-name query --truncate-dim 256 \"Who eats?\"

Without texts and --file, each line of standard input is one text.
Without --json and --output, each line of output holds the numbers of one vector.")]
pub(crate) struct Arguments {
    /// The texts
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    texts: Vec<String>,
    /// Take each line of a file as one text; `-` is standard input
    #[arg(short, long, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Which of the model's prompts precedes each text
    #[arg(long, value_name = "NAME", conflicts_with = "prompt")]
    prompt_name: Option<String>,
    /// Text that precedes each text
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Give vectors length one, or not, whatever the model's folder says
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    normalize: Option<bool>,
    /// Write one JSON object a line, with index, text and embedding
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// Write all vectors as one array to a .npy or .safetensors file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Arguments {
    fn options(&self, cancel: &CancelFlag) -> EncodeOptions {
        let mut options = self.model.options(cancel);
        options.prompt.clone_from(&self.prompt);
        options.prompt_name.clone_from(&self.prompt_name);
        options.normalize = self.normalize;
        options
    }
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    let cancel = interrupt_flag();
    let options = arguments.options(&cancel);
    let mut output = Output::new(arguments.output.as_deref(), arguments.json)?;
    let mut texts = Texts::open(arguments.texts, arguments.file.as_deref())?;
    let model = arguments.model.load(&cancel)?;
    // Also shows at once whether the options fit the model.
    let empty = model.encode::<&str>(&[], options.clone())?;
    let mut done = 0;
    loop {
        let window = texts.next(WINDOW)?;
        check(&cancel)?;
        if window.is_empty() {
            break;
        }
        let vectors = model.encode(&window, options.clone())?;
        output.write(done, &window, vectors)?;
        done += window.len();
    }
    output.finish(arguments.model.name(), &empty)
}
