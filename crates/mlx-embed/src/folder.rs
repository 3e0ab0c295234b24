//! Reading the files of a model folder, and of the folders of its modules.

use std::fs;
use std::path::{Component, Path, PathBuf};

use mlx_lm::registry::ConfigMap;
use mlx_nn::Weights;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result};

const SHARD_INDEX: &str = "model.safetensors.index.json";
const WEIGHTS: &str = "model.safetensors";

/// A model folder, or the folder of one of its modules.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Where it lies inside the model folder, for messages: empty or `1_Pooling/`.
    prefix: String,
}

impl Folder {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            prefix: String::new(),
        }
    }

    /// The folder that `modules.json` names; it must not reach outside.
    pub(crate) fn module(&self, path: &str) -> Result<Self> {
        let inside = Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside {
            let message = format!("module path `{path}` leaves the folder");
            return Err(Error::config("modules.json", message));
        }
        let trimmed = path.trim_end_matches('/');
        Ok(Self {
            path: self.path.join(trimmed),
            prefix: match trimmed {
                "" | "." => self.prefix.clone(),
                _ => format!("{}{trimmed}/", self.prefix),
            },
        })
    }

    /// How messages call a file of this folder.
    pub(crate) fn name(&self, file: &str) -> String {
        format!("{}{file}", self.prefix)
    }

    pub(crate) fn missing(&self, file: &str) -> Error {
        Error::MissingFile {
            file: self.name(file),
        }
    }

    /// The bytes of a file, or `None` if it does not exist.
    pub(crate) fn bytes(&self, file: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path.join(file);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    /// The JSON in a file, or `None` if it does not exist.
    pub(crate) fn json(&self, file: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.bytes(file)? else {
            return Ok(None);
        };
        let path = self.path.join(file);
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| Error::Json { path, source })
    }

    /// A configuration file, which may be absent.
    pub(crate) fn optional<C: DeserializeOwned + Default>(&self, file: &str) -> Result<C> {
        match self.json(file)? {
            Some(json) => parse(&self.name(file), json),
            None => Ok(C::default()),
        }
    }

    /// A configuration file, which must exist.
    pub(crate) fn required<C: DeserializeOwned>(&self, file: &str) -> Result<C> {
        let json = self.json(file)?.ok_or_else(|| self.missing(file))?;
        parse(&self.name(file), json)
    }

    /// The weights of the folder, in one file or in shards, and the name of their file.
    pub(crate) fn weights(&self) -> Result<(Weights, String)> {
        let file = [SHARD_INDEX, WEIGHTS]
            .into_iter()
            .find(|file| self.path.join(file).is_file())
            .ok_or_else(|| self.missing(WEIGHTS))?;
        let name = self.name(file);
        match Weights::load_safetensors(self.path.join(file)) {
            Ok(weights) => Ok((weights, name)),
            Err(source) => Err(Error::Weights { file: name, source }),
        }
    }
}

/// Reads a configuration, naming the field that is wrong.
pub(crate) fn parse<C: DeserializeOwned>(file: &str, json: Value) -> Result<C> {
    serde_path_to_error::deserialize(json).map_err(|error| {
        let field = error.path().to_string();
        let message = error.into_inner().to_string();
        match field.as_str() {
            // The path of a missing field ends at its parent; the message names the field.
            "." => Error::config(file, message),
            field => Error::config(file, format!("field `{field}`: {message}")),
        }
    })
}

/// Reads `config.json` of an architecture.
///
/// # Errors
/// [`Error::Config`] naming the field that is missing or malformed.
pub(crate) fn parse_model<C: DeserializeOwned>(config: &ConfigMap) -> Result<C> {
    parse("config.json", Value::Object(config.clone()))
}
