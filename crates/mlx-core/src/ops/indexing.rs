//! Slices, gathers and scatters. All keep the dtype of `a`.
//!
//! Index arrays hold integers; negative ones count from the end. An index outside the array is an
//! error where the index array is already computed. Where it is still lazy it is limited to the
//! axis instead, so that no element of other memory is ever read or written. The same holds for
//! masks that ask for more elements than there are.

use super::checked;
use crate::ffi::ops as ffi;
use crate::shape::normalize_axis;
use crate::{Array, Dtype, Error, Result};

/// `a[starts[0]..stops[0], starts[1]..stops[1], …]`, limits clipped to the axes as in Python.
///
/// # Errors
/// [`Error::Op`] if there is not one start and stop for each axis.
pub fn slice(a: &Array, starts: &[i32], stops: &[i32]) -> Result<Array> {
    ffi::slice(a, starts, stops, &vec![1; a.ndim()])
}

/// [`slice`](slice()) with a step for each axis; negative steps run backwards.
///
/// # Errors
/// As [`slice`](slice()), or [`Error::Shape`] if a step is zero.
pub fn slice_strided(a: &Array, starts: &[i32], stops: &[i32], strides: &[i32]) -> Result<Array> {
    refuse_zero("slice", strides)?;
    ffi::slice(a, starts, stops, strides)
}

fn refuse_zero(op: &'static str, strides: &[i32]) -> Result<()> {
    if strides.contains(&0) {
        return Err(Error::shape(
            op,
            format!("strides {strides:?} contain a zero"),
        ));
    }
    Ok(())
}

/// `a` with the slice replaced by `update`, which broadcasts to it.
///
/// # Errors
/// As [`slice`](slice()), or if `update` does not broadcast.
pub fn slice_update(a: &Array, update: &Array, starts: &[i32], stops: &[i32]) -> Result<Array> {
    ffi::slice_update(a, update, starts, stops, &vec![1; a.ndim()])
}

/// [`slice_update`] with a step for each axis.
///
/// # Errors
/// As [`slice_update`], or [`Error::Shape`] if a step is zero.
pub fn slice_update_strided(
    a: &Array,
    update: &Array,
    starts: &[i32],
    stops: &[i32],
    strides: &[i32],
) -> Result<Array> {
    refuse_zero("slice_update", strides)?;
    ffi::slice_update(a, update, starts, stops, strides)
}

/// `a` with `update` added to the slice.
///
/// # Errors
/// As [`slice_update_strided`].
pub fn slice_update_add(
    a: &Array,
    update: &Array,
    starts: &[i32],
    stops: &[i32],
    strides: &[i32],
) -> Result<Array> {
    refuse_zero("slice_update_add", strides)?;
    ffi::slice_update_add(a, update, starts, stops, strides)
}

/// `a` with the slice multiplied by `update`.
///
/// # Errors
/// As [`slice_update_strided`].
pub fn slice_update_prod(
    a: &Array,
    update: &Array,
    starts: &[i32],
    stops: &[i32],
    strides: &[i32],
) -> Result<Array> {
    refuse_zero("slice_update_prod", strides)?;
    ffi::slice_update_prod(a, update, starts, stops, strides)
}

/// `a` with the slice replaced by the larger of it and `update`.
///
/// # Errors
/// As [`slice_update_strided`].
pub fn slice_update_max(
    a: &Array,
    update: &Array,
    starts: &[i32],
    stops: &[i32],
    strides: &[i32],
) -> Result<Array> {
    refuse_zero("slice_update_max", strides)?;
    ffi::slice_update_max(a, update, starts, stops, strides)
}

/// `a` with the slice replaced by the smaller of it and `update`.
///
/// # Errors
/// As [`slice_update_strided`].
pub fn slice_update_min(
    a: &Array,
    update: &Array,
    starts: &[i32],
    stops: &[i32],
    strides: &[i32],
) -> Result<Array> {
    refuse_zero("slice_update_min", strides)?;
    ffi::slice_update_min(a, update, starts, stops, strides)
}

