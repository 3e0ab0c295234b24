//! Writing a model folder in the Hugging Face layout.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use mlx_core::Array;
use mlx_core::io::save_safetensors;
use mlx_nn::{
    Descend, KeyPath, LayerQuantization, Module, Visitor, Weight, parameter_count, parameters,
};
use serde_json::{Map, Value, json};

use super::LoadedModel;
use crate::registry::ConfigMap;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What of a model's own folder goes into a copy of it, besides weights and configuration.
const TEXT_FILES: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tiktoken.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// How [`save_model`] writes.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct SaveOptions {
    /// The largest size of a file of weights, in bytes; one array larger than that has a file of its
    /// own.
    pub shard_bytes: usize,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self {
            shard_bytes: 5 << 30,
        }
    }
}

impl SaveOptions {
    /// Sets the largest size of a file of weights, in bytes.
    pub const fn shard_bytes(mut self, bytes: usize) -> Self {
        self.shard_bytes = bytes;
        self
    }
}

impl LoadedModel {
    /// Writes the model as it is now, with its tokenizer, into a new folder that [`load`](super::load)
    /// and mlx-lm for Python read.
    ///
    /// The folder appears whole or not at all. The vision part of a multimodal checkpoint is not in
    /// it, because it was not loaded.
    ///
    /// # Errors
    /// As [`save_model`].
    pub fn save(&self, folder: impl AsRef<Path>, options: &SaveOptions) -> Result<()> {
        let texts = match self.path.is_dir() {
            true => Texts::Copied(&self.path),
            false => Texts::Written(&self.tokenizer),
        };
        let model = self.model.as_ref();
        write(model, &self.text_config, &texts, folder.as_ref(), options)
    }
}

/// Writes a model's weights, in shards with an index, and its `config.json` into a new folder, which
/// appears whole or not at all.
///
/// The configuration's `quantization` is made to say what the weights are.
///
/// # Errors
/// [`Error::Option`] if the folder exists and holds something, [`Error::Io`] if it cannot be
/// written, [`Error::Nn`] if a weight is not loaded.
pub fn save_model(
    model: &dyn Module,
    config: &ConfigMap,
    folder: impl AsRef<Path>,
    options: &SaveOptions,
) -> Result<()> {
    write(model, config, &Texts::None, folder.as_ref(), options)
}

/// Where the files of the text side come from.
enum Texts<'a> {
    None,
    Copied(&'a Path),
    Written(&'a Tokenizer),
}

fn write(
    model: &dyn Module,
    config: &ConfigMap,
    texts: &Texts<'_>,
    folder: &Path,
    options: &SaveOptions,
) -> Result<()> {
    let occupied = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || folder.is_file() {
        return Err(Error::Option {
            option: "folder",
            message: format!("{} exists already", folder.display()),
        });
    }
    let mut stored = Stored::default();
    model.visit(&KeyPath::root(), &mut stored);
    if let Some(path) = stored.unloaded {
        return Err(Error::weights(format!("`{path}` is not loaded")));
    }
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|source| io(parent, source))?;
    let staged = tempfile::Builder::new()
        .prefix(".saving-")
        .tempdir_in(parent)
        .map_err(|source| io(parent, source))?;
    write_weights(model, staged.path(), options)?;
    let mut config = config.clone();
    describe(&mut config, &stored);
    write_json(&staged.path().join("config.json"), &Value::Object(config))?;
    match texts {
        Texts::None => {}
        Texts::Copied(source) => copy_texts(source, staged.path())?,
        Texts::Written(tokenizer) => write_tokenizer(tokenizer, staged.path())?,
    }
    publish(staged, folder)
}

/// Moves the finished folder to its place.
fn publish(staged: tempfile::TempDir, folder: &Path) -> Result<()> {
    readable_by_all(staged.path())?;
    if folder.is_dir() {
        fs::remove_dir(folder).map_err(|source| io(folder, source))?;
    }
    fs::rename(staged.path(), folder).map_err(|source| io(folder, source))?;
    // What it would remove is not there any more.
    let _moved = staged.keep();
    Ok(())
}

/// Temporary folders are private; a model is not.
#[cfg(unix)]
fn readable_by_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(|source| io(path, source))
}

#[cfg(not(unix))]
fn readable_by_all(_: &Path) -> Result<()> {
    Ok(())
}

