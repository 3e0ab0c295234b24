//! `mlx-lm download`: a model from the Hub into the cache.

use clap::Args;
use mlx_lm::cli::{Failure, interrupt_flag, note, update_model, write_out};

/// Arguments of `mlx-lm download`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm download mlx-community/Qwen3-0.6B-4bit
  mlx-lm download org/name --revision v1.0
  mlx-lm download org/name/model-Q4_K_M.gguf

Prints the folder or file. An interrupted download goes on where it ended. HF_TOKEN, HF_HOME,
HF_ENDPOINT and HF_HUB_OFFLINE are honoured.")]
pub(crate) struct Arguments {
    /// Hub id: org/name, org/name@revision or org/name/file.gguf
    #[arg(value_name = "ID", required_unless_present = "model")]
    id: Option<String>,
    /// The same as a flag
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    model: Option<String>,
    /// Branch, tag or commit
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
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
    let id = arguments.id.as_ref().or(arguments.model.as_ref());
    let id = id.map(String::as_str).unwrap_or_default();
    let cancel = interrupt_flag();
    let path = update_model(id, arguments.revision.as_deref(), arguments.quiet, &cancel)?;
    if !arguments.quiet {
        note("The model is in the cache.\n");
    }
    write_out(&format!("{}\n", path.display()))
}
