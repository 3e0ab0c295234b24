//! Quantising a model that is loaded, as a whole or by recipe, and undoing it.

use std::collections::BTreeMap;

use mlx_core::Dtype;
use mlx_core::ops::misc::astype;
use mlx_nn::{
    Descend, KeyPath, LayerQuantization, Module, QuantMode, Quantization, Visitor, VisitorMut,
    Weight, quantize,
};

use crate::{Error, Result};

/// More bits for the weights that lose most by having few: values, the way down and the head, in
/// the first and the last eighth of the layers and in each third between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MixedRecipe {
    /// Bits of most weights.
    pub low_bits: i32,
    /// Bits of the chosen ones.
    pub high_bits: i32,
}

impl MixedRecipe {
    /// A recipe by name: `mixed_2_6`, `mixed_3_4`, `mixed_3_6` or `mixed_4_6`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let (low_bits, high_bits) = match name {
            "mixed_2_6" => (2, 6),
            "mixed_3_4" => (3, 4),
            "mixed_3_6" => (3, 6),
            "mixed_4_6" => (4, 6),
            _ => return None,
        };
        Some(Self {
            low_bits,
            high_bits,
        })
    }

    fn bits(self, path: &str, num_layers: i32) -> i32 {
        let layer = path.split('.').find_map(|part| part.parse().ok());
        let layer: i32 = layer.unwrap_or(0);
        let eighth = num_layers / 8;
        let favoured =
            layer < eighth || layer >= 7 * num_layers / 8 || (layer - eighth).rem_euclid(3) == 2;
        let costly = ["v_proj", "v_a_proj", "v_b_proj", "down_proj"]
            .iter()
            .any(|part| path.contains(part));
        if path.contains("lm_head") || (costly && favoured) {
            self.high_bits
        } else {
            self.low_bits
        }
    }
}

/// How a model is to be quantised.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
#[must_use]
pub struct QuantizeOptions {
    /// What holds for most layers.
    pub layer: LayerQuantization,
    /// Chooses bits by layer in place of those of `layer`; for the affine mode.
    pub recipe: Option<MixedRecipe>,
    /// What holds for the layers at these paths; `None` leaves one dense.
    pub overrides: BTreeMap<String, Option<LayerQuantization>>,
}

impl QuantizeOptions {
    /// Integers of this many bits in groups of 64.
    pub fn bits(bits: i32) -> Self {
        let mut options = Self::default();
        options.layer.bits = bits;
        options
    }

    /// A mode with its default bits and group size.
    pub fn mode(mode: QuantMode) -> Self {
        Self {
            layer: LayerQuantization::new(mode),
            ..Self::default()
        }
    }

    /// Sets how many columns share a scale.
    pub fn group_size(mut self, group_size: i32) -> Self {
        self.layer.group_size = group_size;
        self
    }

    /// Chooses bits by layer.
    pub fn recipe(mut self, recipe: Option<MixedRecipe>) -> Self {
        self.recipe = recipe;
        self
    }

    /// Sets what holds for one layer; `None` leaves it dense.
    pub fn layer(mut self, path: impl Into<String>, layer: Option<LayerQuantization>) -> Self {
        self.overrides.insert(path.into(), layer);
        self
    }

    /// What the weight at `path` becomes.
    pub(super) fn choose(
        &self,
        path: &str,
        columns: i32,
        num_layers: i32,
    ) -> Option<LayerQuantization> {
        if let Some(layer) = self.overrides.get(path) {
            return *layer;
        }
        let mut layer = self.layer;
        if let Some(recipe) = self.recipe {
            layer.bits = recipe.bits(path, num_layers);
        }
        // A router that chooses other experts is a worse loss than the bytes it saves.
        let router = ["gate", "router", "router.proj", "shared_expert_gate"]
            .iter()
            .any(|name| path.ends_with(&format!(".{name}")));
        if router {
            layer = LayerQuantization::default();
            layer.bits = 8;
        }
        (columns % layer.group_size == 0).then_some(layer)
    }
}

