//! A cache that keeps every position.

use mlx_core::Array;
use mlx_core::ops::indexing::{slice, slice_update};
use mlx_core::ops::shape::concatenate;
use mlx_nn::Mask;

use super::{Attend, LayerCache, STEP, foreign};
use crate::Result;

/// Keys and values of every token seen, in buffers that grow by 256 positions.
///
/// Writing goes into the slack of the buffer, so that a decode step moves one
/// position and not the whole history.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    buffers: Option<(Array, Array)>,
    offset: i32,
}

impl KvCache {
    /// An empty cache; shapes and dtype come with the first update.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All keys and values kept.
    pub(super) fn kept(&self) -> Result<(Array, Array)> {
        match &self.buffers {
            Some((keys, values)) => Ok((head(keys, self.offset)?, head(values, self.offset)?)),
            None => Err(foreign("keys and values", "none")),
        }
    }

    /// Forgets the oldest `count` positions.
    pub(super) fn drop_front(&mut self, count: i32) -> Result<()> {
        let count = count.clamp(0, self.offset);
        if let Some((keys, values)) = &self.buffers {
            self.buffers = if count == self.offset {
                None
            } else {
                Some((
                    span(keys, count, self.offset)?,
                    span(values, count, self.offset)?,
                ))
            };
        }
        self.offset -= count;
        Ok(())
    }

    /// Adds keys and values at the end.
    pub(super) fn append(&mut self, keys: &Array, values: &Array) -> Result<()> {
        let end = self.offset + keys.dim(2)?;
        let (key_buffer, value_buffer) = match &self.buffers {
            Some((key_buffer, value_buffer)) if end <= key_buffer.dim(2)? => {
                (key_buffer.clone(), value_buffer.clone())
            }
            Some((key_buffer, value_buffer)) => (
                self.grown(keys, Some(key_buffer))?,
                self.grown(values, Some(value_buffer))?,
            ),
            None => (self.grown(keys, None)?, self.grown(values, None)?),
        };
        let key_buffer = write(&key_buffer, keys, self.offset)?;
        let value_buffer = write(&value_buffer, values, self.offset)?;
        self.buffers = Some((key_buffer, value_buffer));
        self.offset = end;
        Ok(())
    }

    fn grown(&self, like: &Array, buffer: Option<&Array>) -> Result<Array> {
        let length = like.dim(2)?;
        let shape = [
            like.dim(0)?,
            like.dim(1)?,
            length.saturating_add(STEP - 1) / STEP * STEP,
            like.dim(3)?,
        ];
        let fresh = Array::zeros_dtype(&shape, like.dtype())?;
        Ok(match buffer {
            None => fresh,
            Some(buffer) => {
                let used = head(buffer, self.offset)?;
                concatenate(&[&used, &fresh], 2)?
            }
        })
    }
}

impl LayerCache for KvCache {
    fn offset(&self) -> i32 {
        self.offset
    }

    fn mask(&self, length: i32) -> Result<Mask> {
        Ok(Mask::causal(length, self.offset, None)?)
    }

    fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        self.append(keys, values)?;
        self.kept()
    }

    fn attend_kept(&self, queries: &Array, attend: Attend<'_>) -> Result<Array> {
        let (keys, values) = self.kept()?;
        attend.compute(queries, &keys, &values)
    }

    fn state(&self) -> Vec<&Array> {
        self.buffers
            .iter()
            .flat_map(|(keys, values)| [keys, values])
            .collect()
    }

    fn trim(&mut self, count: i32) -> i32 {
        let count = count.clamp(0, self.offset);
        self.offset -= count;
        count
    }

    fn is_trimmable(&self) -> bool {
        true
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }
}

/// The first `length` positions of a `[B, H, L, D]` buffer.
pub(super) fn head(buffer: &Array, length: i32) -> Result<Array> {
    span(buffer, 0, length)
}

/// Positions `start..stop` of a `[B, H, L, D]` buffer.
pub(super) fn span(buffer: &Array, start: i32, stop: i32) -> Result<Array> {
    let (batch, heads, dims) = (buffer.dim(0)?, buffer.dim(1)?, buffer.dim(3)?);
    if start == 0 && stop == buffer.dim(2)? {
        return Ok(buffer.clone());
    }
    Ok(slice(
        buffer,
        &[0, 0, start, 0],
        &[batch, heads, stop, dims],
    )?)
}

/// The buffer with `update` written at position `start`.
pub(super) fn write(buffer: &Array, update: &Array, start: i32) -> Result<Array> {
    let stops = [
        buffer.dim(0)?,
        buffer.dim(1)?,
        start + update.dim(2)?,
        buffer.dim(3)?,
    ];
    Ok(slice_update(buffer, update, &[0, 0, start, 0], &stops)?)
}
