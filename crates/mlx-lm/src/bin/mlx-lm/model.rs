//! The model that a command works on.

use std::path::{Path, PathBuf};

use clap::Args;
use mlx_lm::adapters::load_adapters;
use mlx_lm::cli::{Failure, Progress, Unit, default_model, find_model};
use mlx_lm::load::QuantizeOptions;
use mlx_lm::memory::MemoryBudget;
use mlx_lm::{CancelFlag, Error, LoadedModel, Loader};

/// The small real model that runs when none is named.
const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// Which model, and how to load it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArguments {
    /// Model folder, .gguf file or Hub id [default: SmolLM2-135M-Instruct]
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Branch, tag or commit of a model on the Hub
    #[arg(long, value_name = "NAME", requires = "model")]
    revision: Option<String>,
}

/// Which model, and what is done to it as it is loaded.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Folder with trained adapters for the model, of mlx-lm or of PEFT
    #[arg(long, value_name = "FOLDER")]
    adapter_path: Option<PathBuf>,
    #[command(flatten)]
    memory: MemoryArguments,
    /// Quantise dense weights to so many bits as they are loaded: 2, 3, 4, 5, 6 or 8
    #[arg(long, value_name = "BITS")]
    quantize: Option<i32>,
    /// Whether the model's own heads for further tokens are loaded.
    #[arg(skip)]
    own_heads: bool,
}

/// How much memory a model may take.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct MemoryArguments {
    /// Memory that the model may take, such as 6GB [default: what the device has left]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory_limit: Option<u64>,
    /// Load the model even if it needs more memory than there is
    #[arg(long)]
    force: bool,
}

impl MemoryArguments {
    pub(crate) fn apply(&self, budget: MemoryBudget) -> MemoryBudget {
        budget.limit(self.memory_limit).enforce(!self.force)
    }
}

/// Bytes, with or without a unit: `512MB`, `1.5GiB`, `800000`.
fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("`{text}` is no size; sizes look like 512MB or 6GiB");
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(at.unwrap_or(text.len()));
    let unit: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err(bad()),
    };
    // Three decimals are enough, and whole numbers do not round.
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| bad())?;
    let digits = format!("{part:0<3}");
    let part: u64 = digits
        .get(..3)
        .and_then(|part| part.parse().ok())
        .ok_or_else(bad)?;
    let bytes = whole.checked_mul(unit).ok_or_else(bad)?;
    bytes.checked_add(part * unit / 1000).ok_or_else(bad)
}

impl RunArguments {
    /// Loads the model for work that needs no more memory than `budget` says.
    pub(crate) fn load(
        &self,
        budget: MemoryBudget,
        quiet: bool,
        cancel: &CancelFlag,
    ) -> Result<LoadedModel, Failure> {
        let options = self.quantize.map(QuantizeOptions::bits);
        let budget = self.memory.apply(budget);
        let mut model = self.model.load_with(quiet, cancel, |loader| {
            let loader = loader.memory(budget).own_heads(self.own_heads);
            match options {
                Some(options) => loader.quantize(options),
                None => loader,
            }
        })?;
        if let Some(folder) = &self.adapter_path {
            load_adapters(model.model_mut(), folder).map_err(|source| Error::Load {
                path: folder.clone(),
                source: Box::new(source),
            })?;
        }
        Ok(model)
    }

    /// The model as it was named, if it was.
    pub(crate) fn name(&self) -> Option<&Path> {
        self.model.model.as_deref()
    }

    /// The same arguments with or without the model's own heads for further tokens.
    pub(crate) fn own_heads(&self, wanted: bool) -> Self {
        Self {
            own_heads: wanted,
            ..self.clone()
        }
    }

    /// The same arguments for another model.
    pub(crate) fn of(&self, model: &Path) -> Self {
        let mut other = self.clone();
        other.model.model = Some(model.to_owned());
        other
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

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(size("800000"), Ok(800_000));
        assert_eq!(size("512MB"), Ok(512_000_000));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        for bad in ["", "GB", "6 parsecs", "-1", "1.x", "99999999999999GB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
