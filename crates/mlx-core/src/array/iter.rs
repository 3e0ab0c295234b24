//! Iteration over the slices of an array.

use std::ops::Range;

use crate::{Array, Index, Result};

/// The slices of an array along one axis, each without that axis.
///
/// Made by [`Array::iter`] and [`Array::iter_axis`].
#[derive(Clone, Debug)]
pub struct AxisIter<'a> {
    array: &'a Array,
    axis: usize,
    left: Range<i32>,
}

impl AxisIter<'_> {
    fn at(&self, position: i32) -> Result<Array> {
        let mut parts = vec![Index::slice(None, None, 1); self.axis];
        parts.push(Index::Int(position));
        self.array.index(parts)
    }
}

impl Iterator for AxisIter<'_> {
    type Item = Result<Array>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left.next().map(|position| self.at(position))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.left.size_hint()
    }
}

impl DoubleEndedIterator for AxisIter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left.next_back().map(|position| self.at(position))
    }
}

impl ExactSizeIterator for AxisIter<'_> {}

impl Array {
    /// The slices along the first axis, lazily: `[N, ..]` gives `N` arrays of shape `[..]`.
    ///
    /// ```
    /// # use mlx_core::{array, Array};
    /// let x = array!([[1, 2], [3, 4]])?;
    /// let sums = x.iter()?.map(|row| row?.sum(false)?.item::<i32>()).collect::<Result<Vec<_>, _>>()?;
    /// assert_eq!(sums, [3, 7]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for an array without axes.
    pub fn iter(&self) -> Result<AxisIter<'_>> {
        self.iter_axis(0)
    }

    /// The slices along `axis`, lazily; negative axes count from the end.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if there is no such axis.
    pub fn iter_axis(&self, axis: i32) -> Result<AxisIter<'_>> {
        let axis = crate::shape::normalize_axis("iter_axis", axis, self.ndim())?;
        Ok(AxisIter {
            array: self,
            axis,
            left: 0..self.shape()[axis],
        })
    }
}
