//! Reshaping, joining and splitting. All keep the dtype; joining promotes.

use crate::ffi::ops as ffi;
use crate::shape::{checked_size, normalize_axis};
use crate::{Array, Error, IntoShape, Result};

/// The same elements in row-major order under another shape; one dimension may be -1.
///
/// ```
/// # use mlx_core::{Array, ops::shape::reshape};
/// let x = reshape(&Array::arange::<i32>(0.0, 6.0, 1.0)?, &[2, -1])?;
/// assert_eq!(x.shape(), [2, 3]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if the sizes differ, or a dimension is negative and not the only -1.
pub fn reshape(a: &Array, shape: &(impl IntoShape + ?Sized)) -> Result<Array> {
    let dims = shape.dims()?;
    let inferred = dims.iter().filter(|&&dim| dim == -1).count();
    if inferred > 1 || dims.iter().any(|&dim| dim < -1) {
        return Err(Error::shape(
            "reshape",
            format!("shape {dims:?} may hold one -1 and no other negative dimension"),
        ));
    }
    if inferred == 0 && checked_size("reshape", &dims, a.dtype())? != a.size() {
        return Err(Error::shape(
            "reshape",
            format!("{} elements do not fill shape {dims:?}", a.size()),
        ));
    }
    ffi::reshape(a, &dims)
}

/// Splits `axis` into axes of the sizes `shape`, one of which may be -1.
///
/// # Errors
/// [`Error::Shape`] if the sizes do not multiply to the axis.
pub fn unflatten(a: &Array, axis: i32, shape: &(impl IntoShape + ?Sized)) -> Result<Array> {
    let dims = shape.dims()?;
    let index = normalize_axis("unflatten", axis, a.ndim())?;
    let len = a.shape()[index];
    // MLX divides by the product of the others to infer a dimension, also where that is zero.
    let mut parts = dims.to_vec();
    let known = parts.iter().filter(|&&dim| dim != -1);
    let product = known.fold(1i64, |product, &dim| product.saturating_mul(i64::from(dim)));
    if let Some(place) = parts.iter().position(|&dim| dim == -1)
        && product > 0
    {
        parts[place] = i32::try_from(i64::from(len) / product).unwrap_or(-1);
    }
    let filled = parts
        .iter()
        .fold(1i64, |product, &dim| product.saturating_mul(i64::from(dim)));
    if parts.iter().any(|&dim| dim < 0) || filled != i64::from(len) {
        return Err(Error::shape(
            "unflatten",
            format!("axis {index} of size {len} does not become {dims:?}"),
        ));
    }
    let mut full: Vec<i32> = a.shape().to_vec();
    full.splice(index..=index, parts);
    reshape(a, &full)
}

/// Merges the axes from `start_axis` to `end_axis`, both included.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn flatten(a: &Array, start_axis: i32, end_axis: i32) -> Result<Array> {
    ffi::flatten(a, start_axis, end_axis)
}

/// Drops every axis of size 1.
///
/// # Errors
/// None for a valid array.
pub fn squeeze(a: &Array) -> Result<Array> {
    ffi::squeeze(a)
}

/// Drops the axes named, which must have size 1.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range, named twice or of another size.
pub fn squeeze_axes(a: &Array, axes: &[i32]) -> Result<Array> {
    ffi::squeeze_axes(a, axes)
}

/// Adds axes of size 1 at these positions of the result.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range or named twice.
pub fn expand_dims(a: &Array, axes: &[i32]) -> Result<Array> {
    ffi::expand_dims(a, axes)
}

/// Reverses the order of the axes.
///
/// # Errors
/// None for a valid array.
pub fn transpose(a: &Array) -> Result<Array> {
    ffi::transpose(a)
}

/// Reorders the axes: axis `i` of the result is axis `axes[i]` of `a`.
///
/// # Errors
/// [`Error::Op`] if `axes` is not a permutation.
#[doc(alias = "permute_dims")]
pub fn transpose_axes(a: &Array, axes: &[i32]) -> Result<Array> {
    ffi::transpose_axes(a, axes)
}

/// Swaps the last two axes.
///
/// # Errors
/// [`Error::Op`] if there are fewer than two.
pub fn matrix_transpose(a: &Array) -> Result<Array> {
    ffi::matrix_transpose(a)
}

/// Exchanges two axes.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn swapaxes(a: &Array, axis1: i32, axis2: i32) -> Result<Array> {
    ffi::swapaxes(a, axis1, axis2)
}

/// Moves one axis, keeping the order of the others.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn moveaxis(a: &Array, source: i32, destination: i32) -> Result<Array> {
    ffi::moveaxis(a, source, destination)
}

