//! A cache of bounded size.

use mlx_core::Array;
use mlx_core::ops::comparison::less;
use mlx_core::ops::logical::{logical_and, logical_or};
use mlx_core::ops::shape::concatenate;
use mlx_nn::{Mask, create_causal_mask};

use super::kv::{head, span, write};
use super::{Attend, LayerCache, STEP, foreign};
use crate::Result;

/// Keys and values of the newest `max_size` tokens and of the first `keep` ones.
///
/// Single tokens overwrite the oldest position in place. A chunk of several
/// tokens is appended to the newest `max_size - 1`, so that its first token
/// still sees a full window; the surplus goes at the next single token.
#[derive(Debug, Clone)]
pub struct RotatingCache {
    buffers: Option<(Array, Array)>,
    offset: i32,
    /// Where the next single token goes.
    next: i32,
    max_size: i32,
    keep: i32,
}

impl RotatingCache {
    /// An empty cache of `max_size` positions (at least one), the first `keep`
    /// of which are never dropped.
    #[must_use]
    pub fn new(max_size: i32, keep: i32) -> Self {
        let max_size = max_size.max(1);
        Self {
            buffers: None,
            offset: 0,
            next: 0,
            max_size,
            keep: keep.clamp(0, max_size - 1),
        }
    }

    /// The largest number of positions kept between passes.
    #[must_use]
    pub fn max_size(&self) -> i32 {
        self.max_size
    }

    /// Positions kept right now.
    fn len(&self) -> Result<i32> {
        Ok(match &self.buffers {
            None => 0,
            Some((keys, _)) if self.offset > self.next => keys.dim(2)?,
            Some(_) => self.next,
        })
    }

    /// The kept positions of one buffer, oldest first.
    fn in_order(&self, buffer: &Array) -> Result<Array> {
        let length = buffer.dim(2)?;
        if self.next == length {
            Ok(buffer.clone())
        } else if self.next < self.offset {
            let sinks = head(buffer, self.keep)?;
            let older = span(buffer, self.next, length)?;
            let newer = span(buffer, self.keep, self.next)?;
            Ok(concatenate(&[&sinks, &older, &newer], 2)?)
        } else {
            head(buffer, self.next)
        }
    }

    /// Drops the oldest positions after the sinks until `limit` are left.
    fn shortened(&self, buffer: &Array, limit: i32) -> Result<Array> {
        let length = buffer.dim(2)?;
        let surplus = length - limit.max(self.keep);
        if surplus <= 0 {
            return Ok(buffer.clone());
        }
        let sinks = head(buffer, self.keep)?;
        let newest = span(buffer, surplus + self.keep, length)?;
        Ok(concatenate(&[&sinks, &newest], 2)?)
    }

    fn append_chunk(&self, buffer: Option<&Array>, chunk: &Array) -> Result<Array> {
        let Some(buffer) = buffer else {
            return Ok(chunk.clone());
        };
        let history = self.shortened(&self.in_order(buffer)?, self.max_size - 1)?;
        Ok(concatenate(&[&history, chunk], 2)?)
    }

    /// A buffer with room at `self.next`, as far as `max_size` allows.
    fn roomy(&self, buffer: Option<&Array>, token: &Array) -> Result<Array> {
        let length = buffer.map_or(Ok(0), |buffer| buffer.dim(2))?;
        if length > self.max_size {
            return self.shortened(buffer.unwrap_or(token), self.max_size);
        }
        if self.next < length || length == self.max_size {
            return Ok(buffer.unwrap_or(token).clone());
        }
        let slack = STEP.min(self.max_size - length);
        let shape = [token.dim(0)?, token.dim(1)?, slack, token.dim(3)?];
        let fresh = Array::zeros_dtype(&shape, token.dtype())?;
        match buffer {
            None => Ok(fresh),
            Some(buffer) => Ok(concatenate(&[buffer, &fresh], 2)?),
        }
    }
}

impl LayerCache for RotatingCache {
    fn offset(&self) -> i32 {
        self.offset
    }

    fn mask(&self, length: i32) -> Result<Mask> {
        if length == 1 {
            return Ok(Mask::None);
        }
        let history = self.len()?.min(self.max_size - 1);
        if history + length <= self.max_size {
            return Ok(Mask::Causal);
        }
        let windowed = create_causal_mask(length, history, Some(self.max_size))?;
        if self.keep == 0 {
            return Ok(Mask::Array(windowed));
        }
        // The sinks stay visible to every later position, however far behind.
        let columns = Array::arange::<i32>(0.0, f64::from(history + length), 1.0)?;
        let sinks = less(&columns, &Array::scalar(self.keep)?)?;
        let causal = create_causal_mask(length, history, None)?;
        Ok(Mask::Array(logical_or(
            &windowed,
            &logical_and(&causal, &sinks)?,
        )?))
    }

    fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let length = keys.dim(2)?;
        let (old_keys, old_values) = match &self.buffers {
            Some((old_keys, old_values)) => (Some(old_keys), Some(old_values)),
            None => (None, None),
        };
        if length > 1 {
            let keys = self.append_chunk(old_keys, keys)?;
            let values = self.append_chunk(old_values, values)?;
            self.offset += length;
            self.next = keys.dim(2)?;
            self.buffers = Some((keys.clone(), values.clone()));
            return Ok((keys, values));
        }
        let key_buffer = self.roomy(old_keys, keys)?;
        let value_buffer = self.roomy(old_values, values)?;
        let position = if self.next >= self.max_size {
            self.keep
        } else {
            self.next
        };
        let key_buffer = write(&key_buffer, keys, position)?;
        let value_buffer = write(&value_buffer, values, position)?;
        self.offset += 1;
        self.next = position + 1;
        self.buffers = Some((key_buffer.clone(), value_buffer.clone()));
        let kept = self.len()?;
        Ok((head(&key_buffer, kept)?, head(&value_buffer, kept)?))
    }

    fn attend_kept(&self, queries: &Array, attend: Attend<'_>) -> Result<Array> {
        let Some((keys, values)) = &self.buffers else {
            return Err(foreign("keys and values", "none"));
        };
        let kept = self.len()?;
        attend.compute(queries, &head(keys, kept)?, &head(values, kept)?)
    }

    fn state(&self) -> Vec<&Array> {
        self.buffers
            .iter()
            .flat_map(|(keys, values)| [keys, values])
            .collect()
    }

    fn trim(&mut self, count: i32) -> i32 {
        if !self.is_trimmable() {
            return 0;
        }
        let count = count.clamp(0, self.offset);
        self.offset -= count;
        self.next -= count;
        count
    }

    fn is_trimmable(&self) -> bool {
        self.offset < self.max_size
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }
}
