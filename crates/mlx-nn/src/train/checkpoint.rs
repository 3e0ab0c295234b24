//! Checkpoints that are whole or absent.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    path::Path,
};

use mlx_core::{Array, io};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Position, TrainStep};
use crate::{
    Error, LoadOptions, Module, Result, Weights, load_weights, module::parameters::parameters,
    optimizer::Optimize,
};

/// What decides about the batches and the random keys: a run that goes on with other ones is not
/// the run that was begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) samples: usize,
    pub(super) batch_size: usize,
    pub(super) shuffle: Option<u64>,
    pub(super) bucket: usize,
    pub(super) drop_last: bool,
    pub(super) accumulate: usize,
    pub(super) seed: u64,
}

impl Settings {
    /// Refuses settings that differ from these, which a checkpoint holds.
    fn check(&self, now: &Self) -> Result<()> {
        let fields = |settings: &Self| match serde_json::to_value(settings) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let before = fields(self);
        let changed: Vec<String> = fields(now)
            .iter()
            .map(|(name, now)| (name, before.get(name).unwrap_or(&Value::Null), now))
            .filter(|(_, before, now)| before != now)
            .map(|(name, before, now)| format!("{name} was {before} and is {now}"))
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the run in this folder has other settings ({}): keep them, or begin anew without \
             `resume`",
            changed.join(", ")
        );
        Err(Error::invalid("Trainer", message))
    }
}

/// What a trainer knows besides arrays.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) settings: Settings,
    pub(super) step: u64,
    pub(super) position: Position,
    pub(super) units: u64,
    pub(super) seconds: f64,
    /// Losses since the last record of the log.
    pub(super) pending: Vec<f32>,
    pub(super) best: Option<f64>,
    /// Evaluations since the best one.
    pub(super) stale: u32,
}

const MODEL: &str = "model.";
const STEP: &str = "step.";
const PROGRESS: &str = "progress";

/// Writes model, optimizer, random key and progress into one file.
pub(super) fn save<M: Module + 'static, O: Optimize + 'static>(
    path: &Path,
    step: &TrainStep<M, O>,
    progress: &Progress,
) -> Result<()> {
    let model = parameters(&*step.model());
    let mut arrays: BTreeMap<String, Array> = model
        .into_iter()
        .map(|(key, array)| (format!("{MODEL}{key}"), array))
        .collect();
    let state = step.state().into_iter();
    arrays.extend(state.map(|(key, array)| (format!("{STEP}{key}"), array)));
    let text = serde_json::to_string(progress)
        .map_err(|error| Error::invalid("checkpoint", error.to_string()))?;
    let metadata = HashMap::from([(PROGRESS.to_owned(), text)]);
    replace(path, |beside| {
        Ok(io::save_safetensors(beside, &arrays, &metadata)?)
    })
}

/// Takes up what [`save`] wrote in a run with the same settings; on an error the step is as before.
pub(super) fn load<M: Module + 'static, O: Optimize + 'static>(
    path: &Path,
    step: &mut TrainStep<M, O>,
    settings: &Settings,
) -> Result<Progress> {
    let (arrays, metadata) = io::load_safetensors(path)?;
    let progress = metadata
        .get(PROGRESS)
        .map(|text| serde_json::from_str::<Progress>(text));
    let Some(Ok(progress)) = progress else {
        let message = "is no checkpoint of this version's trainer";
        return Err(Error::weight(PROGRESS, message));
    };
    progress.settings.check(settings)?;
    let (mut model, mut state) = (Weights::new(), BTreeMap::new());
    for (key, array) in arrays {
        if let Some(key) = key.strip_prefix(MODEL) {
            model.insert(key, array)?;
        } else if let Some(key) = key.strip_prefix(STEP) {
            state.insert(key.to_owned(), array);
        } else {
            return Err(Error::weight(key, "belongs to no part of a checkpoint"));
        }
    }
    let before = step.state();
    step.set_state(state)?;
    let loaded = load_weights(&mut *step.model_mut(), model, &LoadOptions::default());
    if let Err(error) = loaded {
        step.set_state(before)?;
        return Err(error);
    }
    Ok(progress)
}

/// Writes a file beside its place, makes sure that it is on the disk, and moves it there: a reader
/// sees the old file or the new one, whatever happens in between.
pub(super) fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |what, source| Error::file(what, path, source);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder).map_err(|source| failed("make a folder for", source))?;
    let name = path.file_name().and_then(|name| name.to_str());
    let beside = folder.join(format!(".new-{}", name.unwrap_or("file.safetensors")));
    write(&beside)?;
    File::open(&beside)
        .and_then(|file| file.sync_all())
        .map_err(|source| failed("write", source))?;
    fs::rename(&beside, path).map_err(|source| failed("write", source))?;
    // Not every system can open a folder; the rename is then as durable as it gets.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}
