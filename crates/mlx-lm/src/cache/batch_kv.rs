//! A growing cache for sequences of different lengths.

use std::any::Any;

use mlx_core::ops::arithmetic::{floor_divide, subtract};
use mlx_core::ops::comparison::{equal, greater_equal, less_equal};
use mlx_core::ops::indexing::take;
use mlx_core::ops::logical::{logical_and, logical_or};
use mlx_core::ops::shape::concatenate;
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
/// without the others moving. Each is packed when it would be alone, so that
/// there may be dense rows beside packed ones.
#[derive(Debug, Clone)]
pub struct BatchKvCache {
    halves: Halves,
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
    is_packed: bool,
}

/// The buffers of the dense rows and those of the packed ones, each in the order of the rows and
/// with the same columns.
#[derive(Debug, Clone, Default)]
struct Halves {
    dense: Option<Parts>,
    packed: Option<Parts>,
}

impl Halves {
    fn of(&self, is_packed: bool) -> Option<&Parts> {
        match is_packed {
            true => self.packed.as_ref(),
            false => self.dense.as_ref(),
        }
    }

    fn place(&mut self, is_packed: bool) -> &mut Option<Parts> {
        match is_packed {
            true => &mut self.packed,
            false => &mut self.dense,
        }
    }

    fn each(&self) -> impl Iterator<Item = &Parts> {
        self.dense.iter().chain(&self.packed)
    }
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
        halves: Halves,
        rows: Vec<Row>,
        quantization: Option<KvQuantization>,
        chunk_size: Option<i32>,
    ) -> Result<Self> {
        Ok(Self {
            positions: positions(&rows)?,
            halves,
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
            is_packed: false,
        });
        Self::new(Halves::default(), rows.collect(), quantization, chunk_size)
    }

    /// The rows of a cache whose sequences are all of one length.
    pub(super) fn of_single(cache: &KvCache) -> Result<Self> {
        let buffers = match cache.offset {
            0 => None,
            _ => cache.buffers.clone(),
        };
        let row = Row {
            start: 0,
            end: cache.offset,
            base: 0,
            is_packed: buffers
                .as_ref()
                .is_some_and(|parts| parts.quantized.is_some()),
        };
        let mut halves = Halves::default();
        *halves.place(row.is_packed) = buffers;
        Self::new(halves, vec![row; cache.rows()], cache.quantization, None)
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

    /// The rows that are packed, or those that are not.
    fn members(&self, is_packed: bool) -> Vec<i32> {
        let rows = (0..).zip(&self.rows);
        let members = rows.filter(|(_, row)| row.is_packed == is_packed);
        members.map(|(index, _)| index).collect()
    }

    /// Where each row stands in its half.
    fn places(&self) -> Vec<i32> {
        let (mut dense, mut packed) = (0, 0);
        let place = |row: &Row| {
            let next = if row.is_packed {
                &mut packed
            } else {
                &mut dense
            };
            *next += 1;
            *next - 1
        };
        self.rows.iter().map(place).collect()
    }

    fn kept(&self, is_packed: bool) -> Result<Parts> {
        match self.halves.of(is_packed) {
            Some(buffers) => buffers.head(self.longest()),
            None => Err(foreign("keys and values", "none")),
        }
    }

    /// What `f` makes of the halves that have rows, `[B, ..]`, in the order of the rows.
    fn of_halves(&self, mut f: impl FnMut(bool, &[i32]) -> Result<Array>) -> Result<Array> {
        let (dense, packed) = (self.members(false), self.members(true));
        if packed.is_empty() || dense.is_empty() {
            return f(dense.is_empty(), &self.members(dense.is_empty()));
        }
        let halves = [f(false, &dense)?, f(true, &packed)?];
        let count = length_of(&dense);
        let place = |(&place, row): (&i32, &Row)| match row.is_packed {
            true => count + place,
            false => place,
        };
        let order: Vec<i32> = self.places().iter().zip(&self.rows).map(place).collect();
        of_rows(&concatenate(&[&halves[0], &halves[1]], 0)?, &order)
    }

    /// Moves rows to the half that they will belong to with `length` more positions.
    fn regroup(&mut self, length: i32) -> Result<()> {
        let wants = |row: &Row| {
            let kept = row.end - row.start;
            // Alone, what came before the present chunk would be gone.
            let kept = self
                .chunk_size
                .map_or(kept, |size| kept.min(row.position() % size));
            format_at(self.quantization, kept + length).is_some()
        };
        let wanted: Vec<bool> = self.rows.iter().map(wants).collect();
        if self
            .rows
            .iter()
            .zip(&wanted)
            .all(|(row, &wanted)| row.is_packed == wanted)
        {
            return Ok(());
        }
        let places = self.places();
        let columns = self.longest();
        let mut halves = Halves::default();
        for is_packed in [false, true] {
            let format = self.quantization.filter(|_| is_packed);
            let (mut pieces, mut order) = (Vec::new(), Vec::new());
            for from in [false, true] {
                let rows = (0_i32..).zip(&self.rows).zip(&wanted).zip(&places);
                let moving = rows
                    .filter(|(((_, row), wanted), _)| {
                        row.is_packed == from && **wanted == is_packed
                    })
                    .map(|(((index, _), _), &place)| (index, place));
                let (indices, sources): (Vec<i32>, Vec<i32>) = moving.unzip();
                if let (Some(buffers), false) = (self.halves.of(from), indices.is_empty()) {
                    let used = buffers
                        .head(columns.min(buffers.len()?))?
                        .take_rows(&sources)?;
                    pieces.push(used.converted(format)?.padded(rounded(columns))?);
                    order.extend(indices);
                }
            }
            if !pieces.is_empty() {
                let joined = Parts::concat(&pieces.iter().collect::<Vec<_>>(), 0)?;
                // Back into the order of the rows.
                let mut sorted: Vec<(i32, i32)> = order.into_iter().zip(0..).collect();
                sorted.sort_unstable();
                let order: Vec<i32> = sorted.into_iter().map(|(_, at)| at).collect();
                *halves.place(is_packed) = Some(joined.take_rows(&order)?);
            }
        }
        self.halves = halves;
        for (row, wanted) in self.rows.iter_mut().zip(wanted) {
            row.is_packed = wanted;
        }
        Ok(())
    }

    fn append(&mut self, keys: &Array, values: &Array) -> Result<()> {
        check_rows(keys.dim(0)?, self.rows.len())?;
        let length = keys.dim(2)?;
        let end = self.longest() + length;
        self.regroup(length)?;
        for is_packed in [false, true] {
            let members = self.members(is_packed);
            if members.is_empty() {
                continue;
            }
            let format = self.quantization.filter(|_| is_packed);
            let update = match members.len() == self.rows.len() {
                true => Parts::encode(keys, values, format)?,
                false => {
                    let (keys, values) = (of_rows(keys, &members)?, of_rows(values, &members)?);
                    Parts::encode(&keys, &values, format)?
                }
            };
            let buffers = match self.halves.of(is_packed) {
                Some(buffers) if end <= buffers.len()? => buffers.clone(),
                Some(buffers) => {
                    let used = buffers.head(self.longest().min(buffers.len()?))?;
                    used.padded(rounded(end))?
                }
                None => update.blank(update.rows()?, rounded(end))?,
            };
            let ends: Vec<i32> = self
                .rows
                .iter()
                .filter(|row| row.is_packed == is_packed)
                .map(|row| row.end)
                .collect();
            let written = if ends.iter().all(|own| own + length == end) {
                buffers.write(&update, end - length)?
            } else {
                let steps = Array::arange_dtype(0.0, f64::from(length), 1.0, Dtype::Int32)?;
                let columns = (column(&ends)? + steps.reshape(&[1, 1, length, 1])?)?;
                buffers.scatter(&update, &columns)?
            };
            *self.halves.place(is_packed) = Some(written);
        }
        for row in &mut self.rows {
            row.end += length;
        }
        self.positions = positions(&self.rows)?;
        Ok(())
    }

    /// The rows at these indices, without columns that none of them uses.
    fn selected(&self, indices: &[i32]) -> Result<Self> {
        let places = self.places();
        let mut rows = Vec::with_capacity(indices.len());
        let mut sources = [Vec::new(), Vec::new()];
        for &index in indices {
            let found = usize::try_from(index)
                .ok()
                .and_then(|index| Some((*self.rows.get(index)?, *places.get(index)?)));
            let (row, place) =
                found.ok_or_else(|| foreign(&format!("row {index}"), self.rows.len()))?;
            let [dense, packed] = &mut sources;
            if row.is_packed { packed } else { dense }.push(place);
            rows.push(row);
        }
        let end = rows.iter().map(|row| row.end).max().unwrap_or(0);
        let mut halves = Halves::default();
        for (is_packed, sources) in [false, true].into_iter().zip(&sources) {
            if let Some(buffers) = self.halves.of(is_packed)
                && end > 0
                && !sources.is_empty()
            {
                let used = buffers.head(rounded(end).min(buffers.len()?))?;
                *halves.place(is_packed) = Some(used.take_rows(sources)?);
            }
        }
        Self::new(halves, rows, self.quantization, self.chunk_size)
    }
}