/// The indices, safe to use on an axis of this size, whatever is done with them next. Those of 8 and
/// 16 bits come back in 32, and uint64 as int64.
///
/// Every function here checks its own indices. This is for those who reshape or combine indices
/// first: what comes of that is lazy, and a mistake in it could only be limited, not reported.
///
/// ```
/// # use mlx_core::Array;
/// let classes = Array::from_slice(&[0, 3], &[2])?;
/// assert!(classes.checked_indices(3).is_err());
/// assert_eq!(classes.checked_indices(4)?.to_vec::<i32>()?, [0, 3]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::OutOfBounds`] if the array is computed and an index lies outside; lazy indices are
/// limited instead. [`Error::Shape`] if the size is not positive or the indices are no integers.
pub fn checked_indices(indices: &Array, size: i32) -> Result<Array> {
    checked::indices("checked_indices", indices, 0, size)
}

/// Elements along `axis` at `indices`: `[.., N, ..]` and `[I..]` give `[.., I.., ..]`.
///
/// ```
/// # use mlx_core::{Array, ops::indexing::take};
/// let x = Array::from_slice(&[10, 20, 30], &[3])?;
/// let y = take(&x, &Array::from_slice(&[2, -3], &[2])?, 0)?;
/// assert_eq!(y.to_vec::<i32>()?, [30, 10]);
/// assert!(take(&x, &Array::from_slice(&[3], &[1])?, 0).is_err());
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::OutOfBounds`] for an index outside the axis (see the module docs for lazy ones);
/// [`Error::Shape`] if the axis is out of range or empty, or the indices are no integers.
pub fn take(a: &Array, indices: &Array, axis: i32) -> Result<Array> {
    let index = normalize_axis("take", axis, a.ndim())?;
    let indices = checked::indices("take", indices, index, a.shape()[index])?;
    ffi::take_axis(a, &indices, axis)
}

/// Elements of the flattened array at `indices`, in the shape of `indices`.
///
/// # Errors
/// As [`take`].
pub fn take_flat(a: &Array, indices: &Array) -> Result<Array> {
    let len = i32::try_from(a.size())
        .map_err(|_| Error::shape("take", "the flattened array is longer than an axis can be"))?;
    let indices = checked::indices("take", indices, 0, len)?;
    ffi::take(a, &indices)
}

/// For each position, the element of its line along `axis` that `indices` names there.
///
/// `indices` has the rank of `a`, and broadcasts to it except along `axis`.
///
/// # Errors
/// As [`take`], or if the shapes do not broadcast.
pub fn take_along_axis(a: &Array, indices: &Array, axis: i32) -> Result<Array> {
    let index = normalize_axis("take_along_axis", axis, a.ndim())?;
    let indices = checked::indices("take_along_axis", indices, index, a.shape()[index])?;
    ffi::take_along_axis(a, &indices, axis)
}

/// The counterpart of [`take_along_axis`]: `a` with `values` written at `indices`.
///
/// # Errors
/// As [`take_along_axis`].
pub fn put_along_axis(a: &Array, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
    let index = normalize_axis("put_along_axis", axis, a.ndim())?;
    let indices = checked::indices("put_along_axis", indices, index, a.shape()[index])?;
    ffi::put_along_axis(a, &indices, values, axis)
}

/// `a` with `values` added at `indices` along `axis`; repeated indices add up.
///
/// # Errors
/// As [`take_along_axis`].
pub fn scatter_add_axis(a: &Array, indices: &Array, values: &Array, axis: i32) -> Result<Array> {
    let index = normalize_axis("scatter_add_axis", axis, a.ndim())?;
    let indices = checked::indices("scatter_add_axis", indices, index, a.shape()[index])?;
    ffi::scatter_add_axis(a, &indices, values, axis)
}

/// Slices of the sizes `slice_sizes` (one for each axis of `a`) starting at the positions that
/// `indices` name on `axes`; the other axes start at zero. The index arrays broadcast to one shape
/// `I`; the result is `[I.., slice_sizes..]`.
///
/// # Errors
/// As [`take`], or if the counts do not match.
pub fn gather(a: &Array, indices: &[&Array], axes: &[i32], slice_sizes: &[i32]) -> Result<Array> {
    if slice_sizes.len() != a.ndim() {
        return Err(Error::shape(
            "gather",
            format!("{} slice sizes for {} axes", slice_sizes.len(), a.ndim()),
        ));
    }
    let checked = positions("gather", a, indices, axes, slice_sizes)?;
    let picked = if checked.is_empty() {
        // In a batch, its gradient would be a scatter without indices, see `scattered`.
        ffi::slice(a, &vec![0; a.ndim()], slice_sizes, &vec![1; a.ndim()])?
    } else {
        ffi::gather(a, &checked.iter().collect::<Vec<_>>(), axes, slice_sizes)?
    };
    if slice_sizes.contains(&0) {
        // Its gradient would be a scatter of empty slices, see `scattered`.
        return Array::zeros_dtype(picked.shape(), picked.dtype());
    }
    Ok(picked)
}

/// Index arrays at which a slice of `slice_sizes` stays inside `a`.
fn positions(
    op: &'static str,
    a: &Array,
    indices: &[&Array],
    axes: &[i32],
    slice_sizes: &[i32],
) -> Result<Vec<Array>> {
    if indices.len() != axes.len() {
        return Err(Error::shape(
            op,
            format!("{} index arrays for {} axes", indices.len(), axes.len()),
        ));
    }
    for (axis, (&dim, &slice)) in a.shape().iter().zip(slice_sizes).enumerate() {
        if slice < 0 || slice > dim {
            return Err(Error::shape(
                op,
                format!("a slice of {slice} does not fit axis {axis} of size {dim}"),
            ));
        }
    }
    indices
        .iter()
        .zip(axes)
        .map(|(array, &axis)| {
            let axis = normalize_axis(op, axis, a.ndim())?;
            let room = a.shape()[axis] - slice_sizes[axis] + 1;
            let array = checked::indices(op, array, axis, a.shape()[axis])?;
            if slice_sizes[axis] > 1 {
                // A start counted from the end, or near it, would overrun: limit it to the room.
                let last = Array::scalar_dtype(f64::from(room - 1), array.dtype())?;
                return ffi::minimum(&checked::positions(&array, a.shape()[axis])?, &last);
            }
            Ok(array)
        })
        .collect()
}

/// `a` with slices replaced by `updates`; of repeated positions any one wins.
///
/// `updates` has the shape `[I.., S..]`: the common shape of the index arrays, then the size of
/// the slice on each axis of `a`.
///
/// # Errors
/// As [`gather`].
pub fn scatter(a: &Array, indices: &[&Array], updates: &Array, axes: &[i32]) -> Result<Array> {
    let how = (ffi::scatter as ByIndex, ffi::slice_update as BySlice);
    scattered("scatter", a, indices, updates, axes, how)
}

/// `a` with `updates` added to slices; repeated positions add up.
///
/// # Errors
/// As [`gather`].
pub fn scatter_add(a: &Array, indices: &[&Array], updates: &Array, axes: &[i32]) -> Result<Array> {
    let how = (
        ffi::scatter_add as ByIndex,
        ffi::slice_update_add as BySlice,
    );
    scattered("scatter_add", a, indices, updates, axes, how)
}

/// `a` with slices multiplied by `updates`.
///
/// # Errors
/// As [`gather`].
pub fn scatter_prod(a: &Array, indices: &[&Array], updates: &Array, axes: &[i32]) -> Result<Array> {
    let how = (
        ffi::scatter_prod as ByIndex,
        ffi::slice_update_prod as BySlice,
    );
    scattered("scatter_prod", a, indices, updates, axes, how)
}

/// `a` with slices replaced by the larger of them and `updates`.
///
/// # Errors
/// As [`gather`].
pub fn scatter_max(a: &Array, indices: &[&Array], updates: &Array, axes: &[i32]) -> Result<Array> {
    let how = (
        ffi::scatter_max as ByIndex,
        ffi::slice_update_max as BySlice,
    );
    scattered("scatter_max", a, indices, updates, axes, how)
}

/// `a` with slices replaced by the smaller of them and `updates`.
///
/// # Errors
/// As [`gather`].
pub fn scatter_min(a: &Array, indices: &[&Array], updates: &Array, axes: &[i32]) -> Result<Array> {
    let how = (
        ffi::scatter_min as ByIndex,
        ffi::slice_update_min as BySlice,
    );
    scattered("scatter_min", a, indices, updates, axes, how)
}

type ByIndex = fn(&Array, &[&Array], &Array, &[i32]) -> Result<Array>;
type BySlice = fn(&Array, &Array, &[i32], &[i32], &[i32]) -> Result<Array>;

fn scattered(
    op: &'static str,
    a: &Array,
    indices: &[&Array],
    updates: &Array,
    axes: &[i32],
    (by_index, by_slice): (ByIndex, BySlice),
) -> Result<Array> {
    let checked = scatter_positions(op, a, indices, updates, axes)?;
    let updated = by_index(a, &checked.iter().collect::<Vec<_>>(), updates, axes)?;
    if updates.size() == 0 {
        // MLX divides by the size of the slices.
        return Ok(a.clone());
    }
    if checked.is_empty() {
        // In a batch, MLX would take the updates for an index array. Scalars have no slices.
        let target = ffi::expand_dims(a, &[0])?;
        let part = ffi::expand_dims(&ffi::astype(updates, a.dtype())?, &[0])?;
        let (starts, strides) = (vec![0; target.ndim()], vec![1; target.ndim()]);
        let updated = by_slice(&target, &part, &starts, part.shape(), &strides)?;
        return ffi::squeeze_axes(&updated, &[0]);
    }
    Ok(updated)
}

fn scatter_positions(
    op: &'static str,
    a: &Array,
    indices: &[&Array],
    updates: &Array,
    axes: &[i32],
) -> Result<Vec<Array>> {
    match updates.ndim().checked_sub(a.ndim()) {
        Some(split) => positions(op, a, indices, axes, &updates.shape()[split..]),
        None => Err(Error::shape(
            op,
            format!(
                "updates {:?} have fewer axes than {:?}",
                updates.shape(),
                a.shape()
            ),
        )),
    }
}

/// `a` with the elements where `mask` is true replaced by those of `src`, in order.
///
/// `mask` has the first axes of `a`, whose other axes are `R..`. A `src` of `[N, R..]` gives `[R..]`
/// to each place in turn, and one that broadcasts to `[R..]` serves them all. It takes the dtype of
/// `a`.
///
/// ```
/// # use mlx_core::{Array, ops::indexing::masked_scatter};
/// let a = Array::from_slice(&[1, 2, 3], &[3])?;
/// let mask = Array::from_slice(&[true, false, true], &[3])?;
/// let y = masked_scatter(&a, &mask, &Array::from_slice(&[7, 8], &[2])?)?;
/// assert_eq!(y.to_vec::<i32>()?, [7, 2, 8]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the mask is not boolean, the shapes do not fit, or the mask is computed and
/// asks for more elements than `src` has; one that is still lazy then gets the last again.
pub fn masked_scatter(a: &Array, mask: &Array, src: &Array) -> Result<Array> {
    let op = "masked_scatter";
    let split = mask.ndim();
    let fits = a.shape().starts_with(mask.shape()) && src.ndim() + split <= a.ndim() + 1;
    if mask.dtype() != Dtype::Bool || !fits {
        return Err(Error::shape(
            op,
            format!(
                "mask {}{:?} and source {:?} do not fit {:?}",
                mask.dtype(),
                mask.shape(),
                src.shape(),
                a.shape()
            ),
        ));
    }
    let each = &a.shape()[split..];
    let src = ffi::astype(src, a.dtype())?;
    let whole = ffi::reshape(mask, &[mask.shape(), &vec![1; each.len()]].concat())?;
    if src.ndim() <= each.len() {
        return ffi::r#where(&whole, &ffi::broadcast_to(&src, each)?, a);
    }
    let count = src.shape()[0];
    let src = ffi::broadcast_to(&src, &[&[count], each].concat())?;
    let len = i32::try_from(mask.size())
        .map_err(|_| Error::shape(op, "the mask is longer than an axis can be"))?;
    if a.size() == 0 {
        return Ok(a.clone());
    }
    if count < len && mask.is_available() {
        let wanted = mask.to_vec::<bool>()?.iter().filter(|&&on| on).count();
        if usize::try_from(count).is_ok_and(|count| wanted > count) {
            let message = format!("the mask asks for {wanted} elements, and there are {count}");
            return Err(Error::shape(op, message));
        }
    }
    if count == 0 {
        return Ok(a.clone());
    }
    // MLX's own operation has a gradient that writes behind `src`.
    let ones = ffi::astype(&ffi::reshape(mask, &[len])?, Dtype::Int32)?;
    let before = ffi::cumsum(&ones, 0, false, false, None)?;
    let places = ffi::minimum(&before, &Array::scalar(count - 1)?)?;
    let taken = ffi::take_axis(&src, &ffi::reshape(&places, mask.shape())?, 0)?;
    ffi::r#where(&whole, &taken, a)
}

