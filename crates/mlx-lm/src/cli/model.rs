//! Finding and loading the model that a command works on.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_lm::{CancelFlag, Error, LoadedModel, Loader};
use mlx_sys::vendor;

use super::failure::Failure;
use super::progress::{Progress, Unit};

/// The small real model that runs when none is named.
const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

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

/// Loads the named model, or the default one, fetching that on first use.
pub(crate) fn load(
    model: Option<&Path>,
    quiet: bool,
    cancel: &CancelFlag,
) -> Result<LoadedModel, Failure> {
    let path = match model {
        Some(path) => path.to_owned(),
        None => default_model(quiet, cancel)?,
    };
    let mut progress = Progress::new("loading", Unit::Bytes, quiet);
    let loader = Loader::new(path)
        .cancel(cancel)
        .on_progress(|step| progress.set(step.done, step.total));
    Ok(loader.load()?)
}

fn default_model(quiet: bool, cancel: &CancelFlag) -> Result<PathBuf, Failure> {
    let mut progress = Progress::new("fetching the default model", Unit::Bytes, quiet);
    let folder = vendor::fetch_model(DEFAULT_MODEL, &mut |step| show(&mut progress, &step));
    if cancel.is_cancelled() {
        return Err(Failure::Interrupted { answering: false });
    }
    let folder = folder.map_err(Failure::Fetch)?;
    let io = |source| Error::Io {
        path: folder.clone(),
        source,
    };
    for entry in fs::read_dir(&folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            return Ok(path);
        }
    }
    Ok(folder)
}

fn show(progress: &mut Progress, step: &vendor::Progress) {
    let number = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    match step {
        vendor::Progress::Waiting { package } => progress.message(format!("waiting for {package}")),
        vendor::Progress::Downloading {
            package,
            done,
            total,
        } => {
            progress.message(format!("fetching {package}"));
            progress.set(number(*done), number(total.unwrap_or(*done)));
        }
        vendor::Progress::Verifying {
            package,
            done,
            total,
        } => {
            progress.message(format!("checking {package}"));
            progress.set(number(*done), number(*total));
        }
        vendor::Progress::Unpacking {
            package,
            done,
            total,
        } => {
            progress.message(format!("unpacking {package}"));
            progress.set(number(*done), number(*total));
        }
        _ => {}
    }
}
