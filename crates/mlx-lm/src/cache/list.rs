//! Several caches of one layer.

use std::any::Any;

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

    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn LayerCache>> {
        self.parts.iter_mut()
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

    fn each(
        &self,
        f: impl FnMut(&Box<dyn LayerCache>) -> Result<Box<dyn LayerCache>>,
    ) -> Result<Box<dyn LayerCache>> {
        let parts = self.parts.iter().map(f).collect::<Result<_>>()?;
        Ok(Box::new(Self { parts }))
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

    fn can_trim(&self, count: i32) -> bool {
        self.parts.iter().all(|part| part.can_trim(count))
    }

    fn rows(&self) -> usize {
        self.parts.first().map_or(1, |part| part.rows())
    }

    fn merge(&self, others: &[&dyn LayerCache]) -> Result<Box<dyn LayerCache>> {
        let mut lists = Vec::with_capacity(others.len());
        for &other in others {
            let any: &dyn Any = other;
            let list = any.downcast_ref::<Self>();
            lists.push(list.ok_or_else(|| foreign("lists of caches", "another kind"))?);
        }
        let mut parts = Vec::with_capacity(self.parts.len());
        for (index, part) in self.parts.iter().enumerate() {
            let mut same = Vec::with_capacity(lists.len());
            for list in &lists {
                let other = list.parts.get(index);
                same.push(
                    other
                        .ok_or_else(|| foreign("lists of one length", index))?
                        .as_ref(),
                );
            }
            parts.push(part.merge(&same)?);
        }
        Ok(Box::new(Self { parts }))
    }

    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        self.each(|part| part.select(rows))
    }

    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        self.each(|part| part.row(row))
    }

    fn trim_rows(&mut self, counts: &[i32]) -> Result<()> {
        let mut parts = self.parts.iter_mut();
        parts.try_for_each(|part| part.trim_rows(counts))
    }

    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        self.each(|part| part.left_padded(padding))
    }
}
