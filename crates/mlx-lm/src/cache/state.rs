//! A cache of states that are replaced rather than appended to.

use std::any::Any;

use mlx_core::Array;
use mlx_core::ops::comparison::greater_equal;
use mlx_core::ops::indexing::take;
use mlx_core::ops::shape::{concatenate, expand_dims};
use mlx_nn::{Mask, Offset};

use super::{LayerCache, foreign};
use crate::Result;

/// The states of a recurrence or a convolution: a few arrays, each in a slot of
/// its own, with the batch as their first axis.
///
/// What a slot holds is the layer's business. A state has absorbed its tokens,
/// so none of them can be trimmed; keep a copy to return to.
///
/// A layer reads its slots, and when it has run calls [`set`](Self::set) for
/// each and [`advance`](Self::advance) once:
///
/// ```
/// use mlx_core::Array;
/// use mlx_lm::cache::{self, LayerCache, StateCache};
///
/// let mut layer: Box<dyn LayerCache> = Box::new(StateCache::new(2));
/// let states = cache::as_state(layer.as_mut())?;
/// assert!(states.get(0).is_none());
/// states.set(0, Array::zeros::<f32>(&[1, 3, 8])?)?;
/// states.advance(5);
/// assert_eq!(layer.offset(), 5);
/// # Ok::<(), mlx_lm::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StateCache {
    slots: Vec<Option<Array>>,
    /// Tokens seen by each sequence; one entry for a batch that started together.
    offsets: Vec<i32>,
    /// Padding that each sequence has still to skip; empty if there is none.
    padding: Vec<i32>,
}

impl StateCache {
    /// A cache of `slots` empty slots.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self {
            slots: vec![None; slots],
            offsets: vec![0],
            padding: Vec::new(),
        }
    }

    /// A cache for a batch whose sequences begin with that many padding tokens.
    #[must_use]
    pub fn left_padded(slots: usize, padding: &[i32]) -> Self {
        Self {
            slots: vec![None; slots],
            offsets: vec![0; padding.len().max(1)],
            padding: padding.iter().map(|&count| count.max(0)).collect(),
        }
    }

    /// What a slot holds; `None` before the first tokens.
    #[must_use]
    pub fn get(&self, slot: usize) -> Option<&Array> {
        self.slots.get(slot)?.as_ref()
    }

    /// The number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Replaces what a slot holds; the first axis is the batch.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) if there is no such slot.
    pub fn set(&mut self, slot: usize, state: Array) -> Result<()> {
        let slots = self.slots.len();
        match self.slots.get_mut(slot) {
            Some(place) => {
                *place = Some(state);
                Ok(())
            }
            None => Err(foreign(&format!("{} or more states", slot + 1), slots)),
        }
    }

    /// Counts `length` more positions of input.
    pub fn advance(&mut self, length: i32) {
        let padding = &mut self.padding;
        for (row, offset) in self.offsets.iter_mut().enumerate() {
            let skipped = padding.get(row).map_or(0, |&left| left.min(length));
            *offset += length - skipped;
        }
        for left in padding.iter_mut() {
            *left = (*left - length).max(0);
        }
        if padding.iter().all(|&left| left == 0) {
            padding.clear();
        }
    }

    /// Sequences held.
    fn batch(&self) -> usize {
        let first = self.slots.iter().flatten().next();
        let rows = first.and_then(|array| array.dim(0).ok());
        let rows = rows.and_then(|rows| usize::try_from(rows).ok());
        rows.unwrap_or(1).max(self.offsets.len())
    }

    /// The offset of each sequence.
    fn spread(&self) -> Vec<i32> {
        let offset = self.offset();
        match self.offsets.len() {
            1 => vec![offset; self.batch()],
            _ => self.offsets.clone(),
        }
    }

    /// Which of the next `length` positions hold a token and not padding,
    /// `[B, length]` of booleans; `None` if all do.
    ///
    /// # Errors
    /// Fails if the mask cannot be built.
    pub fn token_mask(&self, length: i32) -> Result<Option<Array>> {
        if self.padding.is_empty() {
            return Ok(None);
        }
        let rows = i32::try_from(self.padding.len()).unwrap_or(i32::MAX);
        let padding = Array::from_slice::<i32>(&self.padding, &[rows, 1])?;
        let positions = Array::arange::<i32>(0.0, f64::from(length), 1.0)?;
        Ok(Some(greater_equal(
            &expand_dims(&positions, &[0])?,
            &padding,
        )?))
    }
}

