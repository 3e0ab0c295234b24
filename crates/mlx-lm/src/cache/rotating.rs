//! A cache of bounded size.

use mlx_core::Array;
use mlx_core::ops::comparison::less;
use mlx_core::ops::logical::{logical_and, logical_or};
use mlx_nn::{Mask, create_causal_mask};

use super::batch_rotating::BatchRotatingCache;
use super::kv::format_at;
use super::parts::{KvQuantization, Parts};
use super::{Attend, LayerCache, STEP, foreign};
use crate::Result;

/// Keys and values of the newest `max_size` tokens and of the first `keep` ones.
///
/// Single tokens overwrite the oldest position in place. A chunk of several
/// tokens is appended to the newest `max_size - 1`, so that its first token
/// still sees a full window; the surplus goes at the next single token, and
/// until then the chunk can be trimmed again.
#[derive(Debug, Clone)]
pub struct RotatingCache {
    pub(super) buffers: Option<Parts>,
    pub(super) offset: i32,
    /// Where the next single token goes.
    pub(super) next: i32,
    max_size: i32,
    keep: i32,
    pub(super) quantization: Option<KvQuantization>,
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
            quantization: None,
        }
    }

    /// An empty cache that packs its keys and values.
    #[must_use]
    pub fn quantized(mut self, quantization: Option<KvQuantization>) -> Self {
        self.quantization = quantization;
        self
    }

    /// The largest number of positions kept between passes.
    #[must_use]
    pub fn max_size(&self) -> i32 {
        self.max_size
    }

    /// Positions at the start that are never dropped.
    #[must_use]
    pub fn keep(&self) -> i32 {
        self.keep
    }

    pub(super) fn resume(&mut self, buffers: Option<Parts>, offset: i32, next: i32) {
        self.buffers = buffers;
        self.offset = offset;
        self.next = next;
    }

    /// Positions kept right now.
    fn len(&self) -> Result<i32> {
        Ok(match &self.buffers {
            None => 0,
            Some(buffers) if self.offset > self.next => buffers.len()?,
            Some(_) => self.next,
        })
    }

    /// What is kept, oldest first.
    pub(super) fn ordered(&self) -> Result<Option<Parts>> {
        match &self.buffers {
            Some(buffers) => Ok(Some(self.in_order(buffers)?)),
            None => Ok(None),
        }
    }

    fn in_order(&self, buffers: &Parts) -> Result<Parts> {
        let length = buffers.len()?;
        if self.next == length {
            Ok(buffers.clone())
        } else if self.next < self.offset {
            let sinks = buffers.head(self.keep)?;
            let older = buffers.span(self.next, length)?;
            let newer = buffers.span(self.keep, self.next)?;
            Parts::concat(&[&sinks, &older, &newer], 2)
        } else {
            buffers.head(self.next)
        }
    }

    /// Drops the oldest positions after the sinks until `limit` are left.
    fn shortened(&self, buffers: &Parts, limit: i32) -> Result<Parts> {
        let length = buffers.len()?;
        let surplus = length - limit.max(self.keep);
        if surplus <= 0 {
            return Ok(buffers.clone());
        }
        let sinks = buffers.head(self.keep)?;
        let newest = buffers.span(surplus + self.keep, length)?;
        Parts::concat(&[&sinks, &newest], 2)
    }

    fn append_chunk(&mut self, chunk: Parts, length: i32) -> Result<()> {
        let buffers = match &self.buffers {
            None => chunk,
            Some(buffers) => {
                let history = self.shortened(&self.in_order(buffers)?, self.max_size - 1)?;
                Parts::concat(&[&history.converted(chunk.quantized)?, &chunk], 2)?
            }
        };
        self.next = buffers.len()?;
        self.offset += length;
        self.buffers = Some(buffers);
        Ok(())
    }

    /// Buffers with room at `self.next`, as far as `max_size` allows.
    fn roomy(&self, token: &Parts) -> Result<Parts> {
        let Some(buffers) = &self.buffers else {
            return token.blank(token.rows()?, STEP.min(self.max_size));
        };
        let buffers = buffers.converted(token.quantized)?;
        let length = buffers.len()?;
        if length > self.max_size {
            self.shortened(&buffers, self.max_size)
        } else if self.next < length || length == self.max_size {
            Ok(buffers)
        } else {
            buffers.padded(length + STEP.min(self.max_size - length))
        }
    }

    fn append(&mut self, keys: &Array, values: &Array) -> Result<()> {
        let length = keys.dim(2)?;
        let format = format_at(self.quantization, self.offset + length);
        let update = Parts::encode(keys, values, format)?;
        if length > 1 {
            return self.append_chunk(update, length);
        }
        let buffers = self.roomy(&update)?;
        let position = if self.next >= self.max_size {
            self.keep
        } else {
            self.next
        };
        self.buffers = Some(buffers.write(&update, position)?);
        self.offset += 1;
        self.next = position + 1;
        Ok(())
    }

    fn kept(&self) -> Result<Parts> {
        match &self.buffers {
            Some(buffers) => buffers.head(self.len()?),
            None => Err(foreign("keys and values", "none")),
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
        // As many as single tokens see: the sinks take their places.
        let window = self.max_size - self.keep;
        let windowed = create_causal_mask(length, history, Some(window))?;
        if self.keep == 0 {
            return Ok(Mask::Array(windowed));
        }
        let columns = Array::arange::<i32>(0.0, f64::from(history + length), 1.0)?;
        let sinks = less(&columns, &Array::scalar(self.keep)?)?;
        let causal = create_causal_mask(length, history, None)?;
        Ok(Mask::Array(logical_or(
            &windowed,
            &logical_and(&causal, &sinks)?,
        )?))
    }

    fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        self.append(keys, values)?;
        self.kept()?.decode()
    }

    fn attend(
        &mut self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        attend: Attend<'_>,
    ) -> Result<Array> {
        self.append(keys, values)?;
        self.attend_kept(queries, attend)
    }

    fn attend_kept(&self, queries: &Array, attend: Attend<'_>) -> Result<Array> {
        self.kept()?.attend(queries, attend)
    }

    fn state(&self) -> Vec<&Array> {
        self.buffers
            .iter()
            .flat_map(|parts| &parts.arrays)
            .collect()
    }

    fn trim(&mut self, count: i32) -> i32 {
        let count = count.clamp(0, self.offset);
        if !self.can_trim(count) {
            return 0;
        }
        if self.offset >= self.max_size
            && let Some(buffers) = &self.buffers
        {
            let Ok(shorter) = buffers.head(self.next - count) else {
                return 0;
            };
            self.buffers = Some(shorter);
        }
        self.offset -= count;
        self.next -= count;
        count
    }

    fn is_trimmable(&self) -> bool {
        self.offset < self.max_size
    }

    /// Also of a full cache, as long as a whole window is left: the surplus of
    /// the last chunk.
    fn can_trim(&self, count: i32) -> bool {
        if self.is_trimmable() || count <= 0 {
            return count <= self.offset;
        }
        let length = match &self.buffers {
            Some(buffers) => buffers.len().unwrap_or(0),
            None => 0,
        };
        let left = self.offset - count;
        self.next == length && left >= 0 && length - count >= left.min(self.max_size - 1)
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }

    fn rows(&self) -> usize {
        let rows = self.buffers.as_ref().and_then(|parts| parts.rows().ok());
        rows.and_then(|rows| usize::try_from(rows).ok())
            .unwrap_or(1)
    }

    fn merge(&self, others: &[&dyn LayerCache]) -> Result<Box<dyn LayerCache>> {
        BatchRotatingCache::of_single(self)?.merge(others)
    }

    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        BatchRotatingCache::of_single(self)?.select(rows)
    }

    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        BatchRotatingCache::of_single(self)?.row(row)
    }

    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        Ok(Box::new(BatchRotatingCache::left_padding(padding, self)?))
    }
}
