//! Arithmetic and elementary functions, element by element.

use super::checked;
use crate::ffi::ops as ffi;
use crate::{Array, Error, Result};

/// `lhs + rhs`, element by element.
///
/// The shapes broadcast. The result has the promoted dtype.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
///
/// ```
/// # use mlx_core::{Array, ops::arithmetic::add};
/// let y = add(&Array::scalar(1)?, &Array::scalar(2)?)?;
/// assert_eq!(y.item::<i32>()?, 3);
/// # Ok::<(), mlx_core::Error>(())
/// ```
pub fn add(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::add(lhs, rhs)
}

/// `lhs - rhs`, element by element.
///
/// The shapes broadcast. The result has the promoted dtype.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
pub fn subtract(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::subtract(lhs, rhs)
}

/// `lhs * rhs`, element by element.
///
/// The shapes broadcast. The result has the promoted dtype.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
pub fn multiply(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::multiply(lhs, rhs)
}

/// `lhs / rhs`, element by element: true division.
///
/// The shapes broadcast. Integers and bool become float32; other dtypes promote.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
pub fn divide(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::divide(lhs, rhs)
}

/// `lhs` to the power `rhs`, element by element.
///
/// The shapes broadcast. The result has the promoted dtype.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
#[doc(alias = "pow")]
pub fn power(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::power(lhs, rhs)
}

/// The larger of two elements; NaN wins.
///
/// The shapes broadcast. The result has the promoted dtype.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
pub fn maximum(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::maximum(lhs, rhs)
}

/// The smaller of two elements; NaN wins.
///
/// The shapes broadcast. The result has the promoted dtype.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
pub fn minimum(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::minimum(lhs, rhs)
}

/// `ln(exp(lhs) + exp(rhs))` without overflow.
///
/// The shapes broadcast. Integers become float32; other dtypes promote.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
pub fn logaddexp(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::logaddexp(lhs, rhs)
}

/// The angle of the point `(rhs, lhs)` in radians.
///
/// The shapes broadcast. Integers become float32; other dtypes promote.
///
/// # Errors
/// [`Error::Op`] if the shapes do not broadcast or the dtypes do not allow it.
#[doc(alias = "atan2")]
pub fn arctan2(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::arctan2(lhs, rhs)
}

/// Absolute values.
///
/// Keeps the dtype; complex64 gives float32.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn abs(a: &Array) -> Result<Array> {
    ffi::abs(a)
}

/// Negated values.
///
/// Keeps the dtype. Bool is refused.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn negative(a: &Array) -> Result<Array> {
    ffi::negative(a)
}

/// The values themselves.
///
/// Keeps the dtype. Bool is refused.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn positive(a: &Array) -> Result<Array> {
    ffi::positive(a)
}

/// -1, 0 or 1 by sign.
///
/// Keeps the dtype.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn sign(a: &Array) -> Result<Array> {
    ffi::sign(a)
}

/// `1 / a`.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn reciprocal(a: &Array) -> Result<Array> {
    ffi::reciprocal(a)
}

/// `a * a`.
///
/// Keeps the dtype.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn square(a: &Array) -> Result<Array> {
    ffi::square(a)
}

/// Square roots.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn sqrt(a: &Array) -> Result<Array> {
    ffi::sqrt(a)
}

/// `1 / sqrt(a)`.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn rsqrt(a: &Array) -> Result<Array> {
    ffi::rsqrt(a)
}

/// The largest integers not above.
///
/// Keeps the dtype.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn floor(a: &Array) -> Result<Array> {
    ffi::floor(a)
}

/// The smallest integers not below.
///
/// Keeps the dtype.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn ceil(a: &Array) -> Result<Array> {
    ffi::ceil(a)
}

/// The values without their fractions.
///
/// Keeps the dtype.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn trunc(a: &Array) -> Result<Array> {
    ffi::trunc(a)
}

/// `e^a`.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn exp(a: &Array) -> Result<Array> {
    ffi::exp(a)
}

/// `e^a - 1`, exact near zero.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn expm1(a: &Array) -> Result<Array> {
    ffi::expm1(a)
}

/// Natural logarithms.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn log(a: &Array) -> Result<Array> {
    ffi::log(a)
}

/// Logarithms to base 2.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn log2(a: &Array) -> Result<Array> {
    ffi::log2(a)
}

/// Logarithms to base 10.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn log10(a: &Array) -> Result<Array> {
    ffi::log10(a)
}

/// `ln(1 + a)`, exact near zero.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn log1p(a: &Array) -> Result<Array> {
    ffi::log1p(a)
}

/// Sines of radians.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn sin(a: &Array) -> Result<Array> {
    ffi::sin(a)
}

/// Cosines of radians.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn cos(a: &Array) -> Result<Array> {
    ffi::cos(a)
}

/// Tangents of radians.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn tan(a: &Array) -> Result<Array> {
    ffi::tan(a)
}

/// Inverse sines in radians.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
#[doc(alias = "asin")]
pub fn arcsin(a: &Array) -> Result<Array> {
    ffi::arcsin(a)
}

/// Inverse cosines in radians.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
#[doc(alias = "acos")]
pub fn arccos(a: &Array) -> Result<Array> {
    ffi::arccos(a)
}

