//! Choosing experts and adding up what they say.

use mlx_core::Array;
use mlx_core::Dtype;
use mlx_core::ops::arithmetic::{multiply, sigmoid};
use mlx_core::ops::indexing::{put_along_axis, slice, take_along_axis};
use mlx_core::ops::linalg_basic::matmul;
use mlx_core::ops::misc::{argpartition, stop_gradient, topk};
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with, sum_axes};
use mlx_core::ops::shape::{expand_dims, flatten, swapaxes, unflatten};

use crate::{Error, Result, config};

/// The `count` largest of `scores [.., E]`: indices `[.., K]`, in no particular order.
pub(super) fn best(scores: &Array, count: i32) -> Result<Array> {
    let order = argpartition(scores, -count, -1)?;
    let stops = order.shape().to_vec();
    let mut starts = vec![0; stops.len()];
    if let (Some(start), Some(stop)) = (starts.last_mut(), stops.last()) {
        *start = stop - count;
    }
    Ok(stop_gradient(&slice(&order, &starts, &stops)?)?)
}

/// A softmax over all experts, of which the `top_k` likeliest are taken; with `normalize`, their
/// shares add up to one: router logits `[.., E]` → indices and scores `[.., K]`.
pub(super) fn softmax_top_k(logits: &Array, top_k: i32, normalize: bool) -> Result<(Array, Array)> {
    let shares = softmax_with(logits, &[-1], SoftmaxOptions::default().precise(true))?;
    let chosen = best(&shares, top_k)?;
    let mut scores = take_along_axis(&shares, &chosen, -1)?;
    if normalize {
        scores = (&scores / sum_axes(&scores, &[-1], true)?)?;
    }
    Ok((chosen, scores))
}

/// Router logits `[.., E]` of `x [.., D]` for a router `[E, D]` whose model computes them in 32
/// bits whatever the rest is computed in: a rounded logit may choose another expert.
pub(super) fn router_logits(x: &Array, weight: &Array) -> Result<Array> {
    let weight = weight.astype(Dtype::Float32)?;
    Ok(matmul(
        &x.astype(Dtype::Float32)?,
        &swapaxes(&weight, 0, 1)?,
    )?)
}

/// Outputs `[.., K, D]` of the chosen experts, added up by their weights `[.., K]`.
pub(super) fn weighted_sum(outputs: &Array, weights: &Array) -> Result<Array> {
    let weighted = multiply(outputs, &expand_dims(weights, &[-1])?)?;
    Ok(sum_axes(&weighted, &[-2], false)?.astype(outputs.dtype())?)
}

/// How DeepSeek-V3 and its kin choose: each expert is scored by itself with a sigmoid, and a bias
/// that evens out the load takes part in the choice but not in the weights ("DeepSeek-V3 Technical
/// Report", 2024).
#[derive(Debug, Clone, Copy)]
pub(super) struct SigmoidRouter {
    pub(super) num_experts_per_tok: i32,
    /// Experts stand in this many groups, of which `topk_group` are in the running.
    pub(super) n_group: i32,
    pub(super) topk_group: i32,
    pub(super) routed_scaling_factor: f32,
    pub(super) norm_topk_prob: bool,
}

impl SigmoidRouter {
    /// Checks the numbers against each other and against the number of experts.
    pub(super) fn validate(&self, num_experts: i32) -> Result<()> {
        config::positive("num_experts_per_tok", self.num_experts_per_tok)?;
        config::positive("n_group", self.n_group)?;
        config::positive("topk_group", self.topk_group)?;
        config::divisible("number of experts", num_experts, "n_group", self.n_group)?;
        if self.topk_group > self.n_group {
            let message = format!("{} of {} groups", self.topk_group, self.n_group);
            return Err(Error::config("topk_group", message));
        }
        let group = num_experts / self.n_group;
        if self.n_group > 1 && group < 2 {
            let message = format!("{} groups of {num_experts} experts", self.n_group);
            return Err(Error::config("n_group", message));
        }
        let open = group * self.topk_group;
        if self.num_experts_per_tok > open {
            let message = format!("{} of {open} experts in reach", self.num_experts_per_tok);
            return Err(Error::config("num_experts_per_tok", message));
        }
        Ok(())
    }

    /// Indices and weights `[.., K]` for router logits `[.., E]`; the weights are float32.
    pub(super) fn choose(&self, logits: &Array, bias: &Array) -> Result<(Array, Array)> {
        let scores = sigmoid(&logits.astype(Dtype::Float32)?)?;
        let mut ranked = (&scores + bias)?;
        if self.n_group > 1 {
            let grouped = unflatten(&ranked, -1, &[self.n_group, -1])?;
            // A group is worth its two best experts.
            let worth = sum_axes(&topk(&grouped, 2, -1)?, &[-1], true)?;
            ranked = without_weak_groups(&grouped, &worth, self.n_group - self.topk_group)?;
        }
        let chosen = best(&ranked, self.num_experts_per_tok)?;
        let mut weights = take_along_axis(&scores, &chosen, -1)?;
        if self.norm_topk_prob && self.num_experts_per_tok > 1 {
            weights = (&weights / sum_axes(&weights, &[-1], true)?)?;
        }
        Ok((chosen, (weights * self.routed_scaling_factor)?))
    }
}

/// Scores `[.., G, E / G]` with those of the `count` groups of the least worth `[.., G, 1]` set to
/// zero, flattened to `[.., E]`.
pub(super) fn without_weak_groups(scores: &Array, worth: &Array, count: i32) -> Result<Array> {
    if count <= 0 {
        return Ok(flatten(scores, -2, -1)?);
    }
    let order = argpartition(worth, count - 1, -2)?;
    let mut stops = order.shape().to_vec();
    let groups = stops.len().saturating_sub(2);
    if let Some(stop) = stops.get_mut(groups) {
        *stop = count;
    }
    let weakest = stop_gradient(&slice(&order, &vec![0; stops.len()], &stops)?)?;
    let zero = Array::scalar_dtype(0.0, scores.dtype())?;
    let kept = put_along_axis(scores, &weakest, &zero, -2)?;
    Ok(flatten(&kept, -2, -1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_tells_experts_apart_that_16_bits_would_not() -> Result<()> {
        // Sums of 256 and 256.5, which are the same number in bfloat16.
        let x = Array::from_slice::<f32>(&[16.0, 0.5], &[1, 2])?.astype(Dtype::Bfloat16)?;
        let weight = Array::from_slice::<f32>(&[16.0, 0.0, 16.0, 1.0], &[2, 2])?;
        let logits = router_logits(&x, &weight.astype(Dtype::Bfloat16)?)?;
        assert_eq!(logits.to_vec::<f32>()?, [256.0, 256.5]);
        Ok(())
    }
}
