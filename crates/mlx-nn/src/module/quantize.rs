//! Quantisation settings, how they are read from a checkpoint, and quantising a model.

use std::{collections::BTreeMap, fmt};

use mlx_core::{
    Array, Dtype,
    ops::quantized::{QuantizationLayout, QuantizationMode},
};
use serde::{Deserialize, Serialize};

use crate::{Descend, Error, KeyPath, Module, Result, VisitorMut, Weight, weight::QuantizedWeight};

/// How the codes of a quantised weight are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum QuantMode {
    /// Integers with a scale and an offset for each group; 2 to 8 bits.
    #[default]
    Affine,
    /// OCP microscaling 4-bit floats: groups of 32, power-of-two scales.
    Mxfp4,
    /// OCP microscaling 8-bit floats: groups of 32, power-of-two scales.
    Mxfp8,
    /// NVIDIA's 4-bit floats: groups of 16, 8-bit float scales.
    Nvfp4,
}

impl QuantMode {
    /// Group size and bits, where nothing else is said.
    #[must_use]
    pub const fn defaults(self) -> (i32, i32) {
        match self {
            Self::Affine => (64, 4),
            Self::Mxfp4 => (32, 4),
            Self::Mxfp8 => (32, 8),
            Self::Nvfp4 => (16, 4),
        }
    }
}

impl fmt::Display for QuantMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Affine => "affine",
            Self::Mxfp4 => "mxfp4",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        })
    }
}

impl From<QuantMode> for QuantizationMode {
    fn from(mode: QuantMode) -> Self {
        match mode {
            QuantMode::Affine => Self::Affine,
            QuantMode::Mxfp4 => Self::Mxfp4,
            QuantMode::Mxfp8 => Self::Mxfp8,
            QuantMode::Nvfp4 => Self::Nvfp4,
        }
    }
}

/// How one layer is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LayerQuantization {
    /// Columns that share a scale.
    pub group_size: i32,
    /// Bits of each code.
    pub bits: i32,
    /// How codes are read.
    pub mode: QuantMode,
}

impl LayerQuantization {
    /// The mode with its default group size and bits.
    #[must_use]
    pub const fn new(mode: QuantMode) -> Self {
        let (group_size, bits) = mode.defaults();
        Self {
            group_size,
            bits,
            mode,
        }
    }
}

impl Default for LayerQuantization {
    fn default() -> Self {
        Self::new(QuantMode::Affine)
    }
}

impl From<LayerQuantization> for QuantizationLayout {
    fn from(layer: LayerQuantization) -> Self {
        Self {
            group_size: Some(layer.group_size),
            bits: Some(layer.bits),
            mode: layer.mode.into(),
        }
    }
}

impl fmt::Display for LayerQuantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bits in groups of {} ({})",
            self.bits, self.group_size, self.mode
        )
    }
}

/// How a model is quantised: the `quantization` entry of `config.json`.
///
/// ```
/// use mlx_nn::{QuantMode, Quantization};
///
/// let text = r#"{"group_size": 64, "bits": 4, "lm_head": {"bits": 8}, "model.embed_tokens": false}"#;
/// let quantization: Quantization = serde_json::from_str(text)?;
/// assert_eq!(quantization.layer("model.layers.0.mlp.up_proj").map(|layer| layer.bits), Some(4));
/// assert_eq!(quantization.layer("lm_head").map(|layer| layer.bits), Some(8));
/// assert_eq!(quantization.layer("model.embed_tokens"), None);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(from = "QuantizationFields")]
pub struct Quantization {
    /// What holds for layers that are not named.
    pub default: LayerQuantization,
    /// What holds for the layer at a path; `None` leaves it dense.
    pub overrides: BTreeMap<String, Option<LayerQuantization>>,
}

impl Quantization {
    /// The same settings for every layer.
    #[must_use]
    pub const fn uniform(layer: LayerQuantization) -> Self {
        Self {
            default: layer,
            overrides: BTreeMap::new(),
        }
    }

    /// What holds for the layer at `path`; `None` leaves it dense.
    #[must_use]
    pub fn layer(&self, path: &str) -> Option<LayerQuantization> {
        self.overrides
            .get(path)
            .copied()
            .unwrap_or(Some(self.default))
    }
}

