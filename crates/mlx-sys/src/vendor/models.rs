use std::path::PathBuf;

use super::{Cache, Kind, Package, Pins, Progress, Result, Target};

/// A small real model that a pinned package carries.
#[derive(Clone, Debug)]
pub struct Model {
    /// Short name, also its folder below `models/` in the cache.
    pub name: String,
    /// The package that carries it.
    pub package: Package,
}

/// All models of the lock file.
///
/// # Errors
/// [`Error::Pins`](super::Error::Pins) if the lock file does not parse.
pub fn models() -> Result<Vec<Model>> {
    let packages = Pins::builtin()?.packages;
    Ok(packages
        .into_iter()
        .filter(|p| p.kind == Kind::Model)
        .map(|package| Model {
            name: package
                .folder
                .clone()
                .unwrap_or_else(|| package.name.clone()),
            package,
        })
        .collect())
}

/// The folder of a model by its short name (`smollm2-135m-instruct`, `all-minilm-l6-v2`) or
/// its package's name, fetched on first use.
///
/// # Errors
/// Any [`Error`](super::Error); an unknown name lists the known ones.
pub fn fetch_model(name: &str, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
    let models = models()?;
    let Some(model) = models
        .iter()
        .find(|m| m.name == name || m.package.name == name)
    else {
        let known = models
            .iter()
            .map(|m| m.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        return Err(super::Error::UnknownModel {
            name: name.to_owned(),
            known,
        });
    };
    Cache::user()?.fetch(&model.package, &Target::host(), progress)
}