/// Inverse tangents in radians.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
#[doc(alias = "atan")]
pub fn arctan(a: &Array) -> Result<Array> {
    ffi::arctan(a)
}

/// Hyperbolic sines.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn sinh(a: &Array) -> Result<Array> {
    ffi::sinh(a)
}

/// Hyperbolic cosines.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn cosh(a: &Array) -> Result<Array> {
    ffi::cosh(a)
}

/// Hyperbolic tangents.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn tanh(a: &Array) -> Result<Array> {
    ffi::tanh(a)
}

/// Inverse hyperbolic sines.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
#[doc(alias = "asinh")]
pub fn arcsinh(a: &Array) -> Result<Array> {
    ffi::arcsinh(a)
}

/// Inverse hyperbolic cosines.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
#[doc(alias = "acosh")]
pub fn arccosh(a: &Array) -> Result<Array> {
    ffi::arccosh(a)
}

/// Inverse hyperbolic tangents.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
#[doc(alias = "atanh")]
pub fn arctanh(a: &Array) -> Result<Array> {
    ffi::arctanh(a)
}

/// Radians as degrees.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn degrees(a: &Array) -> Result<Array> {
    ffi::degrees(a)
}

/// Degrees as radians.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn radians(a: &Array) -> Result<Array> {
    ffi::radians(a)
}

/// `1 / (1 + e^-a)`.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn sigmoid(a: &Array) -> Result<Array> {
    ffi::sigmoid(a)
}

/// The error function.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn erf(a: &Array) -> Result<Array> {
    ffi::erf(a)
}

/// The inverse of the error function.
///
/// Integers and bool become float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn erfinv(a: &Array) -> Result<Array> {
    ffi::erfinv(a)
}

/// Real parts.
///
/// complex64 gives float32; other dtypes stay.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn real(a: &Array) -> Result<Array> {
    ffi::real(a)
}

/// Imaginary parts.
///
/// complex64 gives float32; other dtypes give zeros.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn imag(a: &Array) -> Result<Array> {
    ffi::imag(a)
}

/// Complex conjugates.
///
/// Keeps the dtype.
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
#[doc(alias = "conj")]
pub fn conjugate(a: &Array) -> Result<Array> {
    ffi::conjugate(a)
}

/// Rounds to `decimals` decimal places, halves to even.
///
/// Keeps the dtype; negative `decimals` round to tens, hundreds, ….
///
/// # Errors
/// [`Error::Op`] if the dtype does not allow it.
pub fn round(a: &Array, decimals: i32) -> Result<Array> {
    ffi::round(a, decimals)
}

/// Limits the values to `[a_min, a_max]`; `None` leaves a side open. The bounds broadcast.
///
/// # Errors
/// [`Error::Op`] if both bounds are `None` or the shapes do not broadcast.
pub fn clip(a: &Array, a_min: Option<&Array>, a_max: Option<&Array>) -> Result<Array> {
    ffi::clip(a, a_min, a_max)
}

/// `lhs / rhs` rounded towards minus infinity, element by element.
///
/// The shapes broadcast. The result has the promoted dtype. An integer `rhs` is looked at first,
/// because some divisors would end the process: computed ones are read, lazy ones computed. `lhs`
/// is computed only if it holds signed integers and a divisor is -1.
///
/// # Errors
/// [`Error::Shape`] for an integer division by zero or an overflow; [`Error::Op`] if the shapes do
/// not broadcast.
pub fn floor_divide(lhs: &Array, rhs: &Array) -> Result<Array> {
    checked::divisor("floor_divide", lhs, rhs)?;
    ffi::floor_divide(lhs, rhs)
}

/// The remainder of `lhs / rhs` with the sign of `rhs`, as Python's `%`.
///
/// The shapes broadcast. The result has the promoted dtype. An integer `rhs` is looked at first,
/// because some divisors would end the process: computed ones are read, lazy ones computed. `lhs`
/// is computed only if it holds signed integers and a divisor is -1.
///
/// # Errors
/// [`Error::Shape`] for an integer division by zero or an overflow; [`Error::Op`] if the shapes do
/// not broadcast.
pub fn remainder(lhs: &Array, rhs: &Array) -> Result<Array> {
    checked::divisor("remainder", lhs, rhs)?;
    ffi::remainder(lhs, rhs)
}

/// Quotient and remainder: `(floor_divide(lhs, rhs), remainder(lhs, rhs))`.
///
/// # Errors
/// As [`floor_divide`].
pub fn divmod(lhs: &Array, rhs: &Array) -> Result<(Array, Array)> {
    checked::divisor("divmod", lhs, rhs)?;
    if lhs.dtype().is_floating() || rhs.dtype().is_floating() {
        // MLX's joint operation has no gradient but zero.
        return Ok((ffi::floor_divide(lhs, rhs)?, ffi::remainder(lhs, rhs)?));
    }
    let mut parts = ffi::divmod(lhs, rhs)?.into_iter();
    match (parts.next(), parts.next()) {
        (Some(quotient), Some(remainder)) => Ok((quotient, remainder)),
        _ => Err(Error::Backend(
            "divmod gave fewer than two arrays".to_owned(),
        )),
    }
}