/// Quantises the weights of a model in place and returns how many there were.
///
/// Weights whose columns are no multiple of the group size stay dense, routers of experts get 8
/// bits, and what is quantised already stays as it is. Lazy: nothing is computed yet.
///
/// # Errors
/// [`Error::Option`] if there is no such combination of mode, bits and group size, or if a recipe
/// is asked for in another mode than the affine one.
pub fn quantize_model(model: &mut dyn Module, options: &QuantizeOptions) -> Result<usize> {
    let mut layers = vec![options.layer];
    layers.extend(options.overrides.values().flatten());
    for layer in layers {
        let known = match layer.mode {
            QuantMode::Affine => {
                matches!(layer.bits, 2..=6 | 8) && matches!(layer.group_size, 32 | 64 | 128)
            }
            mode => layer == LayerQuantization::new(mode),
        };
        if !known {
            return Err(Error::Option {
                option: "quantize",
                message: format!("{layer} does not exist"),
            });
        }
    }
    if options.recipe.is_some() && options.layer.mode != QuantMode::Affine {
        return Err(Error::Option {
            option: "recipe",
            message: format!("is for the affine mode, not for {}", options.layer.mode),
        });
    }
    let num_layers = layer_count(model);
    let mut settings = Quantization::uniform(options.layer);
    let mut plan = Plan {
        options,
        num_layers,
        chosen: &mut settings,
    };
    model.visit(&KeyPath::root(), &mut plan);
    Ok(quantize(model, &settings, |_, _| true)?)
}

/// The number of weights that are quantised.
pub(super) fn quantized_count(model: &dyn Module) -> usize {
    struct Quantized(usize);
    impl<'a> Visitor<'a> for Quantized {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &'a mlx_core::Array) {}

        fn weight(&mut self, _: &KeyPath<'_>, weight: &'a Weight) -> Descend {
            self.0 += usize::from(weight.is_quantized());
            Descend::Over
        }
    }
    let mut quantized = Quantized(0);
    model.visit(&KeyPath::root(), &mut quantized);
    quantized.0
}

/// One more than the largest number that names a layer.
fn layer_count(model: &dyn Module) -> i32 {
    struct Layers(i32);
    impl<'a> Visitor<'a> for Layers {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &'a mlx_core::Array) {}

        fn weight(&mut self, path: &KeyPath<'_>, _: &'a Weight) -> Descend {
            let path = path.to_string();
            let number = path.split('.').find_map(|part| part.parse::<i32>().ok());
            self.0 = self.0.max(number.map_or(0, |number| number + 1));
            Descend::Over
        }
    }
    let mut layers = Layers(0);
    model.visit(&KeyPath::root(), &mut layers);
    layers.0
}

/// Writes down what each weight becomes.
struct Plan<'p> {
    options: &'p QuantizeOptions,
    num_layers: i32,
    chosen: &'p mut Quantization,
}

impl<'a> Visitor<'a> for Plan<'_> {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a mlx_core::Array) {}

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        let path = path.to_string();
        let columns = weight.shape().last().copied().unwrap_or_default();
        let layer = self.options.choose(&path, columns, self.num_layers);
        self.chosen.overrides.insert(path, layer);
        Descend::Over
    }
}

/// Makes every quantised weight dense, in `dtype` or else in that of its scales, or in bfloat16
/// for the modes whose scales have none.
///
/// # Errors
/// Whatever computing the weights reports.
pub fn dequantize_model(model: &mut dyn Module, dtype: Option<Dtype>) -> Result<()> {
    struct Dequantize(Option<Dtype>);
    impl VisitorMut for Dequantize {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &mut mlx_core::Array) -> mlx_nn::Result<()> {
            Ok(())
        }

        fn weight(&mut self, _: &KeyPath<'_>, weight: &mut Weight) -> mlx_nn::Result<Descend> {
            if weight.is_quantized() {
                let dtype = self.0.or(weight.dtype()).unwrap_or(Dtype::Bfloat16);
                let dense = weight.to_dense("weight")?;
                *weight = Weight::Dense(astype(&dense, dtype)?);
            }
            Ok(Descend::Over)
        }
    }
    Ok(model.visit_mut(&KeyPath::root(), &mut Dequantize(dtype))?)
}

#[cfg(test)]
mod tests {
    use super::QuantizeOptions;

    #[test]
    fn what_chooses_experts_keeps_8_bits() {
        let options = QuantizeOptions::bits(4);
        let bits = |name: &str| {
            let layer = options.choose(&format!("model.layers.0.mlp.{name}"), 64, 1);
            layer.map(|layer| layer.bits)
        };
        assert_eq!(bits("gate"), Some(8));
        assert_eq!(bits("shared_expert_gate"), Some(8));
        assert_eq!(bits("gate_proj"), Some(4));
    }
}
