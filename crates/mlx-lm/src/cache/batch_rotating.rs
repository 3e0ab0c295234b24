//! A bounded cache for sequences of different lengths.

use std::any::Any;

use mlx_core::ops::comparison::{equal, greater, greater_equal, less, less_equal};
use mlx_core::ops::logical::{logical_and, logical_or};
use mlx_core::{Array, Dtype};
use mlx_nn::{Mask, Offset};

use super::kv::{format_at, rounded};
use super::parts::{KvQuantization, Parts};
use super::rotating::RotatingCache;
use super::rows::{check_rows, column, length_of};
use super::{Attend, LayerCache, foreign};
use crate::Result;

/// The newest tokens of several sequences, each at a position of its own.
///
/// A token's place in the ring follows from its position alone, so that rows
/// join and leave without being moved. What several tokens at once overwrite is
/// kept until the next ones come, so that they can be trimmed again.
#[derive(Debug, Clone)]
pub struct BatchRotatingCache {
    ring: Option<Parts>,
    rows: Vec<Row>,
    positions: Array,
    window: Window,
    quantization: Option<KvQuantization>,
    undo: Option<Undo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    /// Tokens seen.
    seen: i32,
    /// Positions of padding that are still to come.
    skip: i32,
}

impl Row {
    fn after(self, length: i32) -> Self {
        let skipped = self.skip.min(length);
        Self {
            seen: self.seen + length - skipped,
            skip: self.skip - skipped,
        }
    }
}

/// The state before the last tokens: old ring and new tokens side by side.
#[derive(Debug, Clone)]
struct Undo {
    view: Parts,
    width: i32,
    rows: Vec<Row>,
    length: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    max_size: i32,
    keep: i32,
}

impl Window {
    /// The position of the token in a column of the ring, after `seen` tokens.
    fn token_at(self, column: i32, seen: i32) -> Option<i32> {
        if seen <= self.max_size || column < self.keep {
            return (column < seen.min(self.max_size)).then_some(column);
        }
        let turn = self.max_size - self.keep;
        let turns = (seen - 1 - column) / turn;
        Some(column + turns * turn)
    }

    /// The column of the ring that a token goes to.
    fn column_of(self, token: i32) -> i32 {
        if token < self.max_size {
            token
        } else {
            self.keep + (token - self.keep) % (self.max_size - self.keep)
        }
    }

    /// Columns that a ring needs for so many tokens.
    fn width(self, seen: i32) -> i32 {
        rounded(seen).min(self.max_size)
    }
}

fn positions(rows: &[Row]) -> Result<Array> {
    let positions: Vec<i32> = rows.iter().map(|row| row.seen - row.skip).collect();
    Ok(Array::from_slice::<i32>(&positions, &[length_of(rows)])?)
}

impl BatchRotatingCache {
    fn new(
        ring: Option<Parts>,
        rows: Vec<Row>,
        window: Window,
        quantization: Option<KvQuantization>,
    ) -> Result<Self> {
        Ok(Self {
            positions: positions(&rows)?,
            ring,
            rows,
            window,
            quantization,
            undo: None,
        })
    }

    pub(super) fn left_padding(padding: &[i32], like: &RotatingCache) -> Result<Self> {
        let rows = padding.iter().map(|&skip| Row { seen: 0, skip });
        Self::new(None, rows.collect(), window_of(like), like.quantization)
    }

    pub(super) fn of_single(cache: &RotatingCache) -> Result<Self> {
        let window = window_of(cache);
        let seen = cache.offset;
        let rows = vec![Row { seen, skip: 0 }; cache.rows()];
        let ring = match cache.ordered()? {
            Some(ordered) if seen > 0 => {
                let length = ordered.len()?;
                let source = |column| {
                    let token = window.token_at(column, seen)?;
                    Some(if token < window.keep {
                        token
                    } else {
                        length - (seen - token)
                    })
                };
                let width = window.width(seen);
                let columns: Vec<i32> = (0..width).map(|c| source(c).unwrap_or(0)).collect();
                let columns = Array::from_slice::<i32>(&columns, &[1, 1, width, 1])?;
                Some(ordered.gather(&columns)?)
            }
            _ => None,
        };
        Self::new(ring, rows, window, cache.quantization)
    }

