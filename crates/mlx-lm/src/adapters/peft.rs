//! Adapters as the Python library PEFT writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_core::ops::shape::transpose;
use mlx_core::{Array, Dtype, io};
use mlx_nn::adapter::Adapter;
use mlx_nn::{Descend, KeyPath, Module, Visitor, Weight};
use serde::Deserialize;
use serde_json::Value;

use super::{CONFIG, stray};
use crate::{Error, Result};

const WEIGHTS: &str = "adapter_model.safetensors";

#[derive(Debug, Deserialize)]
struct Config {
    peft_type: String,
    r: f32,
    lora_alpha: f32,
    #[serde(default)]
    lora_dropout: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, f32>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f32>,
}

impl Config {
    /// The factor of a layer's update.
    fn scale(&self, path: &str) -> Result<f32> {
        let rank = pick("rank_pattern", &self.rank_pattern, path, self.r)?;
        let alpha = pick("alpha_pattern", &self.alpha_pattern, path, self.lora_alpha)?;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }

    /// Refuses patterns that are more than the end of a path: PEFT takes them for regular
    /// expressions.
    fn check_patterns(&self) -> Result<()> {
        for (field, patterns) in [
            ("rank_pattern", &self.rank_pattern),
            ("alpha_pattern", &self.alpha_pattern),
        ] {
            let special = |pattern: &&String| pattern.contains(|c| r"\^$*+?()[]{}|".contains(c));
            if let Some(pattern) = patterns.keys().find(special) {
                return Err(Error::Config {
                    field: field.to_owned(),
                    message: format!(
                        "`{pattern}` is a regular expression; only names of layers are supported"
                    ),
                });
            }
        }
        Ok(())
    }
}

/// The number for a layer from the patterns that its path ends with.
fn pick(field: &str, patterns: &BTreeMap<String, f32>, path: &str, default: f32) -> Result<f32> {
    let fits = |pattern: &str| {
        path.strip_suffix(pattern)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    let mut found = patterns.iter().filter(|(pattern, _)| fits(pattern));
    let Some((_, first)) = found.next() else {
        return Ok(default);
    };
    // PEFT takes the first in the file, an order that the parser does not keep.
    if found.any(|(_, other)| other.to_bits() != first.to_bits()) {
        return Err(Error::Config {
            field: field.to_owned(),
            message: format!("several patterns with different numbers fit `{path}`"),
        });
    }
    Ok(*first)
}

/// Which array of an adapter a key ends with.
const PARTS: [(&str, Part); 7] = [
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_embedding_A", Part::A),
    (".lora_embedding_B", Part::B),
    (".lora_magnitude_vector.weight", Part::Magnitude),
    (".lora_magnitude_vector", Part::Magnitude),
    (".lora_embedding_magnitude_vector", Part::Magnitude),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    A,
    B,
    Magnitude,
}

pub(super) fn read(
    model: &dyn Module,
    folder: &Path,
    json: &Value,
) -> Result<BTreeMap<String, Adapter>> {
    let config = Config::deserialize(json).map_err(|source| Error::Json {
        path: folder.join(CONFIG),
        source,
    })?;
    let unsupported = |field: &str, message: &str| {
        Err(Error::Config {
            field: field.to_owned(),
            message: message.to_owned(),
        })
    };
    if config.peft_type != "LORA" {
        return unsupported("peft_type", "only LORA is supported");
    }
    if config.fan_in_fan_out {
        return unsupported("fan_in_fan_out", "transposed weights are not supported");
    }
    config.check_patterns()?;
    let weights = folder.join(WEIGHTS);
    if !weights.is_file() {
        return Err(Error::MissingFile {
            file: WEIGHTS.to_owned(),
        });
    }
    let known = paths(model);
    let mut layers = BTreeMap::<String, BTreeMap<Part, Array>>::new();
    let (arrays, _) = io::load_safetensors(&weights)?;
    for (key, array) in arrays {
        let part = PARTS
            .iter()
            .find_map(|(suffix, part)| Some((key.strip_suffix(suffix)?, *part)));
        let Some((path, part)) = part else {
            return Err(stray(&key, "is no part of a LoRA adapter"));
        };
        layers
            .entry(own_path(path, &known))
            .or_default()
            .insert(part, array);
    }
    layers
        .into_iter()
        .map(|(path, mut parts)| {
            let (Some(a), Some(b)) = (parts.remove(&Part::A), parts.remove(&Part::B)) else {
                return Err(stray(&path, "has only one of lora_A and lora_B"));
            };
            let adapter = Adapter {
                lora_a: transpose(&a)?.astype(Dtype::Float32)?,
                lora_b: transpose(&b)?.astype(Dtype::Float32)?,
                magnitude: parts
                    .remove(&Part::Magnitude)
                    .map(|m| m.astype(Dtype::Float32))
                    .transpose()?,
                scale: config.scale(&path)?,
                dropout: config.lora_dropout,
            };
            Ok((path, adapter))
        })
        .collect()
}

/// The model's own path: PEFT puts `base_model.model.` before it, and the model it wrapped may
/// have lacked or had an outer `model.`.
fn own_path(path: &str, known: &BTreeSet<String>) -> String {
    let path = path.strip_prefix("base_model.model.").unwrap_or(path);
    let outer = format!("model.{path}");
    let inner = path.strip_prefix("model.");
    if known.contains(path) {
        path.to_owned()
    } else if known.contains(&outer) {
        outer
    } else {
        inner
            .filter(|inner| known.contains(*inner))
            .unwrap_or(path)
            .to_owned()
    }
}

/// The paths of all weights.
fn paths(model: &dyn Module) -> BTreeSet<String> {
    struct Paths(BTreeSet<String>);

    impl<'a> Visitor<'a> for Paths {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

        fn weight(&mut self, path: &KeyPath<'_>, _: &'a Weight) -> Descend {
            self.0.insert(path.to_string());
            Descend::Over
        }
    }

    let mut paths = Paths(BTreeSet::new());
    model.visit(&KeyPath::root(), &mut paths);
    paths.0
}
