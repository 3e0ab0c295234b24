//! A cache of states that are replaced rather than appended to.

use mlx_core::Array;
use mlx_core::ops::comparison::greater_equal;
use mlx_core::ops::shape::expand_dims;
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
}