    fn of(cache: &dyn LayerCache) -> Result<Self> {
        let any: &dyn Any = cache;
        if let Some(batch) = any.downcast_ref::<Self>() {
            return Ok(batch.clone());
        }
        match any.downcast_ref::<RotatingCache>() {
            Some(single) => Self::of_single(single),
            None => Err(foreign("rotating caches", "another kind")),
        }
    }

    fn most_seen(&self) -> i32 {
        self.rows.iter().map(|row| row.seen).max().unwrap_or(0)
    }

    /// Columns of the ring that some row uses.
    fn used(&self) -> i32 {
        self.most_seen().min(self.window.max_size)
    }

    fn pads(&self) -> bool {
        self.rows.iter().any(|row| row.skip > 0)
    }

    fn append(&mut self, keys: &Array, values: &Array) -> Result<()> {
        check_rows(keys.dim(0)?, self.rows.len())?;
        let length = keys.dim(2)?;
        let format = format_at(self.quantization, self.most_seen() + length);
        let update = Parts::encode(keys, values, format)?;
        if length == 1 && !self.pads() {
            self.append_one(&update)?;
        } else {
            self.append_chunk(update, length)?;
        }
        self.positions = positions(&self.rows)?;
        Ok(())
    }

    fn append_one(&mut self, update: &Parts) -> Result<()> {
        let width = self.window.width(self.most_seen() + 1);
        let ring = match &self.ring {
            Some(ring) => ring.converted(update.quantized)?.padded(width)?,
            None => update.blank(update.rows()?, width)?,
        };
        let columns: Vec<i32> = self
            .rows
            .iter()
            .map(|row| self.window.column_of(row.seen))
            .collect();
        let first = columns.first().copied().unwrap_or(0);
        self.ring = Some(if columns.iter().all(|&column| column == first) {
            ring.write(update, first)?
        } else {
            ring.scatter(update, &column(&columns)?)?
        });
        for row in &mut self.rows {
            row.seen += 1;
        }
        self.undo = None;
        Ok(())
    }

    fn append_chunk(&mut self, update: Parts, length: i32) -> Result<()> {
        let width = self.used();
        let view = match &self.ring {
            Some(ring) if width > 0 => {
                let used = ring.head(width)?.converted(update.quantized)?;
                Parts::concat(&[&used, &update], 2)?
            }
            _ => update,
        };
        let undo = Undo {
            view,
            width,
            rows: self.rows.clone(),
            length,
        };
        let lengths = vec![length; self.rows.len()];
        self.take_from(&undo, &lengths)?;
        self.undo = Some(undo);
        Ok(())
    }

    /// Makes the ring that holds the first of the new tokens, as many for each
    /// row as `lengths` says.
    fn take_from(&mut self, undo: &Undo, lengths: &[i32]) -> Result<()> {
        let pairs = undo.rows.iter().zip(lengths);
        let after: Vec<Row> = pairs.map(|(row, &length)| row.after(length)).collect();
        let most = after.iter().map(|row| row.seen).max().unwrap_or(0);
        let width = self.window.width(most);
        let mut columns = Vec::new();
        for (before, after) in undo.rows.iter().zip(&after) {
            columns.extend((0..width).map(
                |column| match self.window.token_at(column, after.seen) {
                    Some(token) if token >= before.seen => {
                        undo.width + before.skip + token - before.seen
                    }
                    Some(_) => column,
                    None => 0,
                },
            ));
        }
        let columns = Array::from_slice::<i32>(&columns, &[length_of(&after), 1, width, 1])?;
        self.ring = Some(undo.view.gather(&columns)?);
        self.rows = after;
        Ok(())
    }

