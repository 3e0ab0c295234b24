//! Twins of ops that check their indices, without the check.
//!
//! The safe ops read an index array that is computed, and add a few operations to the graph to
//! limit one that is not. `cargo bench -p mlx-core --bench checks` says what that costs; it
//! matters for large index arrays and for many small calls, not for a decode step. Each function
//! here gives exactly what the op of the same name gives for indices inside the array.
//!
//! # Safety
//! For all of them: whenever the result is computed, every index must lie within the axis that it
//! selects from, `-len..len` for an axis of `len`, or as the function says. MLX's kernels do not
//! look: an index outside reads or writes memory that belongs to something else.

use crate::ffi::ops as ffi;
use crate::{Array, Result};

use super::quantized::{GatherIndices, QuantizationLayout};

/// [`take`](super::indexing::take) without the check.
///
/// # Safety
/// All `indices` lie within `axis`, and it is not empty; see the [module](self).
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range or the indices are no integers.
pub unsafe fn take_unchecked(a: &Array, indices: &Array, axis: i32) -> Result<Array> {
    ffi::take_axis(a, indices, axis)
}

/// [`take_along_axis`](super::indexing::take_along_axis) without the check.
///
/// # Safety
/// All `indices` lie within `axis`, and it is not empty; see the [module](self).
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not fit.
pub unsafe fn take_along_axis_unchecked(a: &Array, indices: &Array, axis: i32) -> Result<Array> {
    ffi::take_along_axis(a, indices, axis)
}

/// [`put_along_axis`](super::indexing::put_along_axis) without the check.
///
/// # Safety
/// All `indices` lie within `axis`, and it is not empty; see the [module](self).
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not fit.
pub unsafe fn put_along_axis_unchecked(
    a: &Array,
    indices: &Array,
    values: &Array,
    axis: i32,
) -> Result<Array> {
    ffi::put_along_axis(a, indices, values, axis)
}

/// [`scatter_add_axis`](super::indexing::scatter_add_axis) without the check.
///
/// # Safety
/// All `indices` lie within `axis`, and it is not empty; see the [module](self).
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not fit.
pub unsafe fn scatter_add_axis_unchecked(
    a: &Array,
    indices: &Array,
    values: &Array,
    axis: i32,
) -> Result<Array> {
    ffi::scatter_add_axis(a, indices, values, axis)
}

/// [`gather`](super::indexing::gather) without the check.
///
/// # Safety
/// Every slice lies inside `a`: an index, counted from the front or from the end, plus the slice
/// size of its axis is at most the axis. There is an index array, and no slice size is zero, here or,
/// through the gradient, later. See the [module](self).
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the counts do not match.
pub unsafe fn gather_unchecked(
    a: &Array,
    indices: &[&Array],
    axes: &[i32],
    slice_sizes: &[i32],
) -> Result<Array> {
    ffi::gather(a, indices, axes, slice_sizes)
}

/// [`scatter`](super::indexing::scatter) without the check.
///
/// # Safety
/// As [`gather_unchecked`], the slices being those of `updates`, which is not empty.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the counts do not match.
pub unsafe fn scatter_unchecked(
    a: &Array,
    indices: &[&Array],
    updates: &Array,
    axes: &[i32],
) -> Result<Array> {
    ffi::scatter(a, indices, updates, axes)
}

/// [`scatter_add`](super::indexing::scatter_add) without the check.
///
/// # Safety
/// As [`scatter_unchecked`].
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the counts do not match.
pub unsafe fn scatter_add_unchecked(
    a: &Array,
    indices: &[&Array],
    updates: &Array,
    axes: &[i32],
) -> Result<Array> {
    ffi::scatter_add(a, indices, updates, axes)
}

/// [`slice_dynamic`](super::indexing::slice_dynamic) without the limit on starts.
///
/// # Safety
/// `0 <= start && start + slice_size <= len` on each of `axes`; the slice fits the other axes; and
/// `start` holds one integer for each of `axes`. See the [module](self).
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the counts do not match.
pub unsafe fn slice_dynamic_unchecked(
    a: &Array,
    start: &Array,
    axes: &[i32],
    slice_size: &[i32],
) -> Result<Array> {
    ffi::slice_dynamic(a, start, axes, slice_size)
}

/// [`slice_update_dynamic`](super::indexing::slice_update_dynamic) without the limit on starts.
///
/// # Safety
/// As [`slice_dynamic_unchecked`], the slice being `update`.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the counts do not match.
pub unsafe fn slice_update_dynamic_unchecked(
    a: &Array,
    update: &Array,
    start: &Array,
    axes: &[i32],
) -> Result<Array> {
    ffi::slice_update_dynamic(a, update, start, axes)
}

/// [`gather_mm`](super::linalg_basic::gather_mm) without the check.
///
/// # Safety
/// The indices are positions among the flattened leading axes of `a` and of `b`, counted from the
/// front; see the [module](self).
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not fit.
pub unsafe fn gather_mm_unchecked(
    a: &Array,
    b: &Array,
    lhs_indices: Option<&Array>,
    rhs_indices: Option<&Array>,
    sorted_indices: bool,
) -> Result<Array> {
    ffi::gather_mm(a, b, lhs_indices, rhs_indices, sorted_indices)
}

/// [`gather_qmm`](super::quantized::gather_qmm) without the check of the indices.
///
/// # Safety
/// As [`gather_mm_unchecked`].
///
/// # Errors
/// As [`gather_qmm`](super::quantized::gather_qmm), but for indices.
pub unsafe fn gather_qmm_unchecked(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    indices: GatherIndices<'_>,
    transpose: bool,
    layout: QuantizationLayout,
) -> Result<Array> {
    super::quantized::gather_parts(
        x,
        w,
        (scales, biases, None),
        indices,
        (indices.lhs, indices.rhs),
        transpose,
        layout,
    )
}

/// [`segmented_mm`](super::linalg_basic::segmented_mm) without the limit on segments.
///
/// # Safety
/// Every segment has `start <= end <= K`.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not fit.
pub unsafe fn segmented_mm_unchecked(a: &Array, b: &Array, segments: &Array) -> Result<Array> {
    super::linalg_basic::segment_products(a, b, segments)
}

/// [`cross_entropy`](super::fast::cross_entropy) without the check.
///
/// # Safety
/// All `targets` lie in `0..C`: negative ones do not count from the end.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not fit.
pub unsafe fn cross_entropy_unchecked(logits: &Array, targets: &Array) -> Result<Array> {
    ffi::fast_cross_entropy(logits, targets)
}

/// [`floor_divide`](super::arithmetic::floor_divide) without a look at the divisors.
///
/// # Safety
/// Of integers, no divisor is zero, and none is -1 where the dividend is the smallest integer: the
/// processor would stop the program.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast.
pub unsafe fn floor_divide_unchecked(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::floor_divide(lhs, rhs)
}

/// [`remainder`](super::arithmetic::remainder) without a look at the divisors.
///
/// # Safety
/// As [`floor_divide_unchecked`].
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast.
pub unsafe fn remainder_unchecked(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::remainder(lhs, rhs)
}