/// A slice of the sizes `slice_size` that starts at `start` on `axes`, wherever that turns out to
/// be; starts are limited so that the slice stays inside.
///
/// # Errors
/// [`Error::Shape`] if a size does not fit its axis or `start` has not one entry for each of
/// `axes`.
pub fn slice_dynamic(a: &Array, start: &Array, axes: &[i32], slice_size: &[i32]) -> Result<Array> {
    let start = dynamic_start("slice_dynamic", a, start, axes, slice_size)?;
    ffi::slice_dynamic(a, &start, axes, slice_size)
}

/// `a` with `update` written from `start` on `axes`; starts are limited so that it fits.
///
/// # Errors
/// As [`slice_dynamic`].
pub fn slice_update_dynamic(
    a: &Array,
    update: &Array,
    start: &Array,
    axes: &[i32],
) -> Result<Array> {
    if update.ndim() != a.ndim() {
        return Err(Error::shape(
            "slice_update_dynamic",
            "update and array differ in rank",
        ));
    }
    let start = dynamic_start("slice_update_dynamic", a, start, axes, update.shape())?;
    ffi::slice_update_dynamic(a, update, &start, axes)
}

fn dynamic_start(
    op: &'static str,
    a: &Array,
    start: &Array,
    axes: &[i32],
    sizes: &[i32],
) -> Result<Array> {
    if sizes.len() != a.ndim() {
        return Err(Error::shape(
            op,
            format!("{} sizes for {} axes", sizes.len(), a.ndim()),
        ));
    }
    for (axis, (&dim, &size)) in a.shape().iter().zip(sizes).enumerate() {
        if size < 0 || size > dim {
            return Err(Error::shape(
                op,
                format!("a slice of {size} does not fit axis {axis} of size {dim}"),
            ));
        }
    }
    if !start.dtype().is_integer() || start.size() != axes.len() {
        return Err(Error::shape(
            op,
            format!("start must hold {} integers", axes.len()),
        ));
    }
    let mut room = Vec::with_capacity(axes.len());
    for &axis in axes {
        let axis = normalize_axis(op, axis, a.ndim())?;
        room.push(a.shape()[axis] - sizes[axis]);
    }
    let last = super::shape::reshape(&Array::try_from(room)?, &start.shape())?;
    let start = ffi::astype(start, Dtype::Int32)?;
    ffi::maximum(&ffi::minimum(&start, &last)?, &Array::scalar(0)?)
}

/// `x` where `condition` is true, else `y`. All three broadcast; the result has the promoted dtype
/// of `x` and `y`.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast.
pub fn r#where(condition: &Array, x: &Array, y: &Array) -> Result<Array> {
    ffi::r#where(condition, x, y)
}

/// The diagonal `offset` of the matrices in the axes `axis1` and `axis2`, as the last axis.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn diagonal(a: &Array, offset: i32, axis1: i32, axis2: i32) -> Result<Array> {
    limit_offset("diagonal", a, offset)?;
    ffi::diagonal(a, offset, axis1, axis2)
}

/// A matrix's diagonal `k`, or the matrix with a vector on its diagonal `k`.
///
/// # Errors
/// [`Error::Op`] if `a` has neither one nor two axes.
pub fn diag(a: &Array, k: i32) -> Result<Array> {
    limit_offset("diag", a, k)?;
    ffi::diag(a, k)
}

/// MLX adds the offset to dimensions in 32 bits.
fn limit_offset(op: &'static str, a: &Array, offset: i32) -> Result<()> {
    if offset.unsigned_abs() > (1 << 24) {
        return Err(Error::shape(
            op,
            format!("there is no diagonal {offset} in shape {:?}", a.shape()),
        ));
    }
    Ok(())
}