    fn kept(&self) -> Result<Parts> {
        match (&self.undo, &self.ring) {
            (Some(undo), _) => Ok(undo.view.clone()),
            (None, Some(ring)) => ring.head(self.used()),
            (None, None) => Err(foreign("keys and values", "none")),
        }
    }

    /// The mask over the old ring and `length` new tokens.
    fn chunk_mask(&self, length: i32) -> Result<Array> {
        let width = self.used();
        let total = width + length;
        let mut keys = Vec::new();
        let mut queries = Vec::new();
        for row in &self.rows {
            let new = (0..length).map(|step| (row.seen + step - row.skip).max(-1));
            let new: Vec<i32> = new
                .map(|token| if token < row.seen { -1 } else { token })
                .collect();
            let old = (0..width).map(|c| self.window.token_at(c, row.seen).unwrap_or(-1));
            keys.extend(old.chain(new.iter().copied()));
            queries.extend(new);
        }
        let rows = length_of(&self.rows);
        let keys = Array::from_slice::<i32>(&keys, &[rows, 1, 1, total])?;
        let queries = Array::from_slice::<i32>(&queries, &[rows, 1, length, 1])?;
        let turn = self.window.max_size - self.window.keep;
        let recent = greater(&keys, &(&queries - turn)?)?;
        let sinks = less(&keys, &Array::scalar(self.window.keep)?)?;
        let visible = logical_and(&logical_or(&recent, &sinks)?, &less_equal(&keys, &queries)?)?;
        let exists = greater_equal(&keys, &Array::scalar(0_i32)?)?;
        let visible = logical_and(&visible, &exists)?;
        if !self.pads() {
            return Ok(visible);
        }
        // Padding sees itself, because a softmax over nothing is no number.
        let range = |start: i32, stop: i32| {
            Array::arange_dtype(f64::from(start), f64::from(stop), 1.0, Dtype::Int32)
        };
        let own = equal(
            &range(0, total)?.reshape(&[1, 1, 1, total])?,
            &range(width, total)?.reshape(&[1, 1, length, 1])?,
        )?;
        Ok(logical_or(&visible, &own)?)
    }

    fn selected(&self, indices: &[i32]) -> Result<Self> {
        let mut rows = Vec::with_capacity(indices.len());
        for &index in indices {
            let row = usize::try_from(index)
                .ok()
                .and_then(|index| self.rows.get(index));
            rows.push(*row.ok_or_else(|| foreign(&format!("row {index}"), self.rows.len()))?);
        }
        let ring = match &self.ring {
            Some(ring) => Some(ring.take_rows(indices)?),
            None => None,
        };
        Self::new(ring, rows, self.window, self.quantization)
    }
}

fn window_of(cache: &RotatingCache) -> Window {
    Window {
        max_size: cache.max_size(),
        keep: cache.keep(),
    }
}

impl LayerCache for BatchRotatingCache {
    fn offset(&self) -> i32 {
        self.most_seen()
    }

