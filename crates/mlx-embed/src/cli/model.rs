//! Finding and loading the model that a command works on.

use std::path::{Path, PathBuf};

use clap::Args;
use mlx_embed::{CancelFlag, Embedder, EncodeOptions};
use mlx_lm::cli::{Failure, default_model, find_model};
use mlx_lm::hub::HubId;

/// The small real model that runs when none is named.
const DEFAULT_MODEL: &str = "all-minilm-l6-v2";

/// Arguments that every command takes.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// Model folder or Hub id [default: all-MiniLM-L6-v2]
    #[arg(short, long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// How many texts the model sees at a time
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch_size: usize,
    /// Keep only the first features of each vector
    #[arg(long, value_name = "DIM")]
    truncate_dim: Option<i32>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl ModelArguments {
    /// Loads the named model, or the default one, fetching that on first use.
    pub(crate) fn load(&self, cancel: &CancelFlag) -> Result<Embedder, Failure> {
        let model = match &self.model {
            // What is no model says so in the words of this program.
            Some(path) if !is_hub_id(path) => Embedder::load(path)?,
            Some(path) => Embedder::load(find_model(path, None, self.quiet, cancel)?)?,
            None => Embedder::load(default_model(DEFAULT_MODEL, self.quiet, cancel)?)?,
        };
        check(cancel)?;
        Ok(model)
    }

    pub(crate) fn options(&self, cancel: &CancelFlag) -> EncodeOptions {
        let mut options = EncodeOptions::default();
        options.batch_size = self.batch_size;
        options.truncate_dim = self.truncate_dim;
        options.cancel = cancel.clone();
        options
    }

    /// What to call the model in output.
    pub(crate) fn name(&self) -> String {
        let default = Path::new(DEFAULT_MODEL);
        let name = self.model.as_deref().unwrap_or(default);
        name.display().to_string()
    }
}

/// Ends the command if Ctrl-C was pressed.
pub(crate) fn check(cancel: &CancelFlag) -> Result<(), Failure> {
    match cancel.is_cancelled() {
        true => Err(Failure::cut_short()),
        false => Ok(()),
    }
}

fn is_hub_id(path: &Path) -> bool {
    !path.exists() && path.to_str().and_then(HubId::parse).is_some()
}