/// Repeats axes of size 1, and adds leading ones, without a copy.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast.
pub fn broadcast_to(a: &Array, shape: &(impl IntoShape + ?Sized)) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("broadcast_to", &dims, a.dtype())?;
    ffi::broadcast_to(a, &dims)
}

/// All arrays broadcast to their common shape.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast.
pub fn broadcast_arrays(arrays: &[&Array]) -> Result<Vec<Array>> {
    ffi::broadcast_arrays(arrays)
}

/// The array laid out densely: row-major, or column-major too if `allow_col_major`.
///
/// # Errors
/// None for a valid array.
pub fn contiguous(a: &Array, allow_col_major: bool) -> Result<Array> {
    ffi::contiguous(a, allow_col_major)
}

/// At least one dimension: scalars become `[1]`.
///
/// # Errors
/// None for a valid array.
pub fn atleast_1d(a: &Array) -> Result<Array> {
    ffi::atleast_1d(a)
}

/// At least two dimensions.
///
/// # Errors
/// None for a valid array.
pub fn atleast_2d(a: &Array) -> Result<Array> {
    ffi::atleast_2d(a)
}

/// At least three dimensions.
///
/// # Errors
/// None for a valid array.
pub fn atleast_3d(a: &Array) -> Result<Array> {
    ffi::atleast_3d(a)
}

/// Joins arrays along an existing axis.
///
/// # Errors
/// [`Error::EmptyInput`] without arrays; [`Error::Op`] if their other axes differ.
#[doc(alias = "concat")]
pub fn concatenate(arrays: &[&Array], axis: i32) -> Result<Array> {
    if arrays.is_empty() {
        return Err(Error::empty_input("concatenate: `arrays`"));
    }
    ffi::concatenate(arrays, axis)
}

/// Joins arrays of one shape along a new axis.
///
/// # Errors
/// [`Error::EmptyInput`] without arrays; [`Error::Op`] if their shapes differ.
pub fn stack(arrays: &[&Array], axis: i32) -> Result<Array> {
    if arrays.is_empty() {
        return Err(Error::empty_input("stack: `arrays`"));
    }
    ffi::stack(arrays, axis)
}

/// Results of one MLX operation refer to each other, so their cost grows with the square of their
/// number; more parts than this are made one by one.
const MOST_SIBLINGS: i32 = 256;

/// `a[start..stop]` along one axis.
fn between(a: &Array, axis: usize, start: i32, stop: i32) -> Result<Array> {
    let mut starts = vec![0; a.ndim()];
    let mut stops = a.shape().to_vec();
    starts[axis] = start;
    stops[axis] = stop;
    ffi::slice(a, &starts, &stops, &vec![1; a.ndim()])
}

/// So many arrays would fill memory with handles alone; views reach longer axes.
const MOST_PARTS: i32 = 1 << 20;

fn check_parts(op: &'static str, parts: i32) -> Result<()> {
    if parts <= MOST_PARTS {
        return Ok(());
    }
    let message = format!("{parts} parts are more than {MOST_PARTS}; slice what you need");
    Err(Error::shape(op, message))
}

/// Cuts `axis` into `num_splits` equal parts.
///
/// # Errors
/// [`Error::Shape`] if `num_splits` is not positive or over a million; [`Error::Op`] if it does not
/// divide the axis.
pub fn split(a: &Array, num_splits: i32, axis: i32) -> Result<Vec<Array>> {
    if num_splits <= 0 {
        return Err(Error::shape(
            "split",
            format!("{num_splits} parts are none"),
        ));
    }
    let index = normalize_axis("split", axis, a.ndim())?;
    let len = a.shape()[index];
    if num_splits <= MOST_SIBLINGS || len % num_splits != 0 {
        return ffi::split(a, num_splits, axis);
    }
    if len == 0 {
        return Err(Error::shape(
            "split",
            format!("{num_splits} parts of an empty axis"),
        ));
    }
    check_parts("split", num_splits)?;
    let part = len / num_splits;
    (0..num_splits)
        .map(|i| between(a, index, i * part, (i + 1) * part))
        .collect()
}