/// The rows at these indices of an array whose first axis is that of the rows.
fn of_rows(array: &Array, rows: &[i32]) -> Result<Array> {
    let rows = Array::from_slice::<i32>(rows, &[length_of(rows)])?;
    Ok(take(array, &rows, 0)?)
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
        let mut both = Vec::with_capacity(2);
        for is_packed in [false, true] {
            let has_rows = !self.members(is_packed).is_empty();
            both.push(match has_rows {
                true => Some(self.kept(is_packed)?.decode()?),
                false => None,
            });
        }
        let pick = |is_packed: bool| {
            let found = both.get(usize::from(is_packed)).and_then(Option::as_ref);
            found.ok_or_else(|| foreign("keys and values", "none"))
        };
        let keys = self.of_halves(|is_packed, _| Ok(pick(is_packed)?.0.clone()))?;
        let values = self.of_halves(|is_packed, _| Ok(pick(is_packed)?.1.clone()))?;
        Ok((keys, values))
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
        self.of_halves(|is_packed, rows| {
            let kept = self.kept(is_packed)?;
            if rows.len() == self.rows.len() {
                return kept.attend(queries, attend);
            }
            let mask = match attend.mask {
                // One that differs between sequences.
                Mask::Array(mask) if mask.ndim() == 4 && mask.dim(0)? > 1 => {
                    Mask::Array(of_rows(mask, rows)?)
                }
                same => same.clone(),
            };
            let attend = Attend {
                mask: &mask,
                ..attend
            };
            kept.attend(&of_rows(queries, rows)?, attend)
        })
    }

    fn state(&self) -> Vec<&Array> {
        self.halves.each().flat_map(|parts| &parts.arrays).collect()
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
        let mut halves = Halves::default();
        let any = members
            .iter()
            .find_map(|member| member.halves.each().next());
        for is_packed in [false, true] {
            let format = self.quantization.filter(|_| is_packed);
            let Some(any) = any else { continue };
            let mut pieces = Vec::new();
            for member in &members {
                let count = length_of(&member.members(is_packed));
                match member.halves.of(is_packed) {
                    _ if count == 0 => {}
                    Some(buffers) => {
                        let used = buffers.head(member.longest().min(buffers.len()?))?;
                        pieces.push(used.converted(format)?.padded(rounded(end))?);
                    }
                    None => {
                        let blank = any.head(1)?.converted(format)?;
                        pieces.push(blank.blank(count, rounded(end))?);
                    }
                }
            }
            if !pieces.is_empty() {
                let joined = Parts::concat(&pieces.iter().collect::<Vec<_>>(), 0)?;
                *halves.place(is_packed) = Some(joined);
            }
        }
        Ok(Box::new(Self::new(
            halves,
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
        if let (Some(buffers), [row]) = (only.halves.each().next(), only.rows.as_slice()) {
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
