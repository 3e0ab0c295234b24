//! Feedback on the surprise of drawn tokens.

use mlx_core::Array;
use mlx_core::ops::arithmetic::{divide, floor, maximum, negative, power};
use mlx_core::ops::comparison::greater;
use mlx_core::ops::indexing::{slice, take_along_axis, r#where};
use mlx_core::ops::logical::logical_or;
use mlx_core::ops::misc::argsort;
use mlx_core::ops::reduction::{max_axes, sum_axes};
use mlx_core::ops::shape::reshape;

use super::filters::{never, ranked_below, unsorted};
use super::normalised;
use super::options::{Mirostat, MirostatVersion};
use crate::Result;

/// Tokens that the first version looks at to estimate the exponent.
const ESTIMATED_FROM: i32 = 100;

/// The limit on the device, as it stands after the tokens so far.
#[derive(Debug, Clone)]
pub(super) struct Feedback {
    options: Mirostat,
    mu: Array,
}

impl Feedback {
    pub(super) fn new(options: Mirostat) -> Result<Self> {
        Ok(Self {
            options,
            mu: Array::full::<f32>(&[1, 1], 2.0 * options.tau)?,
        })
    }

    /// The distribution to draw from, normalised.
    pub(super) fn limit(&self, logprobs: &Array) -> Result<Array> {
        let kept = match self.options.version {
            MirostatVersion::V1 => self.top_k(logprobs)?,
            MirostatVersion::V2 => {
                let surprise = (negative(logprobs)? * std::f32::consts::LOG2_E)?;
                let excess = greater(&surprise, &self.mu)?;
                let best = max_axes(logprobs, &[-1], true)?;
                let likely = logical_or(
                    &mlx_core::ops::logical::logical_not(&excess)?,
                    &mlx_core::ops::comparison::greater_equal(logprobs, &best)?,
                )?;
                r#where(&likely, logprobs, &never()?)?
            }
        };
        normalised(&kept)
    }

    fn top_k(&self, logprobs: &Array) -> Result<Array> {
        let vocab = logprobs.dim(-1)?;
        let order = argsort(&negative(logprobs)?, -1)?;
        let sorted = take_along_axis(logprobs, &order, -1)?;
        let count = vocab.min(ESTIMATED_FROM) - 1;
        if count < 1 {
            return Ok(logprobs.clone());
        }
        // Excluded tokens would make the slope infinite.
        let finite = maximum(&sorted, &Array::scalar(-100.0_f32)?)?;
        let b =
            (slice(&finite, &[0, 0], &[1, count])? - slice(&finite, &[0, 1], &[1, count + 1])?)?;
        let steps: Vec<f64> = (0..count)
            .map(|i| (f64::from(i + 2) / f64::from(i + 1)).ln())
            .collect();
        let squares: f64 = steps.iter().map(|t| t * t).sum();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "float32 is what the device has"
        )]
        let t: Vec<f32> = steps.iter().map(|&t| (t / squares) as f32).collect();
        let t = Array::from_slice::<f32>(&t, &[1, count])?;
        let s = sum_axes(&(b * t)?, &[-1], true)?;
        let epsilon = (&s - 1.0)?;
        let size = Array::scalar_dtype(f64::from(vocab), s.dtype())?;
        let tail = (1.0 - power(&size, &negative(&epsilon)?)?)?;
        let two = Array::scalar(2.0_f32)?;
        let inner = divide(&(&epsilon * power(&two, &self.mu)?)?, &tail)?;
        let k = floor(&power(&inner, &divide(&Array::scalar(1.0_f32)?, &s)?)?)?;
        unsorted(logprobs, &order, &ranked_below(&sorted, &k)?)
    }

    /// Learns how surprising the token was in the distribution it came from.
    pub(super) fn observe(&mut self, distribution: &Array, token: &Array) -> Result<()> {
        let token = reshape(token, &[1, 1])?;
        let surprise = take_along_axis(distribution, &token, -1)?;
        let surprise = (negative(&surprise)? * std::f32::consts::LOG2_E)?;
        let error = (surprise - self.options.tau)?;
        self.mu = (&self.mu - (error * self.options.eta)?)?;
        Ok(())
    }
}