/// Cuts `axis` before each of the `indices`.
///
/// # Errors
/// [`Error::Shape`] if the indices are not ascending within the axis.
pub fn split_at(a: &Array, indices: &[i32], axis: i32) -> Result<Vec<Array>> {
    let len = a.dim(axis)?;
    let mut previous = 0;
    for &index in indices {
        if index < previous || index > len {
            return Err(Error::shape(
                "split_at",
                format!("indices {indices:?} do not ascend within an axis of size {len}"),
            ));
        }
        previous = index;
    }
    if indices.len() < MOST_SIBLINGS.unsigned_abs() as usize {
        return ffi::split_at(a, indices, axis);
    }
    let index = normalize_axis("split_at", axis, a.ndim())?;
    let starts = std::iter::once(&0).chain(indices);
    let stops = indices.iter().chain(std::iter::once(&len));
    starts
        .zip(stops)
        .map(|(&start, &stop)| between(a, index, start, stop))
        .collect()
}

/// The slices along `axis`, without that axis.
///
/// # Errors
/// [`Error::Op`] if the axis is out of range; [`Error::Shape`] if it is longer than a million.
pub fn unstack(a: &Array, axis: i32) -> Result<Vec<Array>> {
    let index = normalize_axis("unstack", axis, a.ndim())?;
    let len = a.shape()[index];
    if len <= MOST_SIBLINGS {
        return ffi::unstack(a, axis);
    }
    check_parts("unstack", len)?;
    (0..len)
        .map(|i| squeeze_axes(&between(a, index, i, i + 1)?, &[axis]))
        .collect()
}

/// Reverses the order of the elements along every axis.
///
/// # Errors
/// None for a valid array.
pub fn flip(a: &Array) -> Result<Array> {
    ffi::flip(a)
}

/// Reverses the order of the elements along some axes.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn flip_axes(a: &Array, axes: &[i32]) -> Result<Array> {
    ffi::flip_axes(a, axes)
}

/// Repeats each element of the flattened array.
///
/// # Errors
/// [`Error::Shape`] if `repeats` is negative or the result absurdly large.
pub fn repeat(a: &Array, repeats: i32) -> Result<Array> {
    let size = i32::try_from(a.size()).map_err(|_| Error::shape("repeat", "too many elements"))?;
    checked_size("repeat", &[size, repeats], a.dtype())?;
    ffi::repeat(a, repeats)
}

/// Repeats each slice along `axis`.
///
/// # Errors
/// [`Error::Shape`] if `repeats` is negative or the axis is out of range.
pub fn repeat_axis(a: &Array, repeats: i32, axis: i32) -> Result<Array> {
    let mut dims = a.shape().to_vec();
    let index = normalize_axis("repeat", axis, a.ndim())?;
    dims[index] = dims[index].checked_mul(repeats).ok_or_else(|| {
        Error::shape(
            "repeat",
            format!("{repeats} repeats make the axis longer than an axis can be"),
        )
    })?;
    checked_size("repeat", &dims, a.dtype())?;
    ffi::repeat_axis(a, repeats, axis)
}

/// Repeats the whole array `reps[i]` times along axis `i`.
///
/// # Errors
/// [`Error::Shape`] if a count is negative or the result absurdly large.
pub fn tile(a: &Array, reps: &[i32]) -> Result<Array> {
    let rank = a.ndim().max(reps.len());
    let pad = |values: &[i32]| {
        let mut padded = vec![1; rank - values.len()];
        padded.extend_from_slice(values);
        padded
    };
    let dims = pad(a.shape())
        .into_iter()
        .zip(pad(reps))
        .map(|(dim, count)| dim.checked_mul(count))
        .collect::<Option<Vec<i32>>>()
        .ok_or_else(|| Error::shape("tile", format!("{reps:?} makes an axis too long")))?;
    checked_size("tile", &dims, a.dtype())?;
    ffi::tile(a, reps)
}

/// Moves the elements of the flattened array by `shift`, the last ones to the front.
///
/// # Errors
/// None for a valid array.
pub fn roll(a: &Array, shift: i32) -> Result<Array> {
    ffi::roll(a, &[shift])
}

/// Moves the elements by `shift[i]` along `axes[i]`.
///
/// # Errors
/// [`Error::Op`] if the lengths differ or an axis is out of range.
pub fn roll_axes(a: &Array, shift: &[i32], axes: &[i32]) -> Result<Array> {
    ffi::roll_axes(a, shift, axes)
}

/// How [`pad`] fills.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PadMode {
    /// With the value given.
    #[default]
    Constant,
    /// With the nearest element.
    Edge,
    /// With the elements mirrored at the first and the last one, which are not repeated.
    Reflect,
    /// With the elements mirrored at the edge, the first and the last one repeated.
    Symmetric,
}

