//! NumPy's indexing: integers, ranges with steps, ellipsis, new axes, index arrays and masks.

mod plan;

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use crate::ops::{indexing, shape as shape_ops};
use crate::{Array, Result};

use self::plan::{Plan, positions};

/// `np.newaxis`: an axis of size 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewAxis;

/// `...`: as many full ranges as are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ellipsis;

/// One part of an index.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Index {
    /// One position; drops the axis. Negative positions count from the end.
    Int(i32),
    /// `start..stop` in steps, as Python's slices: limits are clipped, `None` is the end that the
    /// step comes from or goes to.
    Slice {
        /// The first position.
        start: Option<i32>,
        /// The position to stop before.
        stop: Option<i32>,
        /// The step; negative ones run backwards.
        step: i32,
    },
    /// As many full ranges as are missing.
    Ellipsis,
    /// An axis of size 1.
    NewAxis,
    /// Positions (integers), or a mask (bool) over as many axes as it has.
    Array(Array),
}

impl Index {
    /// `start:stop:step` of Python.
    pub fn slice(start: impl Into<Option<i32>>, stop: impl Into<Option<i32>>, step: i32) -> Self {
        Index::Slice {
            start: start.into(),
            stop: stop.into(),
            step,
        }
    }

    const FULL: Index = Index::Slice {
        start: None,
        stop: None,
        step: 1,
    };
}

/// What one part of an index can be written as.
pub trait IntoIndex {
    /// The part.
    fn into_index(self) -> Index;
}

macro_rules! parts {
    ($($type:ty: $value:ident => $index:expr;)*) => {$(
        impl IntoIndex for $type {
            fn into_index(self) -> Index {
                let $value = self;
                $index
            }
        }
    )*};
}

parts! {
    Index: v => v;
    i32: v => Index::Int(v);
    RangeFull: _v => Index::FULL;
    Range<i32>: v => Index::slice(v.start, v.end, 1);
    RangeFrom<i32>: v => Index::slice(v.start, None, 1);
    RangeTo<i32>: v => Index::slice(None, v.end, 1);
    // The position after -1 is the end of the axis, which Python writes as nothing.
    RangeInclusive<i32>: v => Index::slice(*v.start(), after(*v.end()), 1);
    RangeToInclusive<i32>: v => Index::slice(None, after(v.end), 1);
    Ellipsis: _v => Index::Ellipsis;
    NewAxis: _v => Index::NewAxis;
    Array: v => Index::Array(v);
    &Array: v => Index::Array(v.clone());
}

fn after(end: i32) -> Option<i32> {
    if end == -1 {
        None
    } else {
        Some(end.saturating_add(1))
    }
}

/// A whole index: one part, a tuple of up to eight, or a list.
pub trait IndexOp {
    /// The parts in order.
    fn into_parts(self) -> Vec<Index>;
}

impl<T: IntoIndex> IndexOp for T {
    fn into_parts(self) -> Vec<Index> {
        vec![self.into_index()]
    }
}

impl IndexOp for Vec<Index> {
    fn into_parts(self) -> Vec<Index> {
        self
    }
}

macro_rules! tuples {
    ($($($name:ident)+;)*) => {$(
        impl<$($name: IntoIndex),+> IndexOp for ($($name,)+) {
            #[allow(non_snake_case)]
            fn into_parts(self) -> Vec<Index> {
                let ($($name,)+) = self;
                vec![$($name.into_index()),+]
            }
        }
    )*};
}
tuples! { A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H; }

/// How a functional assignment combines the old elements with the new.
#[derive(Clone, Copy, PartialEq)]
enum Update {
    Set,
    Add,
    Multiply,
    Maximum,
    Minimum,
}

impl Array {
    /// The elements at `index`, as NumPy's `a[index]`.
    ///
    /// Index arrays broadcast together; their axes take the place of the first of them if they
    /// stand side by side, else they come first. A mask is evaluated.
    ///
    /// ```
    /// use mlx_core::{Array, Ellipsis, Index, NewAxis};
    ///
    /// let x = Array::arange::<i32>(0.0, 12.0, 1.0)?.reshape(&[3, 4])?;
    /// assert_eq!(x.index((1, -1))?.item::<i32>()?, 7);
    /// assert_eq!(x.index((1.., 0..2))?.to_vec::<i32>()?, [4, 5, 8, 9]);
    /// assert_eq!(x.index((Ellipsis, Index::slice(None, None, -2)))?.shape(), [3, 2]);
    /// assert_eq!(x.index((NewAxis, 0))?.shape(), [1, 4]);
    /// let rows = Array::from_slice(&[2, 0], &[2])?;
    /// assert_eq!(x.index((&rows, 1))?.to_vec::<i32>()?, [9, 1]);
    /// let large = x.greater(&Array::scalar(9)?)?;
    /// assert_eq!(x.index(large)?.to_vec::<i32>()?, [10, 11]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds) for a position outside (see [`indexing`]
    /// for lazy index arrays); [`Error::Shape`](crate::Error::Shape) for too many parts, a zero
    /// step or a mask that does not fit.
    pub fn index(&self, index: impl IndexOp) -> Result<Array> {
        let plan = Plan::new("index", self, index.into_parts())?;
        let sliced = if plan.is_whole(self) {
            self.clone()
        } else {
            indexing::slice_strided(self, &plan.starts, &plan.stops, &plan.strides)?
        };
        let picked = if plan.arrays.is_empty() {
            sliced
        } else {
            plan.gather(&sliced)?
        };
        shape_ops::reshape(&picked, &plan.result_shape(&picked)?)
    }

