//! Changes of logits by what was written before.

use std::collections::BTreeMap;

use mlx_core::Array;
use mlx_core::ops::comparison::less;
use mlx_core::ops::indexing::{put_along_axis, scatter_add_axis, slice, take_along_axis, r#where};
use mlx_core::ops::misc::astype;

use super::options::{Dry, SamplingOptions};
use crate::{Error, Result};

/// Logits `[1, V]` after the bias and the penalties for `recent` tokens `[1, N]`.
pub(super) fn penalise(
    options: &SamplingOptions,
    logits: &Array,
    recent: Option<&Array>,
) -> Result<Array> {
    let mut logits = biased(options, logits)?;
    let Some(recent) = recent.filter(|recent| recent.size() > 0) else {
        return Ok(logits);
    };
    let newest = |context: usize| -> Result<Array> {
        let length = recent.dim(1)?;
        let count = i32::try_from(context).unwrap_or(i32::MAX).min(length);
        Ok(slice(recent, &[0, length - count], &[1, length])?)
    };
    if options.penalises_repetition() {
        let recent = newest(options.repetition_context)?;
        let penalty = options.repetition_penalty;
        let selected = take_along_axis(&logits, &recent, -1)?;
        let negative = less(&selected, &Array::scalar(0.0_f32)?)?;
        let selected = r#where(&negative, &(&selected * penalty)?, &(&selected / penalty)?)?;
        logits = put_along_axis(&logits, &recent, &selected, -1)?;
    }
    if options.penalises_presence() {
        let recent = newest(options.presence_context)?;
        let selected = (take_along_axis(&logits, &recent, -1)? - options.presence_penalty)?;
        logits = put_along_axis(&logits, &recent, &selected, -1)?;
    }
    if options.penalises_frequency() {
        let recent = newest(options.frequency_context)?;
        let loss = Array::full::<f32>(recent.shape(), -options.frequency_penalty)?;
        logits = scatter_add_axis(&logits, &recent, &astype(&loss, logits.dtype())?, -1)?;
    }
    Ok(logits)
}

fn biased(options: &SamplingOptions, logits: &Array) -> Result<Array> {
    if options.logit_bias.is_empty() {
        return Ok(logits.clone());
    }
    add(logits, "logit_bias", options.logit_bias.iter().copied())
}

/// The logits with something added to single tokens.
fn add(
    logits: &Array,
    option: &'static str,
    changes: impl Iterator<Item = (u32, f32)>,
) -> Result<Array> {
    let vocab = u32::try_from(logits.dim(-1)?).unwrap_or(0);
    let (mut tokens, mut values) = (Vec::new(), Vec::new());
    for (token, value) in changes {
        if token >= vocab {
            let message = format!("token {token} is not among the model's {vocab}");
            return Err(Error::Option { option, message });
        }
        tokens.push(token);
        values.push(value);
    }
    let shape = [1, i32::try_from(tokens.len()).unwrap_or(i32::MAX)];
    let tokens = Array::from_slice::<u32>(&tokens, &shape)?;
    let values = Array::from_slice::<f32>(&values, &shape)?;
    let values = astype(&values, logits.dtype())?;
    Ok(scatter_add_axis(logits, &tokens, &values, -1)?)
}

/// Logits after the penalty for repeated sequences.
pub(super) fn dry(options: &Dry, history: &[u32], logits: &Array) -> Result<Array> {
    let losses = dry_losses(options, history);
    if losses.is_empty() {
        return Ok(logits.clone());
    }
    let vocab = u32::try_from(logits.dim(-1)?).unwrap_or(0);
    // The prompt may hold ids beyond the model's logits; those cannot be drawn.
    let known = losses.into_iter().filter(|&(token, _)| token < vocab);
    add(logits, "dry", known.map(|(token, loss)| (token, -loss)))
}

/// What each token that would continue a repetition loses.
fn dry_losses(options: &Dry, history: &[u32]) -> BTreeMap<u32, f32> {
    let mut losses = BTreeMap::new();
    if options.multiplier == 0.0 {
        return losses;
    }
    let start = match options.range {
        0 => 0,
        range => history.len().saturating_sub(range),
    };
    let recent = history.get(start..).unwrap_or_default();
    let lengths = repeated_suffixes(recent, &options.breakers);
    for (length, next) in lengths.into_iter().zip(recent.iter().skip(1)) {
        if length < options.allowed_length.max(1) {
            continue;
        }
        let excess = i32::try_from(length - options.allowed_length).unwrap_or(i32::MAX);
        // Beyond this a token is out of the question anyway.
        let loss = (options.multiplier * options.base.powi(excess)).min(1e30);
        let worst = losses.entry(*next).or_insert(0.0_f32);
        *worst = worst.max(loss);
    }
    losses
}

/// For each position but the last, how many tokens up to and with it equal
/// those at the end of the text, not reaching across a breaker.
///
/// The Z function of the reversed text, in linear time.
fn repeated_suffixes(tokens: &[u32], breakers: &[u32]) -> Vec<usize> {
    let reversed: Vec<u32> = tokens.iter().rev().copied().collect();
    let limit = reversed
        .iter()
        .position(|token| breakers.contains(token))
        .unwrap_or(reversed.len());
    let mut z = vec![0; reversed.len()];
    let (mut left, mut right) = (0, 0);
    for at in 1..reversed.len() {
        let known = z.get(at.wrapping_sub(left)).copied().unwrap_or(0);
        let mut length = if at < right { known.min(right - at) } else { 0 };
        while reversed.get(at + length).is_some()
            && reversed.get(at + length) == reversed.get(length)
        {
            length += 1;
        }
        if at + length > right {
            (left, right) = (at, at + length);
        }
        if let Some(place) = z.get_mut(at) {
            *place = length;
        }
    }
    let lengths = z.into_iter().skip(1).map(|length| length.min(limit));
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.reverse();
    lengths
}

#[cfg(test)]
mod tests {
    use super::{Dry, dry_losses, repeated_suffixes};

    fn naive(tokens: &[u32], breakers: &[u32]) -> Vec<usize> {
        let last = tokens.len().saturating_sub(1);
        (0..last)
            .map(|at| {
                (0..=at)
                    .take_while(|&back| {
                        tokens[at - back] == tokens[last - back]
                            && !breakers.contains(&tokens[last - back])
                    })
                    .count()
            })
            .collect()
    }

    #[test]
    fn repetitions_equal_a_plain_search() {
        let mut state = 7_u32;
        for length in 0..60 {
            let tokens: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state >> 30
                })
                .collect();
            for breakers in [&[][..], &[3]] {
                let found = repeated_suffixes(&tokens, breakers);
                assert_eq!(found, naive(&tokens, breakers), "{tokens:?}");
            }
        }
    }

    #[test]
    fn the_loss_grows_with_the_repetition() {
        let history = [1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3];
        let losses = dry_losses(&Dry::new(0.8), &history);
        assert_eq!(losses.len(), 2);
        // `1 2 3` was followed by 4, and `2 3` by 5.
        assert!((losses[&4] - 0.8 * 1.75).abs() < 1e-6);
        assert!((losses[&5] - 0.8).abs() < 1e-6);
        assert!(dry_losses(&Dry::new(0.8).range(3), &history).is_empty());
        assert!(dry_losses(&Dry::new(0.8).breakers(vec![3]), &history).is_empty());
    }
}