fn write_weights(model: &dyn Module, folder: &Path, options: &SaveOptions) -> Result<()> {
    let arrays = parameters(model);
    let shards = shards(&arrays, options.shard_bytes);
    let metadata = HashMap::from([("format".to_owned(), "mlx".to_owned())]);
    let mut weight_map = Map::new();
    for (index, keys) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            count => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let part = keys.iter().map(|&(key, array)| (key, array));
        save_safetensors(folder.join(&name), part, &metadata)?;
        for (key, _) in keys {
            weight_map.insert((*key).to_owned(), json!(name));
        }
    }
    let total: usize = arrays.values().map(Array::nbytes).sum();
    let index = json!({
        "metadata": { "total_size": total, "total_parameters": parameter_count(model) },
        "weight_map": weight_map,
    });
    write_json(&folder.join("model.safetensors.index.json"), &index)
}

/// Arrays in the order of their keys, cut where a file would grow too large.
fn shards(arrays: &BTreeMap<String, Array>, limit: usize) -> Vec<Vec<(&str, &Array)>> {
    let mut shards: Vec<Vec<(&str, &Array)>> = vec![Vec::new()];
    let mut size = 0_usize;
    for (key, array) in arrays {
        let bytes = array.nbytes();
        if size > 0 && size.saturating_add(bytes) > limit {
            shards.push(Vec::new());
            size = 0;
        }
        size = size.saturating_add(bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push((key, array));
        }
    }
    shards
}

/// How the weights of a model are stored.
#[derive(Default)]
struct Stored {
    layers: BTreeMap<String, Option<LayerQuantization>>,
    unloaded: Option<String>,
}

impl<'a> Visitor<'a> for Stored {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        let layer = match weight {
            Weight::Quantized(weight) => Some(weight.quantization),
            Weight::Unloaded { .. } => {
                self.unloaded.get_or_insert_with(|| path.to_string());
                None
            }
            _ => None,
        };
        self.layers.insert(path.to_string(), layer);
        Descend::Over
    }
}

/// Makes the configuration say how the weights are stored: what most layers have, and the others
/// by name.
fn describe(config: &mut ConfigMap, stored: &Stored) {
    for key in ["quantization", "quantization_config", "_name_or_path"] {
        config.remove(key);
    }
    let mut counts: Vec<(LayerQuantization, usize)> = Vec::new();
    for layer in stored.layers.values().flatten() {
        match counts.iter_mut().find(|(known, _)| known == layer) {
            Some((_, count)) => *count += 1,
            None => counts.push((*layer, 1)),
        }
    }
    let Some((most, _)) = counts.iter().max_by_key(|(_, count)| *count) else {
        return;
    };
    let settings = |layer: &LayerQuantization| {
        json!({
            "group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode.to_string(),
        })
    };
    let mut entry = settings(most);
    if let Some(entry) = entry.as_object_mut() {
        for (path, layer) in &stored.layers {
            match layer {
                Some(layer) if layer == most => {}
                Some(layer) => drop(entry.insert(path.clone(), settings(layer))),
                None => drop(entry.insert(path.clone(), json!(false))),
            }
        }
    }
    config.insert("quantization".to_owned(), entry.clone());
    // The name under which other programs look for it.
    config.insert("quantization_config".to_owned(), entry);
}

fn copy_texts(source: &Path, folder: &Path) -> Result<()> {
    for name in TEXT_FILES {
        let from = source.join(name);
        if from.is_file() {
            fs::copy(&from, folder.join(name)).map_err(|source| io(&from, source))?;
        }
    }
    Ok(())
}

/// The text side of a model that came without files for it.
fn write_tokenizer(tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
    let path = folder.join("tokenizer.json");
    fs::write(&path, tokenizer.to_json()?).map_err(|source| io(&path, source))?;
    let special = tokenizer.special_tokens();
    let templates = tokenizer.chat_templates();
    let named: Vec<Value> = templates
        .names()
        .filter(|name| *name != "default")
        .map(|name| json!({ "name": name, "template": templates.source(name) }))
        .collect();
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special.bos,
        "eos_token": special.eos,
        "unk_token": special.unk,
        "pad_token": special.pad,
        "add_bos_token": tokenizer.adds_bos(),
        "clean_up_tokenization_spaces": false,
    });
    let default = templates.source("default");
    config["chat_template"] = match (named.is_empty(), default) {
        (true, default) => json!(default),
        (false, default) => {
            let first = default.map(|source| json!({ "name": "default", "template": source }));
            first.into_iter().chain(named).collect()
        }
    };
    if config["chat_template"].is_null()
        && let Some(config) = config.as_object_mut()
    {
        config.remove("chat_template");
    }
    write_json(&folder.join("tokenizer_config.json"), &config)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|source| Error::Json {
        path: path.to_owned(),
        source,
    })?;
    fs::write(path, text + "\n").map_err(|source| io(path, source))
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: PathBuf::from(path),
        source,
    }
}