    /// A copy with the elements at `index` replaced by `values`, which broadcast to them.
    ///
    /// ```
    /// use mlx_core::Array;
    ///
    /// let x = Array::zeros::<i32>(&[2, 3])?;
    /// let y = x.set((.., 1), &Array::scalar(7)?)?;
    /// assert_eq!(y.to_vec::<i32>()?, [0, 7, 0, 0, 7, 0]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`index`](Array::index), or if `values` do not broadcast. Values take this array's dtype.
    pub fn set(&self, index: impl IndexOp, values: &Array) -> Result<Array> {
        self.update("set", index.into_parts(), values, Update::Set)
    }

    /// A copy with `values` added at `index`; positions named twice add up.
    ///
    /// # Errors
    /// As [`set`](Array::set).
    pub fn add_at(&self, index: impl IndexOp, values: &Array) -> Result<Array> {
        self.update("add_at", index.into_parts(), values, Update::Add)
    }

    /// A copy with the elements at `index` multiplied by `values`.
    ///
    /// # Errors
    /// As [`set`](Array::set).
    pub fn multiply_at(&self, index: impl IndexOp, values: &Array) -> Result<Array> {
        self.update("multiply_at", index.into_parts(), values, Update::Multiply)
    }

    /// A copy with the elements at `index` replaced by the larger of them and `values`.
    ///
    /// # Errors
    /// As [`set`](Array::set).
    pub fn maximum_at(&self, index: impl IndexOp, values: &Array) -> Result<Array> {
        self.update("maximum_at", index.into_parts(), values, Update::Maximum)
    }

    /// A copy with the elements at `index` replaced by the smaller of them and `values`.
    ///
    /// # Errors
    /// As [`set`](Array::set).
    pub fn minimum_at(&self, index: impl IndexOp, values: &Array) -> Result<Array> {
        self.update("minimum_at", index.into_parts(), values, Update::Minimum)
    }

    fn update(
        &self,
        op: &'static str,
        parts: Vec<Index>,
        values: &Array,
        update: Update,
    ) -> Result<Array> {
        let plan = Plan::new(op, self, parts)?;
        let values = values.astype(self.dtype())?;
        let (starts, stops, strides) = (&plan.starts, &plan.stops, &plan.strides);
        if plan.arrays.is_empty() {
            let values = plan.values_for(self, &plan.sliced, &values)?;
            return match update {
                Update::Set => {
                    indexing::slice_update_strided(self, &values, starts, stops, strides)
                }
                Update::Add => indexing::slice_update_add(self, &values, starts, stops, strides),
                Update::Multiply => {
                    indexing::slice_update_prod(self, &values, starts, stops, strides)
                }
                Update::Maximum => {
                    indexing::slice_update_max(self, &values, starts, stops, strides)
                }
                Update::Minimum => {
                    indexing::slice_update_min(self, &values, starts, stops, strides)
                }
            };
        }
        // Index arrays may sit beside slices: scatter into the slice, then put the slice back.
        let whole = plan.is_whole(self);
        let target = if whole {
            self.clone()
        } else {
            indexing::slice_strided(self, starts, stops, strides)?
        };
        let scattered = plan.scatter(&target, &values, update)?;
        if whole {
            return Ok(scattered);
        }
        indexing::slice_update_strided(self, &scattered, starts, stops, strides)
    }
}

impl Array {
    /// The coordinates of the elements that are not zero: int32, one array for each axis.
    /// Evaluates the array.
    ///
    /// # Errors
    /// Whatever the computation reports.
    pub fn nonzero(&self) -> Result<Vec<Array>> {
        positions(&self.not_equal(&Array::scalar_dtype(0.0, self.dtype())?)?)
    }
}
