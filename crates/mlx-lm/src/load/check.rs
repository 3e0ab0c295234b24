//! What the weights themselves must be, whatever the model.

use mlx_core::{Array, Dtype};
use mlx_nn::{Quantization, Weights};

use crate::{Error, Result};

/// Fails unless every weight is a number that layers can compute with.
pub(super) fn dtypes(weights: &Weights) -> Result<()> {
    for (key, array) in weights.iter() {
        let packed = |part: &str, dtype| {
            let path = key.strip_suffix(part);
            array.dtype() == dtype
                && path.is_some_and(|path| weights.contains(&format!("{path}.scales")))
        };
        let sound = array.dtype().is_floating()
            || packed(".weight", Dtype::Uint32)
            || packed(".scales", Dtype::Uint8);
        if !sound {
            return Err(Error::weights(format!(
                "`{key}` holds {}, not floating-point numbers",
                array.dtype()
            )));
        }
    }
    Ok(())
}

/// Fails if the configuration names an impossible packing, or a layer is packed
/// otherwise than it says.
pub(super) fn quantization(weights: &Weights, stated: &Quantization) -> Result<()> {
    for layer in stated.overrides.values().flatten().chain([&stated.default]) {
        if !matches!(layer.group_size, 16 | 32 | 64 | 128) || !matches!(layer.bits, 1..=6 | 8) {
            return Err(Error::config(
                "quantization",
                format!("{layer} is not supported"),
            ));
        }
    }
    for (key, scales) in weights.iter() {
        let Some(path) = key.strip_suffix(".scales") else {
            continue;
        };
        let wrong = |message: String| Err(Error::config("quantization", message));
        let Some(layer) = stated.layer(path) else {
            return wrong(format!("leaves `{path}` dense, but it is stored quantised"));
        };
        let last = |array: &Array| array.shape().last().map_or(0, |&dim| i64::from(dim));
        let bits = last(scales).checked_mul(i64::from(layer.group_size) * i64::from(layer.bits));
        let words = weights.get(&format!("{path}.weight")).map(last);
        if words.is_some() && bits != words.map(|words| words * 32) {
            return wrong(format!("says {layer}, but `{path}` is packed otherwise"));
        }
    }
    Ok(())
}
