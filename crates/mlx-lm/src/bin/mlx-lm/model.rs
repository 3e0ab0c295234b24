//! The model that a command works on.

use std::path::PathBuf;

use clap::Args;
use mlx_lm::cli::{Failure, Progress, Unit, default_model, find_model};
use mlx_lm::load::QuantizeOptions;
use mlx_lm::{CancelFlag, LoadedModel, Loader};

/// The small real model that runs when none is named.
const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// Which model, and how to load it.
#[derive(Debug, Args)]
pub(crate) struct ModelArguments {
    /// Model folder, .gguf file or Hub id [default: SmolLM2-135M-Instruct]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Branch, tag or commit of a model on the Hub
    #[arg(long, value_name = "NAME", requires = "model")]
    revision: Option<String>,
}

/// Which model, and whether it is quantised as it is loaded.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Quantise dense weights to so many bits as they are loaded: 2, 3, 4, 5, 6 or 8
    #[arg(long, value_name = "BITS")]
    quantize: Option<i32>,
}

impl RunArguments {
    /// Loads the model.
    pub(crate) fn load(&self, quiet: bool, cancel: &CancelFlag) -> Result<LoadedModel, Failure> {
        let options = self.quantize.map(QuantizeOptions::bits);
        self.model.load_with(quiet, cancel, |loader| match options {
            Some(options) => loader.quantize(options),
            None => loader,
        })
    }
}

impl ModelArguments {
    /// Where the model is, fetched if need be.
    pub(crate) fn find(&self, quiet: bool, cancel: &CancelFlag) -> Result<PathBuf, Failure> {
        match &self.model {
            Some(path) => find_model(path, self.revision.as_deref(), quiet, cancel),
            None => default_model(DEFAULT_MODEL, quiet, cancel),
        }
    }

    /// Loads the model with these settings.
    pub(crate) fn load_with(
        &self,
        quiet: bool,
        cancel: &CancelFlag,
        settings: impl for<'a> FnOnce(Loader<'a>) -> Loader<'a>,
    ) -> Result<LoadedModel, Failure> {
        let path = self.find(quiet, cancel)?;
        let mut progress = Progress::new("loading", Unit::Bytes, quiet);
        let loader = Loader::new(path)
            .cancel(cancel)
            .on_progress(|step| progress.set(step.done, step.total));
        Ok(settings(loader).load()?)
    }
}