    fn positions(&self) -> Offset<'_> {
        Offset::Each(&self.positions)
    }

    fn mask(&self, length: i32) -> Result<Mask> {
        if length > 1 || self.pads() {
            return Ok(Mask::Array(self.chunk_mask(length)?));
        }
        let total = (self.most_seen() + 1).min(self.window.max_size);
        if self.rows.iter().all(|row| row.seen + 1 >= total) {
            return Ok(Mask::None);
        }
        let columns = Array::arange_dtype(0.0, f64::from(total), 1.0, Dtype::Int32)?;
        let filled: Vec<i32> = self.rows.iter().map(|row| row.seen + 1).collect();
        let columns = columns.reshape(&[1, 1, 1, total])?;
        Ok(Mask::Array(less(&columns, &column(&filled)?)?))
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
        self.ring.iter().flat_map(|parts| &parts.arrays).collect()
    }

    fn trim(&mut self, count: i32) -> i32 {
        let counts = vec![count; self.rows.len()];
        if self.can_trim(count) && self.trim_rows(&counts).is_ok() {
            count
        } else {
            0
        }
    }

    fn is_trimmable(&self) -> bool {
        self.most_seen() <= self.window.max_size
    }

    fn can_trim(&self, count: i32) -> bool {
        let undone = self.undo.as_ref().is_some_and(|undo| count <= undo.length);
        let held = self.is_trimmable() && self.rows.iter().all(|row| row.seen >= count);
        undone || held || count <= 0
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
            let other = Self::of(*other)?;
            if other.window != self.window {
                return Err(foreign("windows of one size", "others"));
            }
            members.push(other);
        }
        let most = members.iter().map(Self::most_seen).max().unwrap_or(0);
        let rows: Vec<Row> = members
            .iter()
            .flat_map(|member| member.rows.clone())
            .collect();
        let format = format_at(self.quantization, most);
        let width = self.window.width(most);
        let filled = members.iter().find_map(|member| member.ring.as_ref());
        let ring = match filled {
            None => None,
            Some(filled) => {
                let blank = filled.head(0)?.converted(format)?;
                let mut pieces = Vec::new();
                for member in &members {
                    pieces.push(match &member.ring {
                        Some(ring) => {
                            let used = ring.head(member.used())?.converted(format)?;
                            used.padded(width)?
                        }
                        None => blank.blank(length_of(&member.rows), width)?,
                    });
                }
                Some(Parts::concat(&pieces.iter().collect::<Vec<_>>(), 0)?)
            }
        };
        Ok(Box::new(Self::new(
            ring,
            rows,
            self.window,
            self.quantization,
        )?))
    }

    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        Ok(Box::new(self.selected(rows)?))
    }

    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        let only = self.selected(&[row])?;
        let seen = only.most_seen();
        let kept = only.used();
        let buffers = match &only.ring {
            Some(ring) if seen > self.window.max_size => {
                let sinks = 0..self.window.keep;
                let newest = seen - (kept - self.window.keep)..seen;
                let tokens = sinks.chain(newest);
                let columns: Vec<i32> = tokens.map(|t| self.window.column_of(t)).collect();
                let columns = Array::from_slice::<i32>(&columns, &[1, 1, kept, 1])?;
                Some(ring.gather(&columns)?)
            }
            Some(ring) => Some(ring.head(kept)?),
            None => None,
        };
        let Window { max_size, keep } = self.window;
        let mut single = RotatingCache::new(max_size, keep);
        single.quantization = self.quantization;
        single.resume(buffers, seen, kept);
        Ok(Box::new(single))
    }

    fn trim_rows(&mut self, counts: &[i32]) -> Result<()> {
        check_rows(length_of(counts), self.rows.len())?;
        if counts.iter().all(|&count| count <= 0) {
            return Ok(());
        }
        match self.undo.take() {
            Some(undo) if counts.iter().all(|&count| count <= undo.length) => {
                let lengths: Vec<i32> = counts.iter().map(|&c| undo.length - c.max(0)).collect();
                self.take_from(&undo, &lengths)?;
            }
            _ if self.is_trimmable() => {
                for (row, &count) in self.rows.iter_mut().zip(counts) {
                    row.seen -= count.clamp(0, row.seen);
                }
            }
            _ => {
                return Err(foreign(
                    "a cache that can be trimmed",
                    "one that has wrapped",
                ));
            }
        }
        self.positions = positions(&self.rows)?;
        Ok(())
    }

    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        let rows = padding.iter().map(|&skip| Row { seen: 0, skip });
        let fresh = Self::new(None, rows.collect(), self.window, self.quantization)?;
        Ok(Box::new(fresh))
    }
}
