//! An index resolved against a shape: slices, index arrays and the layout of the result.

use super::{Index, Update};
use crate::ops::{indexing, shape as shape_ops};
use crate::{Array, Dtype, Error, Result};

/// An index resolved against a shape.
pub(super) struct Plan {
    op: &'static str,
    /// A slice for each axis; axes with an index array are taken whole.
    pub(super) starts: Vec<i32>,
    pub(super) stops: Vec<i32>,
    pub(super) strides: Vec<i32>,
    /// The shape of that slice.
    pub(super) sliced: Vec<i32>,
    /// Index arrays and their axes.
    pub(super) arrays: Vec<(usize, Array)>,
    /// Whether the arrays stand side by side, so that their axes stay in place.
    adjacent: bool,
    /// The result's axes before index arrays are placed: `Some(axis)` keeps one, `None` is new.
    layout: Vec<Option<usize>>,
}

impl Plan {
    pub(super) fn new(op: &'static str, a: &Array, parts: Vec<Index>) -> Result<Plan> {
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

    pub(super) fn is_whole(&self, a: &Array) -> bool {
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
    pub(super) fn gather(&self, sliced: &Array) -> Result<Array> {
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
    pub(super) fn result_shape(&self, picked: &Array) -> Result<Vec<i32>> {
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
    pub(super) fn values_for(&self, a: &Array, target: &[i32], values: &Array) -> Result<Array> {
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

    pub(super) fn scatter(&self, target: &Array, values: &Array, update: Update) -> Result<Array> {
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
pub(super) fn positions(mask: &Array) -> Result<Vec<Array>> {
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
