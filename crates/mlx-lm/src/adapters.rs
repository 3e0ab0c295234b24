//! Adapter files: those of Python's mlx-lm, read and written, and those of PEFT, read.
//!
//! | | mlx-lm | PEFT |
//! |---|---|---|
//! | configuration | `adapter_config.json` | `adapter_config.json` |
//! | weights | `adapters.safetensors` | `adapter_model.safetensors` |
//! | update | `scale · A B` | `alpha / r · B A` |

mod peft;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use mlx_core::{Array, io};
use mlx_nn::adapter::{Adapter, adapters, attach_adapters};
use mlx_nn::{Descend, KeyPath, Module, Visitor, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapters.safetensors";

/// The part of mlx-lm's configuration that decides how a model is changed.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    fine_tune_type: FineTune,
    lora_parameters: LoraParameters,
}

#[derive(Debug, Deserialize, Default, PartialEq)]
#[serde(rename_all = "lowercase")]
enum FineTune {
    #[default]
    Lora,
    Dora,
    Full,
}

#[derive(Debug, Serialize, Deserialize)]
struct LoraParameters {
    scale: f32,
    #[serde(default)]
    dropout: f32,
}

/// Gives a model the adapters of a folder, in mlx-lm's layout or in PEFT's; returns how many.
///
/// Every array of the file must find its weight. Train them, fuse them with
/// [`fuse_adapters`](mlx_nn::adapter::fuse_adapters), or take them out again with
/// [`take_adapters`](mlx_nn::adapter::take_adapters).
///
/// # Errors
/// [`Error::MissingFile`] if the folder has no adapters, [`Error::Config`] if their settings are
/// unsupported, [`Error::Nn`] if an array fits no weight; the model is unchanged then.
pub fn load_adapters(model: &mut dyn Module, folder: impl AsRef<Path>) -> Result<usize> {
    let folder = folder.as_ref();
    let path = folder.join(CONFIG);
    let missing = |file: &str| Error::MissingFile {
        file: file.to_owned(),
    };
    let text = std::fs::read(&path).map_err(|_| missing(CONFIG))?;
    let parse = |source| Error::Json {
        path: path.clone(),
        source,
    };
    let json: Value = serde_json::from_slice(&text).map_err(parse)?;
    let found = if json.get("peft_type").is_some() {
        peft::read(model, folder, &json)?
    } else {
        let config: Config = serde_json::from_value(json).map_err(parse)?;
        if config.fine_tune_type == FineTune::Full {
            return Err(Error::Config {
                field: "fine_tune_type".to_owned(),
                message: "the file holds whole weights, no adapters".to_owned(),
            });
        }
        let weights = folder.join(WEIGHTS);
        if !weights.is_file() {
            return Err(missing(WEIGHTS));
        }
        let (arrays, _) = io::load_safetensors(&weights)?;
        collect(arrays, &config.lora_parameters)?
    };
    let count = found.len();
    attach_adapters(model, found)?;
    Ok(count)
}

/// Sorts `<path>.lora_a`, `<path>.lora_b` and `<path>.m` into adapters.
fn collect(
    arrays: impl IntoIterator<Item = (String, Array)>,
    parameters: &LoraParameters,
) -> Result<BTreeMap<String, Adapter>> {
    let mut parts = BTreeMap::<String, [Option<Array>; 3]>::new();
    for (key, array) in arrays {
        let place = match key.rsplit_once('.') {
            Some((path, "lora_a")) => Some((path, 0)),
            Some((path, "lora_b")) => Some((path, 1)),
            Some((path, "m")) => Some((path, 2)),
            _ => None,
        };
        let slot = place
            .and_then(|(path, index)| parts.entry(path.to_owned()).or_default().get_mut(index));
        match slot {
            Some(slot) => *slot = Some(array),
            None => return Err(stray(&key, "is no part of an adapter")),
        }
    }
    let whole = |(path, parts): (String, [Option<Array>; 3])| match parts {
        [Some(lora_a), Some(lora_b), magnitude] => {
            let adapter = Adapter {
                lora_a,
                lora_b,
                magnitude,
                scale: parameters.scale,
                dropout: parameters.dropout,
            };
            Ok((path, adapter))
        }
        _ => Err(stray(&path, "has only one of lora_a and lora_b")),
    };
    parts.into_iter().map(whole).collect()
}

