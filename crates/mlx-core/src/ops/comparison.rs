//! Comparisons, element by element and whole.

use crate::ffi::ops as ffi;
use crate::{Array, Result};

/// `lhs == rhs`; NaN equals nothing.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn equal(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::equal(lhs, rhs)
}

/// `lhs != rhs`.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn not_equal(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::not_equal(lhs, rhs)
}

/// `lhs > rhs`.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn greater(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::greater(lhs, rhs)
}

/// `lhs >= rhs`.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn greater_equal(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::greater_equal(lhs, rhs)
}

/// `lhs < rhs`.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn less(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::less(lhs, rhs)
}

/// `lhs <= rhs`.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn less_equal(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::less_equal(lhs, rhs)
}

/// Where the elements are NaN.
///
/// The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn isnan(a: &Array) -> Result<Array> {
    ffi::isnan(a)
}

/// Where the elements are infinite.
///
/// The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn isinf(a: &Array) -> Result<Array> {
    ffi::isinf(a)
}

/// Where the elements are neither infinite nor NaN.
///
/// The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn isfinite(a: &Array) -> Result<Array> {
    ffi::isfinite(a)
}

/// Where the elements are positive infinity.
///
/// The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn isposinf(a: &Array) -> Result<Array> {
    ffi::isposinf(a)
}

/// Where the elements are negative infinity.
///
/// The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn isneginf(a: &Array) -> Result<Array> {
    ffi::isneginf(a)
}

/// Whether two arrays have the same shape and elements: a bool scalar.
///
/// With `equal_nan`, NaN equals NaN.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtypes cannot be compared.
pub fn array_equal(lhs: &Array, rhs: &Array, equal_nan: bool) -> Result<Array> {
    ffi::array_equal(lhs, rhs, equal_nan)
}

/// Whether all elements are close: `|lhs - rhs| <= atol + rtol * |rhs|`, a bool scalar.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast.
pub fn allclose(lhs: &Array, rhs: &Array, rtol: f64, atol: f64) -> Result<Array> {
    ffi::allclose(lhs, rhs, rtol, atol, false)
}

/// How near numbers must be to count as close, for [`isclose_with`].
#[must_use]
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CloseOptions {
    /// Relative to the right operand (default 1e-5).
    pub rtol: f64,
    /// Absolute (default 1e-8).
    pub atol: f64,
    /// Whether NaN is close to NaN (default false).
    pub equal_nan: bool,
}

impl Default for CloseOptions {
    fn default() -> Self {
        CloseOptions {
            rtol: 1e-5,
            atol: 1e-8,
            equal_nan: false,
        }
    }
}

impl CloseOptions {
    /// Relative to the right operand (default 1e-5).
    pub fn rtol(mut self, rtol: f64) -> Self {
        self.rtol = rtol;
        self
    }

    /// Absolute (default 1e-8).
    pub fn atol(mut self, atol: f64) -> Self {
        self.atol = atol;
        self
    }

    /// Whether NaN is close to NaN (default false).
    pub fn equal_nan(mut self, equal_nan: bool) -> Self {
        self.equal_nan = equal_nan;
        self
    }
}

/// [`isclose`] with options; `all` of it is [`allclose`] with options.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast.
pub fn isclose_with(lhs: &Array, rhs: &Array, options: CloseOptions) -> Result<Array> {
    ffi::isclose(lhs, rhs, options.rtol, options.atol, options.equal_nan)
}

/// Where elements are close: `|lhs - rhs| <= atol + rtol * |rhs|`.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast.
pub fn isclose(lhs: &Array, rhs: &Array, rtol: f64, atol: f64) -> Result<Array> {
    ffi::isclose(lhs, rhs, rtol, atol, false)
}