impl PadMode {
    /// MLX's name: `"constant"`, `"edge"`, `"reflect"`, `"symmetric"`.
    pub fn as_str(self) -> &'static str {
        match self {
            PadMode::Constant => "constant",
            PadMode::Edge => "edge",
            PadMode::Reflect => "reflect",
            PadMode::Symmetric => "symmetric",
        }
    }

    /// The mode of this [name](PadMode::as_str).
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Constant, Self::Edge, Self::Reflect, Self::Symmetric]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }

    /// Whether so many elements can be added to an axis of `dim`.
    pub(super) fn check(self, op: &'static str, dim: i32, before: i32, after: i32) -> Result<()> {
        // MLX records two operations for each time that a mirrored axis fits the padding.
        const MOST_REPEATS: i32 = 1 << 12;
        if self == PadMode::Constant || (before == 0 && after == 0) {
            return Ok(());
        }
        if dim == 0 {
            return Err(Error::shape(
                op,
                "an empty axis has no elements to pad with",
            ));
        }
        let mirrored = match self {
            PadMode::Reflect => (dim - 1).max(1),
            PadMode::Symmetric => dim,
            _ => return Ok(()),
        };
        if before.max(after) / mirrored > MOST_REPEATS {
            return Err(Error::shape(
                op,
                format!("({before}, {after}) mirrors an axis of size {dim} too often"),
            ));
        }
        Ok(())
    }
}

/// Adds `widths[i].0` elements before and `widths[i].1` after axis `i`; `value` is a scalar.
///
/// ```
/// # use mlx_core::{Array, ops::shape::{PadMode, pad}};
/// let (x, zero) = (Array::arange::<i32>(0.0, 3.0, 1.0)?, Array::scalar(0)?);
/// let y = pad(&x, &[(2, 1)], &zero, PadMode::Reflect)?;
/// assert_eq!(y.to_vec::<i32>()?, [2, 1, 0, 1, 2, 1]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if there is not one width for each axis, one is negative, an empty axis has
/// nothing to repeat or mirror, a mirrored axis fits its padding more than 4096 times, or `value` is
/// not one number.
pub fn pad(a: &Array, widths: &[(i32, i32)], value: &Array, mode: PadMode) -> Result<Array> {
    if widths.len() != a.ndim() {
        return Err(Error::shape(
            "pad",
            format!("{} widths for {} axes", widths.len(), a.ndim()),
        ));
    }
    let mut dims = Vec::with_capacity(widths.len());
    for (&(before, after), &dim) in widths.iter().zip(a.shape()) {
        let total = before
            .checked_add(after)
            .and_then(|sum| sum.checked_add(dim));
        match total {
            Some(total) if before >= 0 && after >= 0 => dims.push(total),
            _ => {
                return Err(Error::shape(
                    "pad",
                    format!("({before}, {after}) is no padding for an axis of size {dim}"),
                ));
            }
        }
        mode.check("pad", dim, before, after)?;
    }
    checked_size("pad", &dims, a.dtype())?;
    if value.size() != 1 {
        let message = format!(
            "the value is one number, not an array of {:?}",
            value.shape()
        );
        return Err(Error::shape("pad", message));
    }
    let axes = crate::shape::every_axis(a.ndim());
    let low: Vec<i32> = widths.iter().map(|width| width.0).collect();
    let high: Vec<i32> = widths.iter().map(|width| width.1).collect();
    if mode != PadMode::Constant {
        return ffi::pad(a, &axes, &low, &high, value, mode.as_str());
    }
    // MLX has neither a gradient nor a batched form for the value, and crashes when asked for one.
    if value.is_available() {
        // Perhaps computed within a function that is differentiated: then a constant.
        let value = ffi::stop_gradient(value)?;
        return ffi::pad(a, &axes, &low, &high, &value, "constant");
    }
    let zero = Array::scalar_dtype(0.0, a.dtype())?;
    let padded = ffi::pad(a, &axes, &low, &high, &zero, "constant")?;
    let ones = Array::scalar(true)?.broadcast_to(a.shape())?;
    let inside = ffi::pad(
        &ones,
        &axes,
        &low,
        &high,
        &Array::scalar(false)?,
        "constant",
    )?;
    let value = ffi::astype(&ffi::reshape(value, &[])?, a.dtype())?;
    ffi::r#where(&inside, &padded, &value)
}

/// Coordinate grids of one-dimensional arrays; `sparse` leaves them unexpanded. `indexing` is
/// `"xy"` or `"ij"`.
///
/// # Errors
/// [`Error::Op`] if an array is not one-dimensional or `indexing` is neither.
pub fn meshgrid(arrays: &[&Array], sparse: bool, indexing: &str) -> Result<Vec<Array>> {
    ffi::meshgrid(arrays, sparse, indexing)
}