fn stray(key: &str, message: &str) -> Error {
    mlx_nn::Error::Weight {
        key: key.to_owned(),
        message: message.to_owned(),
    }
    .into()
}

/// Writes a model's adapters as a folder that Python's mlx-lm loads.
///
/// # Errors
/// [`Error::Option`] if there are no adapters, or their ranks, scales, dropouts or kinds differ,
/// for which the layout has no place; [`Error::Io`] if a file cannot be written.
pub fn save_adapters(model: &dyn Module, folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let found = adapters(model);
    let invalid = |message: &str| Error::Option {
        option: "adapters",
        message: message.to_owned(),
    };
    let Some(first) = found.values().next() else {
        return Err(invalid("the model has none"));
    };
    let (scale, dropout, dora) = (first.scale, first.dropout, first.magnitude.is_some());
    let rank = rank(first)?;
    let same = |adapter: &Adapter| {
        self::rank(adapter).is_ok_and(|other| other == rank)
            && adapter.scale.to_bits() == scale.to_bits()
            && adapter.dropout.to_bits() == dropout.to_bits()
            && adapter.magnitude.is_some() == dora
    };
    if !found.values().all(same) {
        return Err(invalid("their ranks, scales, dropouts or kinds differ"));
    }
    let mut arrays = BTreeMap::new();
    let (mut keys, mut lowest) = (BTreeSet::new(), i64::MAX);
    for (path, adapter) in &found {
        match split_layer(path) {
            Some((layer, rest)) => {
                keys.insert(rest.to_owned());
                lowest = lowest.min(layer);
            }
            None => {
                keys.insert(path.clone());
            }
        }
        arrays.insert(format!("{path}.lora_a"), adapter.lora_a.clone());
        arrays.insert(format!("{path}.lora_b"), adapter.lora_b.clone());
        if let Some(magnitude) = &adapter.magnitude {
            arrays.insert(format!("{path}.m"), magnitude.clone());
        }
    }
    let layers = layer_count(model);
    let config = json!({
        "fine_tune_type": if dora { "dora" } else { "lora" },
        // mlx-lm counts from the last layer; -1 means all of them.
        "num_layers": if lowest == i64::MAX { 0 } else { layers - lowest },
        "lora_parameters": {
            "rank": rank,
            "scale": decimal(scale),
            "dropout": decimal(dropout),
            "keys": keys,
        },
    });
    let failed = |path: &Path, source| Error::Io {
        path: path.to_owned(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
    let path = folder.join(CONFIG);
    let text = serde_json::to_string_pretty(&config).map_err(|source| Error::Json {
        path: path.clone(),
        source,
    })?;
    std::fs::write(&path, text + "\n").map_err(|source| failed(&path, source))?;
    io::save_safetensors(folder.join(WEIGHTS), &arrays, &[].into())?;
    Ok(())
}

/// The rank of an adapter, which a stack of experts has on another axis.
fn rank(adapter: &Adapter) -> Result<i32> {
    let axis = if adapter.lora_a.ndim() == 3 { 1 } else { -1 };
    Ok(adapter.lora_a.dim(axis)?)
}

/// The shortest decimal that reads back as `number`: 0.1, not the nearest of 64 bits.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| number.into())
}

/// `model.layers.3.mlp.up_proj` as 3 and `mlp.up_proj`.
fn split_layer(path: &str) -> Option<(i64, &str)> {
    let (_, rest) = path.split_once("layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// How many layers the paths of the model's weights name.
fn layer_count(model: &dyn Module) -> i64 {
    struct Count(i64);

    impl<'a> Visitor<'a> for Count {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

        fn weight(&mut self, path: &KeyPath<'_>, _: &'a Weight) -> Descend {
            if let Some((layer, _)) = split_layer(&path.to_string()) {
                self.0 = self.0.max(layer + 1);
            }
            Descend::Over
        }
    }

    let mut count = Count(0);
    model.visit(&KeyPath::root(), &mut count);
    count.0
}
