//! Which weights a model can least afford to have coarse.

use std::collections::BTreeMap;

use mlx_core::ops::arithmetic::{exp, multiply, subtract};
use mlx_core::ops::misc::astype;
use mlx_core::ops::reduction::{logsumexp_axes, mean, sum_axes};
use mlx_core::{Array, Dtype};
use mlx_nn::{Descend, KeyPath, LayerQuantization, Visitor, VisitorMut, Weight};

use crate::cache::CacheOptions;
use crate::generate::CancelFlag;
use crate::registry::LanguageModel;
use crate::{Error, Input, Result};

/// What quantising one weight does to a model's predictions.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sensitivity {
    /// The weight's path, without `.weight`.
    pub path: String,
    /// Numbers in it.
    pub size: u64,
    /// The mean Kullback-Leibler divergence, in nats per token, from the model with this weight
    /// quantised to the model as it is.
    pub divergence: f64,
}

/// Measures every dense weight that can be quantised, one at a time, on a text.
///
/// The model is the same afterwards. Each weight takes one pass over `tokens`; `progress` is told
/// how many are done, and of how many.
///
/// # Errors
/// [`Error::EmptyPrompt`] without tokens, [`Error::Cancelled`], and whatever the model returns.
pub fn sensitivities(
    model: &mut dyn LanguageModel,
    tokens: &[u32],
    layer: LayerQuantization,
    cancel: &CancelFlag,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<Sensitivity>> {
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let length = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
    let tokens = Array::from_slice::<u32>(tokens, &[1, length])?;
    let mut candidates = Candidates {
        group_size: layer.group_size,
        found: Vec::new(),
    };
    model.visit(&KeyPath::root(), &mut candidates);
    let candidates = candidates.found;
    let reference = log_probabilities(model, &tokens)?;
    reference.eval()?;
    let total = candidates.len();
    let mut measured = Vec::with_capacity(total);
    for (done, (path, size, dense)) in candidates.into_iter().enumerate() {
        cancel.check()?;
        progress(done, total);
        let coarse = Weight::Quantized(mlx_nn::QuantizedWeight::quantize(&dense, layer)?);
        swap(model, &path, coarse)?;
        let divergence = divergence(model, &tokens, &reference);
        // The weight goes back whatever the pass gave.
        swap(model, &path, Weight::Dense(dense))?;
        let divergence = f64::from(divergence?);
        measured.push(Sensitivity {
            path,
            size,
            divergence,
        });
    }
    progress(total, total);
    Ok(measured)
}

/// Chooses `high` for the weights that are most sensitive for their size, as far as the mean bits
/// per number, scales and biases included, stay within `target`; all others get `low`.
#[must_use]
pub fn allocate_bits(
    measured: &[Sensitivity],
    low: LayerQuantization,
    high: LayerQuantization,
    target: f64,
) -> BTreeMap<String, Option<LayerQuantization>> {
    // Two 16-bit numbers for each group come on top.
    let cost = |layer: LayerQuantization| {
        f64::from(layer.bits) + 32.0 / f64::from(layer.group_size.max(1))
    };
    let size = |entry: &Sensitivity| f64::from(u32::try_from(entry.size).unwrap_or(u32::MAX));
    let total: f64 = measured.iter().map(size).sum();
    let mut left = (target - cost(low)) * total;
    let mut order: Vec<&Sensitivity> = measured.iter().collect();
    order.sort_by(|a, b| (b.divergence / size(b)).total_cmp(&(a.divergence / size(a))));
    let choose = |entry: &Sensitivity| {
        let extra = (cost(high) - cost(low)) * size(entry);
        let affordable = extra <= left;
        if affordable {
            left -= extra;
        }
        let layer = if affordable { high } else { low };
        (entry.path.clone(), Some(layer))
    };
    order.into_iter().map(choose).collect()
}

fn log_probabilities(model: &dyn LanguageModel, tokens: &Array) -> Result<Array> {
    let mut cache = model.make_cache(&CacheOptions::default());
    let hidden = model.hidden(Input::tokens(tokens), &mut cache)?;
    let logits = astype(&model.logits(&hidden)?, Dtype::Float32)?;
    Ok(subtract(&logits, &logsumexp_axes(&logits, &[-1], true)?)?)
}

fn divergence(model: &dyn LanguageModel, tokens: &Array, reference: &Array) -> Result<f32> {
    let found = log_probabilities(model, tokens)?;
    let apart = multiply(&exp(reference)?, &subtract(reference, &found)?)?;
    Ok(mean(&sum_axes(&apart, &[-1], false)?, false)?.item::<f32>()?)
}

struct Candidates {
    group_size: i32,
    found: Vec<(String, u64, Array)>,
}

impl<'a> Visitor<'a> for Candidates {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

    fn weight(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        if let Weight::Dense(array) = weight
            // Experts are stacked: one array for all of a layer.
            && array.shape().len() >= 2
            && array
                .shape()
                .last()
                .is_some_and(|n| n % self.group_size == 0)
        {
            let size = u64::try_from(array.size()).unwrap_or(0);
            self.found.push((path.to_string(), size, array.clone()));
        }
        Descend::Over
    }
}

/// Puts another weight in the place of the one at `path`.
fn swap(model: &mut dyn LanguageModel, path: &str, weight: Weight) -> Result<()> {
    struct Swap<'p> {
        path: &'p str,
        weight: Option<Weight>,
    }
    impl VisitorMut for Swap<'_> {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &mut Array) -> mlx_nn::Result<()> {
            Ok(())
        }

        fn weight(&mut self, path: &KeyPath<'_>, weight: &mut Weight) -> mlx_nn::Result<Descend> {
            if path.to_string() == self.path
                && let Some(new) = self.weight.take()
            {
                *weight = new;
            }
            Ok(Descend::Over)
        }
    }
    let mut swap = Swap {
        path,
        weight: Some(weight),
    };
    Ok(model.visit_mut(&KeyPath::root(), &mut swap)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_sensitive_get_more_bits_within_the_budget() {
        let entry = |path: &str, size, divergence| Sensitivity {
            path: path.to_owned(),
            size,
            divergence,
        };
        let measured = [
            entry("a", 100, 1.0),
            entry("b", 100, 9.0),
            entry("c", 200, 4.0),
        ];
        let (mut low, mut high) = (LayerQuantization::default(), LayerQuantization::default());
        (low.bits, high.bits) = (4, 8);
        // 4.5 bits for all, and 4 more for a quarter of the numbers.
        let chosen = allocate_bits(&measured, low, high, 5.5);
        let bits = |path: &str| chosen[path].unwrap().bits;
        assert_eq!((bits("a"), bits("b"), bits("c")), (4, 8, 4));
        let all = allocate_bits(&measured, low, high, 8.5);
        assert!(all.values().all(|layer| layer.unwrap().bits == 8));
    }
}
