//! Reductions, softmax and scans. Whole-array forms take only the array; `…_axes` forms take axes.

use crate::ffi::ops as ffi;
use crate::shape::every_axis;
use crate::{Array, Dtype, DtypeCategory, Result};

/// The sum of all elements: a scalar.
///
/// bool, int8 and int16 give int32, uint8 and uint16 give uint32; other dtypes stay. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn sum(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::sum(a, &every_axis(a.ndim()), keepdims)
}

/// [`sum`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`sum`], or if an axis is out of range or named twice.
pub fn sum_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::sum(a, axes, keepdims)
}

/// The product of all elements: a scalar.
///
/// bool, int8 and int16 give int32, uint8 and uint16 give uint32; other dtypes stay. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn prod(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::prod(a, &every_axis(a.ndim()), keepdims)
}

/// [`prod`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`prod`], or if an axis is out of range or named twice.
pub fn prod_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::prod(a, axes, keepdims)
}

/// The mean of all elements: a scalar.
///
/// Integers and bool become float32; other dtypes stay. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn mean(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::mean(a, &every_axis(a.ndim()), keepdims)
}

/// [`mean`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`mean`], or if an axis is out of range or named twice.
pub fn mean_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::mean(a, axes, keepdims)
}

/// The median of all elements: a scalar.
///
/// Integers and bool become float32; other dtypes stay. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it, or the array is empty.
pub fn median(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::median(a, &every_axis(a.ndim()), keepdims)
}

/// [`median`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`median`], or if an axis is out of range or named twice.
pub fn median_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::median(a, axes, keepdims)
}

/// The largest element: a scalar.
///
/// Keeps the dtype. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it, or the array is empty.
pub fn max(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::max(a, &every_axis(a.ndim()), keepdims)
}

/// [`max`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`max`], or if an axis is out of range or named twice.
pub fn max_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::max(a, axes, keepdims)
}

/// The smallest element: a scalar.
///
/// Keeps the dtype. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it, or the array is empty.
pub fn min(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::min(a, &every_axis(a.ndim()), keepdims)
}

/// [`min`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`min`], or if an axis is out of range or named twice.
pub fn min_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::min(a, axes, keepdims)
}

/// Whether every element is true: a bool scalar.
///
/// Non-zero numbers count as true. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn all(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::all(a, &every_axis(a.ndim()), keepdims)
}

/// [`all`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`all`], or if an axis is out of range or named twice.
pub fn all_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::all(a, axes, keepdims)
}

/// Whether some element is true: a bool scalar.
///
/// Non-zero numbers count as true. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn any(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::any(a, &every_axis(a.ndim()), keepdims)
}

/// [`any`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`any`], or if an axis is out of range or named twice.
pub fn any_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::any(a, axes, keepdims)
}

/// `ln(sum(exp(a)))` without overflow: a scalar.
///
/// Integers and bool become float32; other dtypes stay. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn logsumexp(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::logsumexp(a, &every_axis(a.ndim()), keepdims)
}

/// [`logsumexp`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`logsumexp`], or if an axis is out of range or named twice.
pub fn logsumexp_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::logsumexp(a, axes, keepdims)
}

/// How many elements are not zero: a scalar.
///
/// The result is an integer. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn count_nonzero(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::count_nonzero(a, &every_axis(a.ndim()), keepdims)
}

/// [`count_nonzero`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`count_nonzero`], or if an axis is out of range or named twice.
pub fn count_nonzero_axes(a: &Array, axes: &[i32], keepdims: bool) -> Result<Array> {
    ffi::count_nonzero(a, axes, keepdims)
}

/// The variance of all elements: a scalar.
///
/// Divides by `N - ddof`. Integers become float32, complex64 gives float32. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn var(a: &Array, keepdims: bool, ddof: i32) -> Result<Array> {
    ffi::var(a, &every_axis(a.ndim()), keepdims, ddof)
}

/// [`var`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`var`], or if an axis is out of range or named twice.
pub fn var_axes(a: &Array, axes: &[i32], keepdims: bool, ddof: i32) -> Result<Array> {
    ffi::var(a, axes, keepdims, ddof)
}

/// The standard deviation of all elements: a scalar.
///
/// Divides by `N - ddof`. Integers become float32, complex64 gives float32. With `keepdims` the reduced axes stay with size 1.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn std(a: &Array, keepdims: bool, ddof: i32) -> Result<Array> {
    ffi::std(a, &every_axis(a.ndim()), keepdims, ddof)
}

/// [`std()`] over some axes; negative axes count from the end.
///
/// # Errors
/// As [`std()`], or if an axis is out of range or named twice.
pub fn std_axes(a: &Array, axes: &[i32], keepdims: bool, ddof: i32) -> Result<Array> {
    ffi::std(a, axes, keepdims, ddof)
}

/// The position of the largest element of the flattened array: a uint32 scalar.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the array is empty.
pub fn argmax(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::argmax(a, keepdims)
}

/// The position of the largest element along one axis, in uint32.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range or empty.
pub fn argmax_axis(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    ffi::argmax_axis(a, axis, keepdims)
}

/// The position of the smallest element of the flattened array: a uint32 scalar.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the array is empty.
pub fn argmin(a: &Array, keepdims: bool) -> Result<Array> {
    ffi::argmin(a, keepdims)
}

/// The position of the smallest element along one axis, in uint32.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range or empty.
pub fn argmin_axis(a: &Array, axis: i32, keepdims: bool) -> Result<Array> {
    ffi::argmin_axis(a, axis, keepdims)
}

