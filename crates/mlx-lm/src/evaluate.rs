//! How well a model predicts given text.

use mlx_core::ops::indexing::take_along_axis;
use mlx_core::ops::misc::astype;
use mlx_core::ops::reduction::{argmax_axis, logsumexp_axes};
use mlx_core::ops::shape::reshape;
use mlx_core::{Array, Dtype, eval};

use crate::cache::CacheOptions;
use crate::generate::CancelFlag;
use crate::registry::LanguageModel;
use crate::{Error, Input, Result};

/// Tokens that go through the model at a time, so that logits stay small.
const STEP: usize = 512;

/// How likely a model finds each token of a sequence.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Likelihood {
    /// The natural logarithm of each token's probability after all before it; the first token of
    /// the sequence, which nothing precedes, has none.
    pub logprobs: Vec<f32>,
    /// Whether each was the likeliest token at its place.
    pub greedy: Vec<bool>,
}

impl Likelihood {
    /// The sum over the last `count` tokens.
    #[must_use]
    pub fn tail(&self, count: usize) -> f64 {
        let skip = self.logprobs.len().saturating_sub(count);
        self.logprobs
            .iter()
            .skip(skip)
            .copied()
            .map(f64::from)
            .sum()
    }

    /// Whether the last `count` tokens are what greedy decoding would have written.
    #[must_use]
    pub fn is_greedy(&self, count: usize) -> bool {
        let skip = self.greedy.len().saturating_sub(count);
        self.greedy.iter().skip(skip).all(|&greedy| greedy)
    }
}

/// Scores a sequence of token ids.
///
/// # Errors
/// [`Error::EmptyPrompt`] for none, [`Error::PromptTooLong`] for more than the model's context
/// holds, [`Error::Cancelled`], and whatever the model returns.
pub fn likelihood(
    model: &dyn LanguageModel,
    tokens: &[u32],
    cancel: &CancelFlag,
) -> Result<Likelihood> {
    if tokens.is_empty() {
        return Err(Error::EmptyPrompt);
    }
    let limit = model
        .max_position_embeddings()
        .and_then(|limit| usize::try_from(limit).ok());
    if let Some(limit) = limit.filter(|&limit| tokens.len() > limit + 1) {
        return Err(Error::PromptTooLong {
            tokens: tokens.len(),
            limit,
        });
    }
    let inputs = tokens.get(..tokens.len() - 1).unwrap_or_default();
    let targets = tokens.get(1..).unwrap_or_default();
    let mut cache = model.make_cache(&CacheOptions::default());
    let mut scored = Likelihood::default();
    for (inputs, targets) in inputs.chunks(STEP).zip(targets.chunks(STEP)) {
        cancel.check()?;
        let inputs = row(inputs)?;
        let hidden = model.hidden(Input::tokens(&inputs), &mut cache)?;
        let logits = astype(&model.logits(&hidden)?, Dtype::Float32)?;
        let index = reshape(&row(targets)?, &[1, -1, 1])?;
        let chosen = take_along_axis(&logits, &index, -1)?;
        let chosen = (&chosen - &logsumexp_axes(&logits, &[-1], true)?)?;
        let best = argmax_axis(&logits, -1, false)?;
        eval(&[&chosen, &best])?;
        scored.logprobs.extend(chosen.to_vec::<f32>()?);
        let best = best.to_vec::<u32>()?;
        scored.greedy.extend(
            best.iter()
                .zip(targets)
                .map(|(best, target)| best == target),
        );
    }
    Ok(scored)
}

/// The perplexity of text that is cut into sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Perplexity {
    /// The exponential of the mean negative log-probability.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
    /// Tokens that were scored.
    pub tokens: usize,
}

impl Perplexity {
    /// From the log-probabilities of all tokens; `None` if there are none.
    #[must_use]
    pub fn new(logprobs: &[f32]) -> Option<Self> {
        let count = u32::try_from(logprobs.len())
            .ok()
            .filter(|&count| count > 0)?;
        let count = f64::from(count);
        let mean = logprobs
            .iter()
            .map(|&logprob| f64::from(logprob))
            .sum::<f64>()
            / count;
        let spread = logprobs
            .iter()
            .map(|&logprob| (f64::from(logprob) - mean).powi(2));
        let deviation = (spread.sum::<f64>() / (count - 1.0).max(1.0)).sqrt();
        let value = (-mean).exp();
        Some(Self {
            value,
            error: value * deviation / count.sqrt(),
            tokens: logprobs.len(),
        })
    }
}

fn row(tokens: &[u32]) -> Result<Array> {
    let length = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
    Ok(Array::from_slice::<u32>(tokens, &[1, length])?)
}
