//! A cache for attention within chunks of the text.

use mlx_core::ops::arithmetic::floor_divide;
use mlx_core::ops::comparison::equal;
use mlx_core::ops::logical::logical_and;
use mlx_core::ops::shape::expand_dims;
use mlx_core::{Array, Dtype};
use mlx_nn::{Mask, create_causal_mask};

use super::batch_kv::BatchKvCache;
use super::{Attend, KvCache, KvQuantization, LayerCache};
use crate::Result;

/// Keys and values of the present chunk: the text is cut every `chunk_size`
/// positions, and a token sees those of its own chunk only, as in Llama 4.
#[derive(Debug, Clone)]
pub struct ChunkedKvCache {
    pub(super) kept: KvCache,
    /// The position of the first kept token.
    pub(super) start: i32,
    chunk_size: i32,
}

impl ChunkedKvCache {
    /// An empty cache with chunks of `chunk_size` positions, at least one.
    #[must_use]
    pub fn new(chunk_size: i32) -> Self {
        Self {
            kept: KvCache::new(),
            start: 0,
            chunk_size: chunk_size.max(1),
        }
    }

    /// The same with its keys and values packed.
    #[must_use]
    pub fn quantized(mut self, quantization: Option<KvQuantization>) -> Self {
        self.kept.quantization = quantization;
        self
    }

    pub(super) fn resumed(kept: KvCache, start: i32, chunk_size: i32) -> Self {
        Self {
            kept,
            start,
            chunk_size: chunk_size.max(1),
        }
    }

    /// Positions per chunk.
    #[must_use]
    pub fn chunk_size(&self) -> i32 {
        self.chunk_size
    }

    /// Where the chunk of the next token begins.
    fn chunk_start(&self) -> i32 {
        self.offset() / self.chunk_size * self.chunk_size
    }

    fn append(&mut self, keys: &Array, values: &Array) -> Result<()> {
        let start = self.chunk_start();
        if start > self.start {
            self.kept.drop_front(start - self.start)?;
            self.start = start;
        }
        self.kept.append(keys, values)
    }
}

impl LayerCache for ChunkedKvCache {
    fn offset(&self) -> i32 {
        self.start + self.kept.offset()
    }

    fn mask(&self, length: i32) -> Result<Mask> {
        let start = self.chunk_start();
        let history = self.offset() - start;
        if history + length <= self.chunk_size {
            return Ok(Mask::causal(length, history, None)?);
        }
        let total = f64::from(history + length);
        let columns = Array::arange_dtype(0.0, total, 1.0, Dtype::Int32)?;
        let rows = Array::arange_dtype(f64::from(history), total, 1.0, Dtype::Int32)?;
        let size = Array::scalar(self.chunk_size)?;
        let of = |positions: &Array| floor_divide(positions, &size);
        let together = equal(&expand_dims(&of(&rows)?, &[1])?, &of(&columns)?)?;
        let causal = create_causal_mask(length, history, None)?;
        Ok(Mask::Array(logical_and(&together, &causal)?))
    }

    fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        self.append(keys, values)?;
        self.kept.kept()?.decode()
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
        self.kept.attend_kept(queries, attend)
    }

    fn state(&self) -> Vec<&Array> {
        self.kept.state()
    }

    fn trim(&mut self, count: i32) -> i32 {
        self.kept.trim(count)
    }

    /// Within the present chunk only: what came before is gone.
    fn is_trimmable(&self) -> bool {
        self.start == 0
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }

    fn can_trim(&self, count: i32) -> bool {
        count <= self.kept.offset()
    }

    fn rows(&self) -> usize {
        self.kept.rows()
    }

    fn merge(&self, others: &[&dyn LayerCache]) -> Result<Box<dyn LayerCache>> {
        BatchKvCache::of_chunked(self)?.merge(others)
    }

    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        BatchKvCache::of_chunked(self)?.select(rows)
    }

    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        BatchKvCache::of_chunked(self)?.row(row)
    }

    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        Ok(Box::new(BatchKvCache::left_padding(
            padding,
            self.kept.quantization,
            Some(self.chunk_size),
        )?))
    }
}
