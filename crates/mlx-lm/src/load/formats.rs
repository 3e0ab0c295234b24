//! Checkpoints that other programs quantised, in MLX's own terms.
//!
//! Each format is one file. What one of MLX's modes holds exactly stays packed; the rest becomes
//! dense, to be quantised again if the caller asks for that.

mod bitnet;
mod compressed_tensors;
mod fp8;
mod integers;
mod packed;

use mlx_nn::Weights;
use serde_json::Value;

use crate::{Error, Result};

/// The methods that are read, by `quant_method`.
const METHODS: &str = "awq, bitnet, compressed-tensors, fp8, gptq, modelopt, mxfp4, mxfp8";

/// Rewrites the weights of a checkpoint whose configuration holds `settings` as
/// `quantization_config`.
///
/// # Errors
/// [`Error::Config`] for a method or a variant of one that is not supported, [`Error::Weights`] for
/// arrays that are not what it says.
pub(super) fn convert(settings: &Value, weights: &mut Weights) -> Result<()> {
    let settings = Settings(settings);
    match settings.text("quant_method").unwrap_or_default() {
        "awq" => integers::awq(settings, weights),
        "gptq" => integers::gptq(settings, weights),
        "fp8" => fp8::blocks(settings, weights),
        "compressed-tensors" => compressed_tensors::convert(settings, weights),
        "modelopt" => compressed_tensors::modelopt(settings, weights),
        "bitnet" => bitnet::ternary(settings, weights),
        // Models with experts in this format take them apart themselves.
        "mxfp4" | "mxfp8" => Ok(()),
        other => Err(Error::config(
            "quantization_config.quant_method",
            format!("`{other}` is not supported, only {METHODS} and MLX's own"),
        )),
    }
}

/// The `quantization_config` of a configuration.
#[derive(Clone, Copy)]
struct Settings<'a>(&'a Value);

impl<'a> Settings<'a> {
    fn text(self, field: &str) -> Option<&'a str> {
        self.0.get(field).and_then(Value::as_str)
    }

    fn flag(self, field: &str) -> Option<bool> {
        self.0.get(field).and_then(Value::as_bool)
    }

    fn number(self, field: &str) -> Option<i32> {
        let value = self.0.get(field).and_then(Value::as_i64)?;
        i32::try_from(value).ok()
    }

    /// Fails with what the field says.
    fn refuse<T>(self, field: &str) -> Result<T> {
        let value = self.0.get(field).cloned().unwrap_or_default();
        Err(Error::config(
            format!("quantization_config.{field}"),
            format!("{value} is not supported"),
        ))
    }
}

/// The paths `<path>` of all keys `<path>.<part>`.
fn paths(weights: &Weights, part: &str) -> Vec<String> {
    let suffix = format!(".{part}");
    let path = |key: &str| key.strip_suffix(&suffix).map(str::to_owned);
    weights.keys().filter_map(path).collect()
}

/// Takes `<path>.<part>`, which has to be there.
fn take(weights: &mut Weights, path: &str, part: &str) -> Result<mlx_core::Array> {
    weights
        .take(&format!("{path}.{part}"))
        .ok_or_else(|| Error::weights(format!("`{path}.{part}` is missing")))
}
