//! Whole caches as batches: joining, leaving and trimming of sequences.

use std::any::Any;

use mlx_core::Array;

use super::{Cache, CacheList, LayerCache, StateCache, foreign};
use crate::Result;

/// One cache with the sequences of all, in their order.
///
/// Each may hold one sequence or several; they need not be of one length.
///
/// # Errors
/// [`Error::Option`](crate::Error::Option) if they are not of one model.
pub fn merge(caches: &[&Cache]) -> Result<Cache> {
    let Some((first, others)) = caches.split_first() else {
        return Err(foreign("one or more caches", 0));
    };
    let mut merged = Vec::with_capacity(first.len());
    for (index, layer) in first.iter().enumerate() {
        let mut same = Vec::with_capacity(others.len());
        for other in others {
            let other = other.get(index);
            same.push(
                other
                    .ok_or_else(|| foreign(&format!("layer {index}"), "none"))?
                    .as_ref(),
            );
        }
        merged.push(layer.merge(&same)?);
    }
    Ok(merged)
}

/// The sequences at `rows`, in that order.
///
/// # Errors
/// [`Error::Option`](crate::Error::Option) if there is no such row.
pub fn select(cache: &[Box<dyn LayerCache>], rows: &[i32]) -> Result<Cache> {
    cache.iter().map(|layer| layer.select(rows)).collect()
}

/// One sequence in a cache of its own, without slack.
///
/// # Errors
/// [`Error::Option`](crate::Error::Option) if there is no such row.
pub fn row(cache: &[Box<dyn LayerCache>], row: i32) -> Result<Cache> {
    cache.iter().map(|layer| layer.row(row)).collect()
}

/// An empty cache like this one for a batch of prompts that are padded on
/// the left, so that all end together.
///
/// # Errors
/// [`Error::Option`](crate::Error::Option) if a layer's cache cannot be batched.
pub fn left_padded(cache: &[Box<dyn LayerCache>], padding: &[i32]) -> Result<Cache> {
    cache
        .iter()
        .map(|layer| layer.left_padded(padding))
        .collect()
}

/// Whether [`trim_rows`] can forget the newest `count` tokens in every layer.
#[must_use]
pub fn can_trim(cache: &[Box<dyn LayerCache>], count: i32) -> bool {
    cache.iter().all(|layer| layer.can_trim(count))
}

/// Forgets the newest tokens of each sequence, as many as `counts` says.
///
/// # Errors
/// [`Error::Option`](crate::Error::Option) if some layer cannot; ask
/// [`can_trim`] before.
pub fn trim_rows(cache: &mut [Box<dyn LayerCache>], counts: &[i32]) -> Result<()> {
    let most = counts.iter().copied().max().unwrap_or(0);
    if !can_trim(cache, most) {
        return Err(foreign("caches that can be trimmed", "others"));
    }
    cache
        .iter_mut()
        .try_for_each(|layer| layer.trim_rows(counts))
}

/// Whether some layer remembers by states.
pub(crate) fn has_states(cache: &[Box<dyn LayerCache>]) -> bool {
    cache.iter().any(|layer| layer_has_states(layer.as_ref()))
}

fn layer_has_states(layer: &dyn LayerCache) -> bool {
    let any: &dyn Any = layer;
    if let Some(list) = any.downcast_ref::<CacheList>() {
        return has_states(list.parts());
    }
    any.downcast_ref::<StateCache>()
        .is_some_and(|states| states.slots() > 0)
}

/// Bytes that a cache holds, slack included.
#[must_use]
pub fn nbytes(cache: &[Box<dyn LayerCache>]) -> usize {
    cache.iter().map(|layer| layer.nbytes()).sum()
}

pub(super) fn length_of<T>(items: &[T]) -> i32 {
    i32::try_from(items.len()).unwrap_or(i32::MAX)
}

/// A number for each sequence, `[B, 1, 1, 1]`.
pub(super) fn column(numbers: &[i32]) -> Result<Array> {
    Ok(Array::from_slice::<i32>(
        numbers,
        &[length_of(numbers), 1, 1, 1],
    )?)
}

pub(super) fn check_rows(found: i32, expected: usize) -> Result<()> {
    if usize::try_from(found) == Ok(expected) {
        Ok(())
    } else {
        Err(foreign(&format!("{expected} sequences"), found))
    }
}
