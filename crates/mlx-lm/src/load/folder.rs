//! A Hugging Face model folder.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use mlx_core::io::SafetensorsFile;
use mlx_nn::{Quantization, Weights};
use serde::Deserialize;
use serde_json::Value;

use super::estimate::Outline;
use super::footprint::{Plan, Storage, footprint};
use super::heads::HeadKeys;
use super::inspect::outlines;
use super::{GenerationConfig, Monitor, Source, constructor, formats};
use crate::registry::{self, ConfigMap, Registry};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

const INDEX: &str = "model.safetensors.index.json";

/// Reads everything in the folder; without a monitor, of the weights the shapes alone.
pub(super) fn read(
    folder: &Path,
    registry: &Registry,
    own_heads: bool,
    monitor: Option<&mut Monitor<'_>>,
) -> Result<Source> {
    let config = object(&folder.join("config.json"))?.ok_or_else(|| Error::MissingFile {
        file: "config.json".to_owned(),
    })?;
    let (constructor, text_config) = constructor(registry, &config)?;
    let generation = object(&folder.join("generation_config.json"))?.unwrap_or_default();
    let generation = GenerationConfig::read(&config, &generation)?;
    let file = open(folder)?;
    let quantization = quantization(&text_config)?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let names = wanted(&file, registry, &config, own_heads);
    let mut weights = match monitor {
        Some(monitor) => weights(&file, &names, monitor)?,
        None => outlines(&file, &names)?,
    };
    if let Some(settings) = foreign_quantization(folder, &text_config)? {
        formats::convert(&settings, &mut weights)?;
    }
    Ok(Source {
        constructor,
        config,
        text_config,
        generation,
        weights,
        quantization,
        tokenizer,
    })
}

/// The configuration and the bytes that the weights take, without reading them.
pub(super) fn outline(folder: &Path, registry: &Registry, plan: Plan<'_>) -> Result<Outline> {
    let config = object(&folder.join("config.json"))?.ok_or_else(|| Error::MissingFile {
        file: "config.json".to_owned(),
    })?;
    let file = open(folder)?;
    let text = registry::text_part(&config);
    let own = quantization(&text)?;
    let foreign = foreign_quantization(folder, &text)?;
    let storage = Storage {
        own: own.as_ref(),
        foreign: foreign.as_ref(),
    };
    let num_layers = text.get("num_hidden_layers").and_then(Value::as_i64);
    let num_layers = num_layers.and_then(|count| i32::try_from(count).ok());
    let names = wanted(&file, registry, &config, plan.own_heads);
    let found = footprint(
        &file,
        names.into_iter(),
        &storage,
        plan,
        num_layers.unwrap_or(0),
    )?;
    Ok(Outline {
        weights: found.loaded,
        loading: found.read.saturating_sub(found.loaded),
        config,
    })
}

/// The tensors that the language model may need: of a multimodal checkpoint, what sees and hears
/// stays on the disk, and so do heads for further tokens unless they are asked for.
fn wanted<'f>(
    file: &'f SafetensorsFile,
    registry: &Registry,
    config: &ConfigMap,
    own_heads: bool,
) -> Vec<&'f str> {
    let model_type = config.get("model_type").and_then(Value::as_str);
    let is_whole = model_type.is_some_and(|model_type| registry.is_added(model_type));
    // The same prefixes that the architectures look for; heads may lie beside them.
    let prefix = ["language_model.", "model.language_model."]
        .into_iter()
        .find(|prefix| file.names().any(|name| name.starts_with(prefix)))
        .filter(|_| !is_whole);
    let heads = HeadKeys::new(file, config);
    let is_wanted = |name: &&str| {
        if !is_whole && (name.starts_with("visual.") || (!own_heads && heads.covers(name))) {
            return false;
        }
        prefix.is_none_or(|prefix| {
            [prefix, "lm_head.", "mtp."]
                .iter()
                .any(|start| name.starts_with(start))
        })
    };
    file.names().filter(is_wanted).collect()
}

