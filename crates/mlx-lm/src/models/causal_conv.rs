//! A depthwise convolution over time whose past is kept in a cache.

use mlx_core::Array;
use mlx_core::ops::indexing::{slice, r#where};
use mlx_core::ops::shape::{concatenate, expand_dims};
use mlx_nn::{Conv1d, Weights};

use crate::Result;
use crate::cache::StateCache;

/// A depthwise convolution of `channels` over the last `kernel` positions.
pub(super) fn causal_conv(channels: i32, kernel: i32, bias: bool) -> Result<Conv1d> {
    let conv = Conv1d::grouped(channels, channels, [kernel], channels)?;
    Ok(if bias { conv } else { conv.without_bias() })
}

/// Convolves `[B, L, C]` with what the cache's `slot` remembers before it, and leaves the newest
/// `kernel - 1` positions there. Positions that `mask` (`[B, L]`) rules out count as zero.
pub(super) fn convolve(
    conv: &Conv1d,
    x: &Array,
    state: &mut StateCache,
    slot: usize,
    mask: Option<&Array>,
) -> Result<Array> {
    let (batch, length, channels) = (x.dim(0)?, x.dim(1)?, x.dim(2)?);
    let kept = conv.weight.dim(1)? - 1;
    let x = match mask {
        Some(mask) => r#where(&expand_dims(mask, &[-1])?, x, &x.zeros_like()?)?,
        None => x.clone(),
    };
    let past = match state.get(slot) {
        Some(past) => past.clone(),
        None => Array::zeros_dtype(&[batch, kept, channels], x.dtype())?,
    };
    let window = concatenate(&[&past, &x], 1)?;
    let newest = slice(
        &window,
        &[0, length, 0],
        &[batch, length.saturating_add(kept), channels],
    )?;
    // A view would keep the whole window alive for the sake of its end.
    state.set(slot, newest.contiguous(false)?)?;
    Ok(conv.forward(&window)?)
}

/// Moves the channels of convolution weights last where a checkpoint has them in PyTorch's
/// order, `[C, 1, K]`; returns whether it had.
pub(super) fn conv1d_from_torch(weights: &mut Weights, suffix: &str) -> Result<bool> {
    let foreign: Vec<String> = weights
        .iter()
        .filter(|(key, array)| key.ends_with(suffix) && array.shape().last() != Some(&1))
        .map(|(key, _)| key.to_owned())
        .collect();
    for key in &foreign {
        weights.conv_to_channels_last(key)?;
    }
    Ok(!foreign.is_empty())
}