/// The smallest and the largest element in one pass.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the array is empty.
pub fn minmax(a: &Array, keepdims: bool) -> Result<(Array, Array)> {
    ffi::minmax(a, &every_axis(a.ndim()), keepdims)
}

/// The sum along the diagonal `offset` of the matrices in the axes `axis1` and `axis2`.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if an axis is out of range.
pub fn trace(a: &Array, offset: i32, axis1: i32, axis2: i32) -> Result<Array> {
    sum_axes(
        &super::indexing::diagonal(a, offset, axis1, axis2)?,
        &[-1],
        false,
    )
}

/// How [`softmax_with`] computes.
#[must_use]
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default)]
pub struct SoftmaxOptions {
    /// Sum in float32 also for 16-bit inputs.
    pub precise: bool,
}

impl SoftmaxOptions {
    /// Sums in float32 also for 16-bit inputs.
    pub fn precise(mut self, precise: bool) -> Self {
        self.precise = precise;
        self
    }
}

/// `exp(a) / sum(exp(a))` over `axes`, without overflow.
///
/// Integers become float32; other dtypes stay.
///
/// ```
/// # use mlx_core::{Array, ops::reduction::softmax};
/// let y = softmax(&Array::zeros::<f32>(&[4])?, &[-1])?;
/// assert_eq!(y.to_vec::<f32>()?, [0.25; 4]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if an axis is out of range or named twice.
pub fn softmax(a: &Array, axes: &[i32]) -> Result<Array> {
    softmax_with(a, axes, SoftmaxOptions::default())
}

/// [`softmax`] with options.
///
/// # Errors
/// As [`softmax`].
pub fn softmax_with(a: &Array, axes: &[i32], options: SoftmaxOptions) -> Result<Array> {
    ffi::softmax(a, axes, options.precise)
}

/// How a scan runs.
#[must_use]
#[non_exhaustive]
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions {
    /// From the end of the axis to its start.
    pub reverse: bool,
    /// Whether each result includes its own element.
    pub inclusive: bool,
    /// What running sums and products are computed in; the operand's dtype if `None`.
    pub dtype: Option<Dtype>,
}

impl Default for ScanOptions {
    fn default() -> Self {
        ScanOptions {
            reverse: false,
            inclusive: true,
            dtype: None,
        }
    }
}

impl ScanOptions {
    /// From the end of the axis to its start.
    pub fn reverse(mut self, reverse: bool) -> Self {
        self.reverse = reverse;
        self
    }

    /// Whether each result includes its own element.
    pub fn inclusive(mut self, inclusive: bool) -> Self {
        self.inclusive = inclusive;
        self
    }

    /// What running sums and products are computed in.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }
}

/// Running sums along `axis`.
///
/// Keeps the dtype. Same shape.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range.
#[doc(alias = "cumulative_sum")]
pub fn cumsum(a: &Array, axis: i32, options: ScanOptions) -> Result<Array> {
    ffi::cumsum(a, axis, options.reverse, options.inclusive, options.dtype)
}

/// Running products along `axis`.
///
/// Keeps the dtype. Same shape.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range.
#[doc(alias = "cumulative_prod")]
pub fn cumprod(a: &Array, axis: i32, options: ScanOptions) -> Result<Array> {
    ffi::cumprod(a, axis, options.reverse, options.inclusive, options.dtype)
}

/// Running maxima along `axis`.
///
/// Keeps the dtype. Same shape.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range.
pub fn cummax(a: &Array, axis: i32, options: ScanOptions) -> Result<Array> {
    let scan = |a: &Array| ffi::cummax(a, axis, options.reverse, options.inclusive);
    running(a, f64::NEG_INFINITY, options, scan)
}

/// Running minima along `axis`.
///
/// Keeps the dtype. Same shape.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range.
pub fn cummin(a: &Array, axis: i32, options: ScanOptions) -> Result<Array> {
    let scan = |a: &Array| ffi::cummin(a, axis, options.reverse, options.inclusive);
    running(a, f64::INFINITY, options, scan)
}

/// A running extreme whose gradient stays inside the array.
///
/// MLX's gradient looks for the element that equals the extreme, and writes far outside where none
/// does: at a NaN, and in exclusive scans of complex numbers. Here the gradient goes through a scan
/// that knows no NaN (`neutral` in its place), and NaN gets none.
fn running(
    a: &Array,
    neutral: f64,
    options: ScanOptions,
    scan: impl Fn(&Array) -> Result<Array>,
) -> Result<Array> {
    let extremes = scan(a)?;
    if !a.dtype().is_subtype(DtypeCategory::Inexact) {
        return Ok(extremes);
    }
    let constant = ffi::stop_gradient(&extremes)?;
    if a.dtype() == Dtype::Complex64 && !options.inclusive {
        return Ok(constant);
    }
    let neutral = Array::scalar_dtype(neutral, a.dtype())?;
    let ordered = scan(&ffi::r#where(&ffi::isnan(a)?, &neutral, a)?)?;
    ffi::r#where(&ffi::equal(&constant, &ordered)?, &ordered, &constant)
}

/// Running `ln(sum(exp(…)))` along `axis`.
///
/// Keeps the dtype. Same shape.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the axis is out of range.
pub fn logcumsumexp(a: &Array, axis: i32, options: ScanOptions) -> Result<Array> {
    ffi::logcumsumexp(a, axis, options.reverse, options.inclusive)
}
