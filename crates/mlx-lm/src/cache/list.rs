//! Several caches of one layer.

use mlx_core::Array;
use mlx_nn::{Mask, Offset};

use super::{Attend, LayerCache, foreign};
use crate::Result;

/// The caches of a layer that remembers in more than one way, such as attention
/// beside a recurrence (Falcon-H1) or an indexer with keys of its own.
///
/// As a [`LayerCache`] it answers for its first part, which by convention is
/// the one for attention; copying, trimming and saving cover all parts.
#[derive(Debug, Clone)]
pub struct CacheList {
    parts: Vec<Box<dyn LayerCache>>,
}

impl CacheList {
    /// The caches of one layer, that for attention first.
    #[must_use]
    pub fn new(parts: Vec<Box<dyn LayerCache>>) -> Self {
        Self { parts }
    }

    /// All parts, in the order they were given.
    #[must_use]
    pub fn parts(&self) -> &[Box<dyn LayerCache>] {
        &self.parts
    }

    /// One part, to be used as if it were a layer's only cache.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) if there is no such part.
    pub fn part(&mut self, index: usize) -> Result<&mut dyn LayerCache> {
        let count = self.parts.len();
        match self.parts.get_mut(index) {
            Some(part) => Ok(part.as_mut()),
            None => Err(foreign(&format!("{} or more parts", index + 1), count)),
        }
    }

    fn first(&self) -> Result<&dyn LayerCache> {
        match self.parts.first() {
            Some(part) => Ok(part.as_ref()),
            None => Err(foreign("one or more parts", 0)),
        }
    }
}

impl LayerCache for CacheList {
    fn offset(&self) -> i32 {
        self.parts.first().map_or(0, |part| part.offset())
    }

    fn positions(&self) -> Offset<'_> {
        self.parts
            .first()
            .map_or(Offset::Shared(0), |part| part.positions())
    }

    fn mask(&self, length: i32) -> Result<Mask> {
        self.first()?.mask(length)
    }

    fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        self.part(0)?.update(keys, values)
    }

    fn attend(
        &mut self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        attend: Attend<'_>,
    ) -> Result<Array> {
        self.part(0)?.attend(queries, keys, values, attend)
    }

    fn attend_kept(&self, queries: &Array, attend: Attend<'_>) -> Result<Array> {
        self.first()?.attend_kept(queries, attend)
    }

    fn state(&self) -> Vec<&Array> {
        self.parts.iter().flat_map(|part| part.state()).collect()
    }

    fn trim(&mut self, count: i32) -> i32 {
        let trimmed = self.parts.iter_mut().map(|part| part.trim(count));
        trimmed.min().unwrap_or(0)
    }

    fn is_trimmable(&self) -> bool {
        self.parts.iter().all(|part| part.is_trimmable())
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }
}