/// The entry as it is written: settings and layer paths side by side.
#[derive(Deserialize)]
struct QuantizationFields {
    group_size: Option<i32>,
    bits: Option<i32>,
    mode: Option<QuantMode>,
    #[serde(flatten)]
    layers: BTreeMap<String, LayerField>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LayerField {
    Quantized(bool),
    Settings {
        group_size: Option<i32>,
        bits: Option<i32>,
        mode: Option<QuantMode>,
    },
    /// Notes such as `quant_method`, which name no layer.
    Other(serde::de::IgnoredAny),
}

impl From<QuantizationFields> for Quantization {
    fn from(fields: QuantizationFields) -> Self {
        let default = settings(
            LayerQuantization::new(fields.mode.unwrap_or_default()),
            fields.group_size,
            fields.bits,
        );
        let overrides = fields
            .layers
            .into_iter()
            .filter_map(|(path, field)| match field {
                LayerField::Quantized(false) => Some((path, None)),
                LayerField::Quantized(true) => Some((path, Some(default))),
                LayerField::Settings {
                    group_size: None,
                    bits: None,
                    mode: None,
                }
                | LayerField::Other(_) => None,
                LayerField::Settings {
                    group_size,
                    bits,
                    mode,
                } => {
                    // A layer's own settings are affine unless they say otherwise, whatever the
                    // other layers are: that is how routers of mxfp4 models are written.
                    let mode = mode.unwrap_or_default();
                    let base = match mode == default.mode {
                        true => default,
                        false => LayerQuantization::new(mode),
                    };
                    Some((path, Some(settings(base, group_size, bits))))
                }
            });
        Self {
            default,
            overrides: overrides.collect(),
        }
    }
}

fn settings(
    base: LayerQuantization,
    group_size: Option<i32>,
    bits: Option<i32>,
) -> LayerQuantization {
    LayerQuantization {
        group_size: group_size.unwrap_or(base.group_size),
        bits: bits.unwrap_or(base.bits),
        mode: base.mode,
    }
}

/// Reads from a layer's arrays how it was quantised, given the logical shape it must have.
///
/// The shapes determine group size and bits; only affine scales have a floating-point dtype, and
/// each other mode allows a single pair. Fails with what is wrong, in words.
pub(crate) fn infer(
    expected: &[i32],
    codes: &Array,
    scales: &Array,
    biases: Option<&Array>,
) -> Result<LayerQuantization, String> {
    let found = || {
        format!(
            "weight {:?} with scales {:?}",
            codes.shape(),
            scales.shape()
        )
    };
    let (Some((&columns, rows)), Some((&words, code_rows)), Some((&groups, scale_rows))) = (
        expected.split_last(),
        codes.shape().split_last(),
        scales.shape().split_last(),
    ) else {
        return Err(found());
    };
    let bits = i64::from(words) * 32;
    let fits = rows == code_rows
        && rows == scale_rows
        && columns > 0
        && groups > 0
        && columns % groups == 0
        && bits % i64::from(columns) == 0
        && codes.dtype() == Dtype::Uint32
        && biases.is_none_or(|biases| biases.shape() == scales.shape());
    if !fits {
        return Err(found());
    }
    let group_size = columns / groups;
    let bits = i32::try_from(bits / i64::from(columns)).map_err(|_| found())?;
    let mode = match (scales.dtype(), bits, group_size) {
        (Dtype::Uint8, 4, 16) => QuantMode::Nvfp4,
        (Dtype::Uint8, 4, 32) => QuantMode::Mxfp4,
        (Dtype::Uint8, 8, 32) => QuantMode::Mxfp8,
        (Dtype::Float32 | Dtype::Float16 | Dtype::Bfloat16, 1..=6 | 8, 32 | 64 | 128) => {
            QuantMode::Affine
        }
        (dtype, ..) => {
            return Err(format!(
                "{bits} bits in groups of {group_size} with {dtype:?} scales"
            ));
        }
    };
    Ok(LayerQuantization {
        group_size,
        bits,
        mode,
    })
}

/// Quantises the weights of a model in place and returns how many there were.
///
/// A weight is left alone if it is quantised already, if `quantization` overrides it to stay
/// dense, or if `predicate`, given the layer's path and weight, returns `false`.
///
/// ```
/// use mlx_nn::{Linear, LayerQuantization, Quantization, Sequential, quantize};
///
/// let mut model = Sequential::new().then(Linear::new(64, 8, true)?).then(Linear::new(8, 2, true)?);
/// let settings = Quantization::uniform(LayerQuantization::default());
/// let divisible = |_: &str, weight: &mlx_nn::Weight| weight.shape().last().is_some_and(|n| n % 64 == 0);
/// assert_eq!(quantize(&mut model, &settings, divisible)?, 1);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::Core`] if a chosen weight cannot be quantised so, for example because the group size
/// does not divide its columns; [`Error::NotLoaded`] if it holds nothing yet. Weights before it
/// are quantised then.
pub fn quantize(
    module: &mut dyn Module,
    quantization: &Quantization,
    predicate: impl FnMut(&str, &Weight) -> bool,
) -> Result<usize> {
    let mut visitor = Quantizer {
        quantization,
        predicate,
        count: 0,
    };
    module.visit_mut(&KeyPath::root(), &mut visitor)?;
    Ok(visitor.count)
}

struct Quantizer<'q, P> {
    quantization: &'q Quantization,
    predicate: P,
    count: usize,
}

impl<P: FnMut(&str, &Weight) -> bool> VisitorMut for Quantizer<'_, P> {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &mut Array) -> Result<()> {
        Ok(())
    }

    fn weight(&mut self, path: &KeyPath<'_>, weight: &mut Weight) -> Result<Descend> {
        let path = path.to_string();
        if let Some(layer) = self.quantization.layer(&path)
            && !weight.is_quantized()
            && (self.predicate)(&path, weight)
        {
            match weight {
                Weight::Dense(dense) => {
                    *weight = Weight::Quantized(QuantizedWeight::quantize(dense, layer)?);
                    self.count += 1;
                }
                Weight::Unloaded { shape } => {
                    return Err(Error::NotLoaded {
                        layer: "weight",
                        shape: shape.clone(),
                    });
                }
                Weight::Quantized(_) | Weight::Adapted(_) => {}
            }
        }
        Ok(Descend::Over)
    }
}
