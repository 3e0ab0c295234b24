//! Which tokens may be drawn at all.
//!
//! Each filter takes log-probabilities `[1, V]` in float32 and sets those of
//! excluded tokens to `-inf`; none excludes the most likely token.

use mlx_core::Array;
use mlx_core::ops::arithmetic::{abs, exp, negative, sqrt, square};
use mlx_core::ops::comparison::{greater, greater_equal, less, less_equal};
use mlx_core::ops::indexing::{put_along_axis, slice, take_along_axis, r#where};
use mlx_core::ops::logical::{logical_and, logical_not, logical_or};
use mlx_core::ops::misc::{argpartition, argsort, partition};
use mlx_core::ops::random;
use mlx_core::ops::reduction::{ScanOptions, cumsum, max_axes, min_axes, sum_axes};

use crate::Result;

pub(super) fn never() -> Result<Array> {
    Ok(Array::scalar(f32::NEG_INFINITY)?)
}

/// Puts what is in the order of `order` back into that of the vocabulary.
pub(super) fn unsorted(like: &Array, order: &Array, sorted: &Array) -> Result<Array> {
    Ok(put_along_axis(like, order, sorted, -1)?)
}

/// The smallest set whose probability exceeds `share`.
pub(super) fn top_p(logprobs: &Array, share: f32) -> Result<Array> {
    let vocab = logprobs.dim(-1)?;
    let order = argsort(logprobs, -1)?;
    let sorted = take_along_axis(logprobs, &order, -1)?;
    let below = cumsum(&exp(&sorted)?, -1, ScanOptions::default())?;
    let kept = greater(&below, &Array::scalar(1.0 - share)?)?;
    // Rounding must not filter out the most likely token too.
    let best = slice(&sorted, &[0, vocab - 1], &[1, vocab])?;
    let kept = logical_or(&kept, &greater_equal(&sorted, &best)?)?;
    unsorted(logprobs, &order, &r#where(&kept, &sorted, &never()?)?)
}

/// Tokens at least `share` times as likely as the most likely one.
pub(super) fn min_p(logprobs: &Array, share: f32, least: usize) -> Result<Array> {
    let floor = (max_axes(logprobs, &[-1], true)? + share.ln())?;
    let floor = match kth_largest(logprobs, least)? {
        Some(kth) => mlx_core::ops::arithmetic::minimum(&floor, &kth)?,
        None => floor,
    };
    Ok(r#where(&less(logprobs, &floor)?, &never()?, logprobs)?)
}

/// The value of the `count`-th most likely token, if that is not simply the first.
fn kth_largest(logprobs: &Array, count: usize) -> Result<Option<Array>> {
    let vocab = logprobs.dim(-1)?;
    let count = i32::try_from(count).unwrap_or(i32::MAX).min(vocab);
    if count <= 1 {
        return Ok(None);
    }
    let at = vocab - count;
    let parted = partition(logprobs, at, -1)?;
    Ok(Some(slice(&parted, &[0, at], &[1, at + 1])?))
}

/// Tokens whose surprise is nearest to the entropy, up to `share`.
pub(super) fn typical_p(logprobs: &Array, share: f32, least: usize) -> Result<Array> {
    let finite = greater(logprobs, &never()?)?;
    let zero = Array::scalar(0.0_f32)?;
    let weighted = r#where(&finite, &(exp(logprobs)? * logprobs)?, &zero)?;
    let entropy = negative(&sum_axes(&weighted, &[-1], true)?)?;
    let distance = abs(&(negative(logprobs)? - entropy)?)?;
    let order = argsort(&distance, -1)?;
    let sorted = take_along_axis(logprobs, &order, -1)?;
    let mass = exp(&sorted)?;
    // What comes before a token must not have reached the share yet.
    let before = (cumsum(&mass, -1, ScanOptions::default())? - &mass)?;
    let kept = less(&before, &Array::scalar(share)?)?;
    let ranks = Array::arange::<f32>(0.0, f64::from(logprobs.dim(-1)?), 1.0)?;
    let least = i32::try_from(least.max(1)).unwrap_or(i32::MAX);
    let first = less(
        &ranks,
        &Array::scalar_dtype(f64::from(least), ranks.dtype())?,
    )?;
    let kept = logical_or(&kept, &first)?;
    unsorted(logprobs, &order, &r#where(&kept, &sorted, &never()?)?)
}

/// Tokens within `count` standard deviations of the largest logit. The
/// deviation is that of all tokens that are possible.
pub(super) fn top_n_sigma(logprobs: &Array, count: f32) -> Result<Array> {
    let finite = greater(logprobs, &never()?)?;
    let zero = Array::scalar(0.0_f32)?;
    let total = sum_axes(&finite.astype(logprobs.dtype())?, &[-1], true)?;
    let mean = (sum_axes(&r#where(&finite, logprobs, &zero)?, &[-1], true)? / &total)?;
    let spread = r#where(&finite, &square(&(logprobs - mean)?)?, &zero)?;
    let deviation = sqrt(&(sum_axes(&spread, &[-1], true)? / total)?)?;
    let floor = (max_axes(logprobs, &[-1], true)? - (deviation * count)?)?;
    Ok(r#where(&less(logprobs, &floor)?, &never()?, logprobs)?)
}

/// Excludes, with `probability`, all tokens that are likelier than `threshold`
/// but the least likely of them, and but the spared ones.
pub(super) fn xtc(
    logprobs: &Array,
    probability: f32,
    threshold: f32,
    spared: &[u32],
    key: &Array,
) -> Result<Array> {
    let probabilities = exp(logprobs)?;
    let likely = greater(&probabilities, &Array::scalar(threshold)?)?;
    let infinite = Array::scalar(f32::INFINITY)?;
    let least = min_axes(&r#where(&likely, &probabilities, &infinite)?, &[-1], true)?;
    let mut excluded = greater(&probabilities, &least)?;
    let vocab = logprobs.dim(-1)?;
    let spared: Vec<i32> = spared
        .iter()
        .filter_map(|&token| i32::try_from(token).ok())
        .filter(|&token| token < vocab)
        .collect();
    if !spared.is_empty() {
        let shape = [1, i32::try_from(spared.len()).unwrap_or(i32::MAX)];
        let none = Array::full::<bool>(&shape, false)?;
        let spared = Array::from_slice::<i32>(&spared, &shape)?;
        excluded = put_along_axis(&excluded, &spared, &none, -1)?;
    }
    let coin = random::uniform::<f32>(0.0, 1.0, &[1, 1], Some(key))?;
    let applies = logical_not(&greater(&coin, &Array::scalar(probability)?)?)?;
    let excluded = logical_and(&excluded, &applies)?;
    Ok(r#where(&excluded, &never()?, logprobs)?)
}

/// The `count` most likely tokens.
pub(super) fn top_k(logprobs: &Array, count: usize) -> Result<Array> {
    let vocab = logprobs.dim(-1)?;
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    if count <= 0 || count >= vocab {
        return Ok(logprobs.clone());
    }
    let order = argpartition(logprobs, vocab - count, -1)?;
    let rest = slice(&order, &[0, 0], &[1, vocab - count])?;
    let never = Array::full::<f32>(&[1, vocab - count], f32::NEG_INFINITY)?;
    Ok(put_along_axis(logprobs, &rest, &never, -1)?)
}

/// Tokens of rank below `count`, a number on the device.
pub(super) fn ranked_below(sorted: &Array, count: &Array) -> Result<Array> {
    let ranks = Array::arange::<f32>(0.0, f64::from(sorted.dim(-1)?), 1.0)?;
    let first = less_equal(&ranks, &Array::scalar(0.0_f32)?)?;
    let kept = logical_or(&less(&ranks, count)?, &first)?;
    Ok(r#where(&kept, sorted, &never()?)?)
}