/// Reads tensors, several at a time.
fn weights(file: &SafetensorsFile, names: &[&str], monitor: &mut Monitor<'_>) -> Result<Weights> {
    let mut total = 0;
    for name in names {
        total += file.bytes(name)?.len();
    }
    monitor.start(total)?;
    let mut weights = Weights::new();
    let mut failed = None;
    file.read_each(names, |name, array| {
        let read = array.map_err(Error::from).and_then(|array| {
            let bytes = file.bytes(name)?.len();
            weights.insert(name, array)?;
            monitor.advance(bytes)
        });
        match read {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        }
    });
    failed.map_or(Ok(weights), Err)
}

/// The `quantization` entry, which MLX's converters write; older ones wrote it
/// as `quantization_config` only.
fn quantization(config: &ConfigMap) -> Result<Option<Quantization>> {
    let foreign = config.get("quantization_config");
    let (key, entry) = match (config.get("quantization"), foreign) {
        (Some(entry), _) => ("quantization", entry),
        (None, Some(entry)) => ("quantization_config", entry),
        (None, None) => return Ok(None),
    };
    if entry.is_null() {
        return Ok(None);
    }
    if key == "quantization_config" && entry.get("quant_method").is_some() {
        // Another program's; see `formats`.
        return Ok(None);
    }
    // Each mode has defaults, but the affine one is written by several programs
    // with different ones.
    let missing = ["group_size", "bits"]
        .into_iter()
        .find(|&part| entry.get(part).is_none());
    if let (Some(part), None | Some("affine")) =
        (missing, entry.get("mode").and_then(Value::as_str))
    {
        return Err(Error::config(format!("{key}.{part}"), "is missing"));
    }
    let mut quantization =
        Quantization::deserialize(entry).map_err(|error| Error::config(key, error.to_string()))?;
    // Layers are named as in the wrapper, whose prefix the weights lose.
    quantization.overrides = std::mem::take(&mut quantization.overrides)
        .into_iter()
        .map(|(path, layer)| {
            let inner = path.strip_prefix("language_model.").map(str::to_owned);
            (inner.unwrap_or(path), layer)
        })
        .collect();
    Ok(Some(quantization))
}

/// What another program says about how it quantised the weights, in the configuration or beside it.
fn foreign_quantization(folder: &Path, config: &ConfigMap) -> Result<Option<Value>> {
    let is_foreign = |entry: &&Value| entry.get("quant_method").is_some();
    if config.get("quantization").is_some_and(|own| !own.is_null()) {
        return Ok(None);
    }
    if let Some(entry) = config.get("quantization_config").filter(is_foreign) {
        return Ok(Some(entry.clone()));
    }
    // ModelOpt's exports have a file of their own, which names no method.
    Ok(
        object(&folder.join("hf_quant_config.json"))?.map(|mut settings| {
            settings.entry("quant_method").or_insert("modelopt".into());
            Value::Object(settings)
        }),
    )
}

/// The files that the index names, or else every `model*.safetensors`.
fn open(folder: &Path) -> Result<SafetensorsFile> {
    let index = folder.join(INDEX);
    if index.is_file() {
        let file = SafetensorsFile::open(index)?;
        if file.is_empty() {
            return Err(Error::weights(format!("{INDEX} names none")));
        }
        return Ok(file);
    }
    let io = |source| Error::Io {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::MissingFile {
            file: "model.safetensors".to_owned(),
        });
    }
    files.sort();
    Ok(SafetensorsFile::open_all(files)?)
}

/// The JSON object in a file, or `None` if the file does not exist.
fn object(path: &Path) -> Result<Option<ConfigMap>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    match serde_json::from_slice(&bytes) {
        Ok(object) => Ok(Some(object)),
        Err(source) => Err(Error::Json {
            path: path.to_owned(),
            source,
        }),
    }
}
