//! A cache that keeps every position.

use mlx_core::Array;
use mlx_nn::Mask;

use super::batch_kv::BatchKvCache;
use super::parts::{KvQuantization, Parts};
use super::{Attend, LayerCache, STEP, foreign};
use crate::Result;

/// Keys and values of every token seen, in buffers that grow by 256 positions.
///
/// Writing goes into the slack of the buffer, so that a decode step moves one
/// position and not the whole history.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    pub(super) buffers: Option<Parts>,
    pub(super) offset: i32,
    pub(super) quantization: Option<KvQuantization>,
}

impl KvCache {
    /// An empty cache; shapes and dtype come with the first update.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty cache that packs its keys and values.
    #[must_use]
    pub fn quantized(quantization: KvQuantization) -> Self {
        Self {
            quantization: Some(quantization),
            ..Self::default()
        }
    }

    /// All keys and values kept.
    pub(super) fn kept(&self) -> Result<Parts> {
        match &self.buffers {
            Some(buffers) => buffers.head(self.offset),
            None => Err(foreign("keys and values", "none")),
        }
    }

    /// Forgets the oldest `count` positions.
    pub(super) fn drop_front(&mut self, count: i32) -> Result<()> {
        let count = count.clamp(0, self.offset);
        self.buffers = match self.buffers.take() {
            Some(buffers) if count < self.offset => Some(buffers.span(count, self.offset)?),
            _ => None,
        };
        self.offset -= count;
        Ok(())
    }

    /// Adds keys and values at the end.
    pub(super) fn append(&mut self, keys: &Array, values: &Array) -> Result<()> {
        let end = self.offset + keys.dim(2)?;
        let format = format_at(self.quantization, end);
        let update = Parts::encode(keys, values, format)?;
        let buffers = match &self.buffers {
            Some(buffers) if buffers.quantized == format && end <= buffers.len()? => {
                buffers.clone()
            }
            Some(buffers) => {
                let used = buffers.head(self.offset)?.converted(format)?;
                used.padded(rounded(end))?
            }
            None => update.blank(update.rows()?, rounded(end))?,
        };
        self.buffers = Some(buffers.write(&update, self.offset)?);
        self.offset = end;
        Ok(())
    }
}

/// The storage of a cache that is about to hold `length` positions.
pub(super) fn format_at(
    quantization: Option<KvQuantization>,
    length: i32,
) -> Option<KvQuantization> {
    quantization.filter(|quantization| length > quantization.start)
}

/// Buffers have whole steps.
pub(super) fn rounded(length: i32) -> i32 {
    length.saturating_add(STEP - 1) / STEP * STEP
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
        self.offset -= count;
        count
    }

    fn is_trimmable(&self) -> bool {
        true
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
        BatchKvCache::of_single(self)?.merge(others)
    }

    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        BatchKvCache::of_single(self)?.select(rows)
    }

    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        BatchKvCache::of_single(self)?.row(row)
    }

    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        Ok(Box::new(BatchKvCache::left_padding(
            padding,
            self.quantization,
            None,
        )?))
    }
}
