//! NumPy's indexing: integers, ranges with steps, ellipsis, new axes, index arrays and masks.

use std::ops::{Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

use crate::ops::{indexing, shape as shape_ops};
use crate::{Array, Dtype, Error, Result};

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
    /// [`Error::OutOfBounds`] for a position outside (see [`indexing`] for lazy index arrays);
    /// [`Error::Shape`] for too many parts, a zero step or a mask that does not fit.
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

/// An index resolved against a shape.
struct Plan {
    op: &'static str,
    /// A slice for each axis; axes with an index array are taken whole.
    starts: Vec<i32>,
    stops: Vec<i32>,
    strides: Vec<i32>,
    /// The shape of that slice.
    sliced: Vec<i32>,
    /// Index arrays and their axes.
    arrays: Vec<(usize, Array)>,
    /// Whether the arrays stand side by side, so that their axes stay in place.
    adjacent: bool,
    /// The result's axes before index arrays are placed: `Some(axis)` keeps one, `None` is new.
    layout: Vec<Option<usize>>,
}

impl Plan {
    fn new(op: &'static str, a: &Array, parts: Vec<Index>) -> Result<Plan> {
        let parts = expand_masks(op, a, parts)?;
        let used = parts
            .iter()
            .filter(|part| !matches!(part, Index::Ellipsis | Index::NewAxis))
            .count();
        let ellipses = parts
            .iter()
            .filter(|part| matches!(part, Index::Ellipsis))
            .count();
        if used > a.ndim() || ellipses > 1 {
            return Err(Error::shape(
                op,
                format!(
                    "{used} indices and {ellipses} ellipses for shape {:?}",
                    a.shape()
                ),
            ));
        }
        let has_arrays = parts.iter().any(|part| matches!(part, Index::Array(_)));
        let mut plan = Plan {
            op,
            starts: vec![0; a.ndim()],
            stops: a.shape().to_vec(),
            strides: vec![1; a.ndim()],
            sliced: a.shape().to_vec(),
            arrays: Vec::new(),
            adjacent: true,
            layout: Vec::new(),
        };
        let mut axis = 0;
        let mut array_run_ended = false;
        for part in parts {
            if !matches!(part, Index::Array(_) | Index::Int(_)) && !plan.arrays.is_empty() {
                array_run_ended = true;
            }
            match part {
                Index::NewAxis => plan.layout.push(None),
                Index::Ellipsis => {
                    for _ in 0..a.ndim() - used {
                        plan.layout.push(Some(axis));
                        axis += 1;
                    }
                }
                // Beside index arrays NumPy treats an integer as one more of them.
                Index::Int(position) if has_arrays => {
                    let position = resolve(op, position, axis, a.shape()[axis])?;
                    plan.adjacent &= !array_run_ended;
                    plan.arrays.push((axis, Array::scalar(position)?));
                    plan.layout.push(Some(axis));
                    axis += 1;
                }
                Index::Int(position) => {
                    let position = resolve(op, position, axis, a.shape()[axis])?;
                    plan.starts[axis] = position;
                    plan.stops[axis] = position + 1;
                    plan.sliced[axis] = 1;
                    axis += 1;
                }
                Index::Slice { start, stop, step } => {
                    let (start, stop, len) = clip(op, start, stop, step, a.shape()[axis])?;
                    plan.starts[axis] = start;
                    plan.stops[axis] = stop;
                    plan.strides[axis] = step;
                    plan.sliced[axis] = len;
                    plan.layout.push(Some(axis));
                    axis += 1;
                }
                Index::Array(indices) => {
                    plan.adjacent &= !array_run_ended;
                    plan.arrays.push((axis, indices));
                    plan.layout.push(Some(axis));
                    axis += 1;
                }
            }
        }
        plan.layout.extend((axis..a.ndim()).map(Some));
        Ok(plan)
    }

    fn is_whole(&self, a: &Array) -> bool {
        self.sliced == a.shape() && self.strides.iter().all(|&stride| stride == 1)
    }

    fn is_indexed(&self, axis: usize) -> bool {
        self.arrays.iter().any(|(other, _)| *other == axis)
    }

    fn gather_arguments(&self) -> (Vec<&Array>, Vec<i32>, Vec<i32>) {
        let indices = self.arrays.iter().map(|(_, array)| array).collect();
        let axes = self
            .arrays
            .iter()
            .map(|(axis, _)| i32::try_from(*axis).unwrap_or(i32::MAX))
            .collect();
        let sizes = self
            .sliced
            .iter()
            .enumerate()
            .map(|(axis, &dim)| if self.is_indexed(axis) { 1 } else { dim })
            .collect();
        (indices, axes, sizes)
    }

    /// `[I.., slices..]`, with the axes `I` moved to where the index arrays stood.
    fn gather(&self, sliced: &Array) -> Result<Array> {
        let (indices, axes, sizes) = self.gather_arguments();
        let gathered = indexing::gather(sliced, &indices, &axes, &sizes)?;
        let rank = gathered.ndim() - sliced.ndim();
        if !self.adjacent || rank == 0 {
            return Ok(gathered);
        }
        let place = self.arrays.first().map_or(0, |(axis, _)| *axis);
        let mut order: Vec<usize> = (rank..rank + place).collect();
        order.extend(0..rank);
        order.extend(rank + place..gathered.ndim());
        let order: Vec<i32> = order
            .into_iter()
            .map(|v| i32::try_from(v).unwrap_or(i32::MAX))
            .collect();
        shape_ops::transpose_axes(&gathered, &order)
    }

    /// The shape with integers dropped and new axes added; `picked` comes from [`Self::gather`] or
    /// is the slice.
    fn result_shape(&self, picked: &Array) -> Result<Vec<i32>> {
        if self.arrays.is_empty() {
            return Ok(self
                .layout
                .iter()
                .map(|axis| axis.map_or(1, |axis| self.sliced[axis]))
                .collect());
        }
        let rank = picked.ndim() - self.sliced.len();
        let place = if self.adjacent {
            self.arrays.first().map_or(0, |(axis, _)| *axis)
        } else {
            0
        };
        let index_shape = picked
            .shape()
            .get(place..place + rank)
            .ok_or_else(|| Error::shape(self.op, "the gathered rank does not fit"))?;
        let mut dims = Vec::new();
        let mut placed = false;
        if !self.adjacent {
            dims.extend_from_slice(index_shape);
            placed = true;
        }
        for axis in &self.layout {
            match axis {
                None => dims.push(1),
                Some(axis) if self.is_indexed(*axis) => {
                    if !placed {
                        dims.extend_from_slice(index_shape);
                        placed = true;
                    }
                }
                Some(axis) => dims.push(self.sliced[*axis]),
            }
        }
        Ok(dims)
    }

    /// `values` broadcast to the result and reshaped to `target`, which has an axis for each axis
    /// of the array.
    fn values_for(&self, a: &Array, target: &[i32], values: &Array) -> Result<Array> {
        let result: Vec<i32> = self
            .layout
            .iter()
            .map(|axis| axis.map_or(1, |axis| target[axis]))
            .collect();
        // Leading axes of size 1 are allowed to be too many, as in NumPy.
        let mut values = values.clone();
        while values.ndim() > result.len() && values.shape().first() == Some(&1) {
            values = shape_ops::squeeze_axes(&values, &[0])?;
        }
        debug_assert_eq!(target.len(), a.ndim());
        shape_ops::reshape(
            &shape_ops::broadcast_to(&values, &result)?,
            &target.to_vec(),
        )
    }

    fn scatter(&self, target: &Array, values: &Array, update: Update) -> Result<Array> {
        let (indices, axes, sizes) = self.gather_arguments();
        let indices = if indices.len() > 1 {
            shape_ops::broadcast_arrays(&indices)?
        } else {
            indices.into_iter().cloned().collect()
        };
        let index_shape = indices
            .first()
            .map(|array| array.shape().to_vec())
            .unwrap_or_default();
        // The shape in which NumPy would show the selection, then with index axes first.
        let mut picked_dims = Vec::new();
        let mut placed = !self.adjacent;
        if placed {
            picked_dims.extend_from_slice(&index_shape);
        }
        let mut before = 0;
        for axis in &self.layout {
            match axis {
                None => picked_dims.push(1),
                Some(axis) if self.is_indexed(*axis) => {
                    if !placed {
                        before = picked_dims.len();
                        picked_dims.extend_from_slice(&index_shape);
                        placed = true;
                    }
                }
                Some(axis) => picked_dims.push(self.sliced[*axis]),
            }
        }
        let broadcast = shape_ops::broadcast_to(values, &picked_dims)?;
        let rank = index_shape.len();
        let mut order: Vec<usize> = (before..before + rank).collect();
        order.extend(0..before);
        order.extend(before + rank..picked_dims.len());
        let order: Vec<i32> = order
            .into_iter()
            .map(|v| i32::try_from(v).unwrap_or(i32::MAX))
            .collect();
        let moved = shape_ops::transpose_axes(&broadcast, &order)?;
        let mut dims = index_shape;
        dims.extend_from_slice(&sizes);
        let updates = shape_ops::reshape(&moved, &dims)?;
        let indices: Vec<&Array> = indices.iter().collect();
        match update {
            Update::Set => indexing::scatter(target, &indices, &updates, &axes),
            Update::Add => indexing::scatter_add(target, &indices, &updates, &axes),
            Update::Multiply => indexing::scatter_prod(target, &indices, &updates, &axes),
            Update::Maximum => indexing::scatter_max(target, &indices, &updates, &axes),
            Update::Minimum => indexing::scatter_min(target, &indices, &updates, &axes),
        }
    }
}

fn resolve(op: &'static str, position: i32, axis: usize, dim: i32) -> Result<i32> {
    let resolved = if position < 0 {
        position.saturating_add(dim)
    } else {
        position
    };
    if resolved < 0 || resolved >= dim {
        return Err(Error::OutOfBounds {
            op,
            index: position.into(),
            axis,
            size: dim.into(),
        });
    }
    Ok(resolved)
}

/// Python's rules for a slice: start, stop and length within an axis of size `dim`.
///
/// Running backwards to the very front needs a stop of -1, which MLX reads as such only below
/// `-dim`.
fn clip(
    op: &'static str,
    start: Option<i32>,
    stop: Option<i32>,
    step: i32,
    dim: i32,
) -> Result<(i32, i32, i32)> {
    if step == 0 {
        return Err(Error::shape(op, "a slice cannot step by zero"));
    }
    let place = |value: i32| {
        if value < 0 {
            value.saturating_add(dim)
        } else {
            value
        }
    };
    if step > 0 {
        let start = start.map_or(0, |v| place(v).clamp(0, dim));
        let stop = stop.map_or(dim, |v| place(v).clamp(0, dim)).max(start);
        let len = (i64::from(stop) - i64::from(start) + i64::from(step) - 1) / i64::from(step);
        Ok((start, stop, i32::try_from(len).unwrap_or(0)))
    } else {
        let start = start.map_or(dim - 1, |v| place(v).clamp(-1, dim - 1));
        let stop = stop.map_or(-1, |v| place(v).clamp(-1, dim - 1)).min(start);
        let back = -i64::from(step);
        let len = (i64::from(start) - i64::from(stop) + back - 1) / back;
        let shown = if stop < 0 { -dim - 1 } else { stop };
        if len == 0 {
            return Ok((0, 0, 0));
        }
        Ok((start, shown, i32::try_from(len).unwrap_or(0)))
    }
}

/// Replaces each mask by the positions where it is true, one index array for each of its axes.
fn expand_masks(op: &'static str, a: &Array, parts: Vec<Index>) -> Result<Vec<Index>> {
    if !parts
        .iter()
        .any(|part| matches!(part, Index::Array(array) if array.dtype() == Dtype::Bool))
    {
        return Ok(parts);
    }
    let covered = |part: &Index| match part {
        Index::Array(array) if array.dtype() == Dtype::Bool => array.ndim(),
        Index::Ellipsis | Index::NewAxis => 0,
        _ => 1,
    };
    let total: usize = parts.iter().map(covered).sum();
    let missing = a.ndim().saturating_sub(total);
    let mut axis = 0;
    let mut out = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Index::Array(mask) if mask.dtype() == Dtype::Bool => {
                let shape = a.shape().get(axis..axis + mask.ndim());
                if mask.ndim() == 0 || shape != Some(mask.shape()) {
                    return Err(Error::shape(
                        op,
                        format!(
                            "a mask of shape {:?} does not fit axis {axis} of shape {:?}",
                            mask.shape(),
                            a.shape()
                        ),
                    ));
                }
                axis += mask.ndim();
                out.extend(positions(&mask)?.into_iter().map(Index::Array));
            }
            Index::Ellipsis => {
                axis += missing;
                out.push(Index::Ellipsis);
            }
            other => {
                axis += covered(&other);
                out.push(other);
            }
        }
    }
    Ok(out)
}

/// NumPy's `nonzero`: the coordinates of the true elements, one array for each axis.
fn positions(mask: &Array) -> Result<Vec<Array>> {
    let values = mask.to_vec::<bool>()?;
    let mut columns: Vec<Vec<i32>> = vec![Vec::new(); mask.ndim()];
    for (position, _) in values.iter().enumerate().filter(|(_, value)| **value) {
        let mut rest = position;
        for (column, &dim) in columns.iter_mut().zip(mask.shape()).rev() {
            let dim = usize::try_from(dim).unwrap_or(1).max(1);
            column.push(i32::try_from(rest % dim).unwrap_or(i32::MAX));
            rest /= dim;
        }
    }
    columns.into_iter().map(Array::try_from).collect()
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
