//! A growing cache for sequences of different lengths.

use std::any::Any;

use mlx_core::ops::arithmetic::{floor_divide, subtract};
use mlx_core::ops::comparison::{equal, greater_equal, less_equal};
use mlx_core::ops::logical::{logical_and, logical_or};
use mlx_core::{Array, Dtype};
use mlx_nn::{Mask, Offset};

use super::chunked::ChunkedKvCache;
use super::kv::{KvCache, format_at, rounded};
use super::parts::{KvQuantization, Parts};
use super::rows::{check_rows, column, length_of};
use super::{Attend, LayerCache, foreign};
use crate::Result;

/// Keys and values of several sequences, each at a position of its own.
///
/// Row `b` holds its tokens in the columns from its start to its end; new ones
/// are written behind that end, so that rows join, leave and are trimmed
/// without the others moving.
#[derive(Debug, Clone)]
pub struct BatchKvCache {
    buffers: Option<Parts>,
    rows: Vec<Row>,
    positions: Array,
    quantization: Option<KvQuantization>,
    /// Tokens see those of their own chunk only.
    chunk_size: Option<i32>,
}

/// Where a sequence stands in the buffer.
#[derive(Debug, Clone, Copy)]
struct Row {
    start: i32,
    end: i32,
    /// The position of the token at `start`.
    base: i32,
}

impl Row {
    fn position(self) -> i32 {
        self.base + self.end - self.start
    }
}

fn positions(rows: &[Row]) -> Result<Array> {
    let positions: Vec<i32> = rows.iter().map(|row| row.position()).collect();
    Ok(Array::from_slice::<i32>(&positions, &[length_of(rows)])?)
}

impl BatchKvCache {
    fn new(
        buffers: Option<Parts>,
        rows: Vec<Row>,
        quantization: Option<KvQuantization>,
        chunk_size: Option<i32>,
    ) -> Result<Self> {
        Ok(Self {
            positions: positions(&rows)?,
            buffers,
            rows,
            quantization,
            chunk_size,
        })
    }

    /// An empty cache for rows that begin with that many positions of padding.
    pub(super) fn left_padding(
        padding: &[i32],
        quantization: Option<KvQuantization>,
        chunk_size: Option<i32>,
    ) -> Result<Self> {
        let rows = padding.iter().map(|&start| Row {
            start,
            end: 0,
            base: 0,
        });
        Self::new(None, rows.collect(), quantization, chunk_size)
    }

    /// The rows of a cache whose sequences are all of one length.
    pub(super) fn of_single(cache: &KvCache) -> Result<Self> {
        let row = Row {
            start: 0,
            end: cache.offset,
            base: 0,
        };
        let buffers = match cache.offset {
            0 => None,
            _ => cache.buffers.clone(),
        };
        Self::new(buffers, vec![row; cache.rows()], cache.quantization, None)
    }

    pub(super) fn of_chunked(cache: &ChunkedKvCache) -> Result<Self> {
        let mut batch = Self::of_single(&cache.kept)?;
        for row in &mut batch.rows {
            row.base = cache.start;
        }
        batch.chunk_size = Some(cache.chunk_size());
        batch.positions = positions(&batch.rows)?;
        Ok(batch)
    }

    fn of(cache: &dyn LayerCache) -> Result<Self> {
        let any: &dyn Any = cache;
        if let Some(batch) = any.downcast_ref::<Self>() {
            return Ok(batch.clone());
        }
        if let Some(single) = any.downcast_ref::<KvCache>() {
            return Self::of_single(single);
        }
        match any.downcast_ref::<ChunkedKvCache>() {
            Some(chunked) => Self::of_chunked(chunked),
            None => Err(foreign("growing caches", "another kind")),
        }
    }

    fn longest(&self) -> i32 {
        self.rows.iter().map(|row| row.end).max().unwrap_or(0)
    }

    /// Whether all rows stand at the same column and see all before it.
    fn is_even(&self) -> bool {
        let end = self.longest();
        self.chunk_size.is_none() && self.rows.iter().all(|row| row.start <= 0 && row.end == end)
    }

    /// What `f` says of each row, `[B, 1, 1, 1]`.
    fn each(&self, f: impl Fn(&Row) -> i32) -> Result<Array> {
        column(&self.rows.iter().map(f).collect::<Vec<_>>())
    }

    fn kept(&self) -> Result<Parts> {
        match &self.buffers {
            Some(buffers) => buffers.head(self.longest()),
            None => Err(foreign("keys and values", "none")),
        }
    }

    fn append(&mut self, keys: &Array, values: &Array) -> Result<()> {
        check_rows(keys.dim(0)?, self.rows.len())?;
        let length = keys.dim(2)?;
        let end = self.longest() + length;
        let format = format_at(self.quantization, end);
        let update = Parts::encode(keys, values, format)?;
        let buffers = match &self.buffers {
            Some(buffers) if buffers.quantized == format && end <= buffers.len()? => {
                buffers.clone()
            }
            Some(buffers) => {
                let used = buffers.head(self.longest().min(buffers.len()?))?;
                used.converted(format)?.padded(rounded(end))?
            }
            None => update.blank(update.rows()?, rounded(end))?,
        };
        let written = if self.rows.iter().all(|row| row.end + length == end) {
            buffers.write(&update, end - length)?
        } else {
            let steps = Array::arange_dtype(0.0, f64::from(length), 1.0, Dtype::Int32)?;
            let columns = (self.each(|row| row.end)? + steps.reshape(&[1, 1, length, 1])?)?;
            buffers.scatter(&update, &columns)?
        };
        self.buffers = Some(written);
        for row in &mut self.rows {
            row.end += length;
        }
        self.positions = positions(&self.rows)?;
        Ok(())
    }

