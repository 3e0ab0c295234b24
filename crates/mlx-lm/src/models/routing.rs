//! Softmax routing, and the layouts in which checkpoints keep experts.

use mlx_core::Array;
use mlx_core::ops::indexing::take_along_axis;
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with, sum_axes};
use mlx_core::ops::shape::split;
use mlx_nn::Weights;

use super::experts::best;
use crate::Result;

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

/// Splits fused expert weights of transformers 5, `…<from>.gate_up_proj` `[E, 2 I, D]` and
/// `…<from>.down_proj` `[E, D, I]`, into `…<to>.{gate,up,down}_proj.weight`.
pub(super) fn split_gate_up(weights: &mut Weights, from: &str, to: &str) -> Result<()> {
    let fused = format!("{from}.gate_up_proj");
    let layers: Vec<String> = weights
        .keys()
        .filter_map(|key| key.strip_suffix(&fused))
        .map(str::to_owned)
        .collect();
    for layer in layers {
        if let Some(both) = weights.take(&format!("{layer}{fused}")) {
            let halves = split(&both, 2, -2)?;
            for (half, name) in halves.into_iter().zip(["gate_proj", "up_proj"]) {
                weights.insert(format!("{layer}{to}.{name}.weight"), half)?;
            }
        }
        if let Some(down) = weights.take(&format!("{layer}{from}.down_proj")) {
            weights.insert(format!("{layer}{to}.down_proj.weight"), down)?;
        }
    }
    Ok(())
}