impl LayerCache for StateCache {
    fn offset(&self) -> i32 {
        self.offsets.iter().copied().max().unwrap_or(0)
    }

    fn positions(&self) -> Offset<'_> {
        Offset::Shared(self.offset())
    }

    /// No mask: a state is not attended to.
    fn mask(&self, _length: i32) -> Result<Mask> {
        Ok(Mask::None)
    }

    fn update(&mut self, _keys: &Array, _values: &Array) -> Result<(Array, Array)> {
        Err(foreign("keys and values", "states"))
    }

    fn state(&self) -> Vec<&Array> {
        self.slots.iter().flatten().collect()
    }

    fn trim(&mut self, _count: i32) -> i32 {
        0
    }

    fn is_trimmable(&self) -> bool {
        false
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }

    /// No token can be forgotten, but forgetting none can: a cache without
    /// slots has nothing that a trimmed token could have left.
    fn can_trim(&self, count: i32) -> bool {
        count <= 0 || self.slots.is_empty()
    }

    fn rows(&self) -> usize {
        self.batch()
    }

    fn merge(&self, others: &[&dyn LayerCache]) -> Result<Box<dyn LayerCache>> {
        let mut members = vec![self];
        for &other in others {
            let any: &dyn Any = other;
            let states = any.downcast_ref::<Self>();
            members.push(states.ok_or_else(|| foreign("states", "another kind"))?);
        }
        let mut slots = Vec::with_capacity(self.slots.len());
        for slot in 0..self.slots.len() {
            slots.push(joined(&members, slot)?);
        }
        let mut merged = Self::new(0);
        merged.slots = slots;
        merged.offsets = members.iter().flat_map(|member| member.spread()).collect();
        if members.iter().any(|member| !member.padding.is_empty()) {
            for member in &members {
                let padding = member.padding.iter().copied().chain(std::iter::repeat(0));
                merged.padding.extend(padding.take(member.batch()));
            }
        }
        Ok(Box::new(merged))
    }

    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        let offsets = self.spread();
        let mut chosen = Self::new(0);
        chosen.offsets.clear();
        for &row in rows {
            let index = usize::try_from(row).unwrap_or(usize::MAX);
            let offset = offsets.get(index);
            let offset = offset.ok_or_else(|| foreign(&format!("row {row}"), offsets.len()))?;
            chosen.offsets.push(*offset);
            if let Some(&padding) = self.padding.get(index) {
                chosen.padding.push(padding);
            }
        }
        let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        let indices = Array::from_slice::<i32>(rows, &[count])?;
        for slot in &self.slots {
            chosen.slots.push(match slot {
                Some(array) => Some(take(array, &indices, 0)?),
                None => None,
            });
        }
        Ok(Box::new(chosen))
    }

    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        self.select(&[row])
    }

    fn trim_rows(&mut self, counts: &[i32]) -> Result<()> {
        if counts.iter().all(|&count| self.can_trim(count)) {
            Ok(())
        } else {
            Err(foreign("a cache that can be trimmed", "states"))
        }
    }

    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        Ok(Box::new(Self::left_padded(self.slots.len(), padding)))
    }
}

/// One slot of all members, sequence after sequence; one that is empty in some
/// of them only holds zeros there.
fn joined(members: &[&StateCache], slot: usize) -> Result<Option<Array>> {
    let mut shape = None;
    for member in members {
        if let (None, Some(array)) = (&shape, member.get(slot)) {
            shape = Some((array.shape().to_vec(), array.dtype()));
        }
    }
    let Some((shape, dtype)) = shape else {
        return Ok(None);
    };
    let mut pieces = Vec::with_capacity(members.len());
    for member in members {
        pieces.push(match member.get(slot) {
            Some(array) => array.clone(),
            None => {
                let mut shape = shape.clone();
                if let Some(batch) = shape.first_mut() {
                    *batch = i32::try_from(member.batch()).unwrap_or(i32::MAX);
                }
                Array::zeros_dtype(&shape, dtype)?
            }
        });
    }
    Ok(Some(concatenate(&pieces.iter().collect::<Vec<_>>(), 0)?))
}