    /// The rows at these indices, without columns that none of them uses.
    fn selected(&self, indices: &[i32]) -> Result<Self> {
        let mut rows = Vec::with_capacity(indices.len());
        for &index in indices {
            let row = usize::try_from(index)
                .ok()
                .and_then(|index| self.rows.get(index));
            rows.push(*row.ok_or_else(|| foreign(&format!("row {index}"), self.rows.len()))?);
        }
        let end = rows.iter().map(|row| row.end).max().unwrap_or(0);
        let buffers = match &self.buffers {
            Some(buffers) if end > 0 => Some(
                buffers
                    .head(rounded(end).min(buffers.len()?))?
                    .take_rows(indices)?,
            ),
            _ => None,
        };
        Self::new(buffers, rows, self.quantization, self.chunk_size)
    }
}

impl LayerCache for BatchKvCache {
    fn offset(&self) -> i32 {
        self.rows
            .iter()
            .map(|row| row.position())
            .max()
            .unwrap_or(0)
    }

    fn positions(&self) -> Offset<'_> {
        Offset::Each(&self.positions)
    }

    fn mask(&self, length: i32) -> Result<Mask> {
        let longest = self.longest();
        if self.is_even() {
            return Ok(Mask::causal(length, longest, None)?);
        }
        let span = |stop: i32, shape: [i32; 4]| -> Result<Array> {
            let range = Array::arange_dtype(0.0, f64::from(stop), 1.0, Dtype::Int32)?;
            Ok(range.reshape(&shape)?)
        };
        let total = longest + length;
        let keys = span(total, [1, 1, 1, total])?;
        let queries = (self.each(|row| row.end)? + span(length, [1, 1, length, 1])?)?; // [B, 1, L, 1]
        let mut mask = less_equal(&keys, &queries)?;
        if self.rows.iter().any(|row| row.start > 0) {
            // Padding sees itself, because a softmax over nothing is no number.
            let starts = self.each(|row| row.start)?;
            let visible = logical_or(&greater_equal(&keys, &starts)?, &equal(&keys, &queries)?)?;
            mask = logical_and(&mask, &visible)?;
        }
        if let Some(size) = self.chunk_size {
            let size = Array::scalar(size)?;
            let shift = self.each(|row| row.start - row.base)?;
            let chunk = |columns: &Array| floor_divide(&subtract(columns, &shift)?, &size);
            mask = logical_and(&mask, &equal(&chunk(&keys)?, &chunk(&queries)?)?)?;
        }
        Ok(Mask::Array(mask))
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
        let least = self.rows.iter().map(|row| row.end - row.start).min();
        let count = count.clamp(0, least.unwrap_or(0).max(0));
        let counts = vec![count; self.rows.len()];
        if self.trim_rows(&counts).is_ok() {
            count
        } else {
            0
        }
    }

    fn is_trimmable(&self) -> bool {
        true
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn merge(&self, others: &[&dyn LayerCache]) -> Result<Box<dyn LayerCache>> {
        let mut members = vec![self.clone()];
        for other in others {
            members.push(Self::of(*other)?);
        }
        let end = members.iter().map(Self::longest).max().unwrap_or(0);
        let rows = members
            .iter()
            .flat_map(|member| member.rows.clone())
            .collect();
        let format = format_at(self.quantization, end);
        let mut blank = None;
        for member in &members {
            if let (None, Some(buffers)) = (&blank, &member.buffers) {
                blank = Some(buffers.head(0)?.converted(format)?);
            }
        }
        let buffers = match blank {
            None => None,
            Some(blank) => {
                let mut pieces = Vec::new();
                for member in &members {
                    pieces.push(match &member.buffers {
                        Some(buffers) => {
                            let used = buffers.head(member.longest().min(buffers.len()?))?;
                            used.converted(format)?.padded(rounded(end))?
                        }
                        None => blank.blank(length_of(&member.rows), rounded(end))?,
                    });
                }
                Some(Parts::concat(&pieces.iter().collect::<Vec<_>>(), 0)?)
            }
        };
        Ok(Box::new(Self::new(
            buffers,
            rows,
            self.quantization,
            self.chunk_size,
        )?))
    }

    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        Ok(Box::new(self.selected(rows)?))
    }

    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        let only = self.selected(&[row])?;
        let mut kept = KvCache {
            quantization: self.quantization,
            ..KvCache::default()
        };
        let mut base = 0;
        if let (Some(buffers), [row]) = (&only.buffers, only.rows.as_slice()) {
            kept.buffers = Some(buffers.span(row.start, row.end)?);
            kept.offset = row.end - row.start;
            base = row.base;
        }
        Ok(match self.chunk_size {
            Some(size) => Box::new(ChunkedKvCache::resumed(kept, base, size)),
            None => Box::new(kept),
        })
    }

    fn trim_rows(&mut self, counts: &[i32]) -> Result<()> {
        check_rows(length_of(counts), self.rows.len())?;
        for (row, &count) in self.rows.iter_mut().zip(counts) {
            row.end -= count.clamp(0, (row.end - row.start).max(0));
        }
        self.positions = positions(&self.rows)?;
        Ok(())
    }

    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        Ok(Box::new(Self::left_padding(
            padding,
            self.quantization,
            self.chunk_size,
        )?))
    }
}
