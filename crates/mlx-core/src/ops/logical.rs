//! Logic and bits.

use crate::ffi::ops as ffi;
use crate::{Array, Result};

/// `!a`; every non-zero number counts as true.
///
/// The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn logical_not(a: &Array) -> Result<Array> {
    ffi::logical_not(a)
}

/// `lhs && rhs`.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn logical_and(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::logical_and(lhs, rhs)
}

/// `lhs || rhs`.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn logical_or(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::logical_or(lhs, rhs)
}

/// Where exactly one of the two is true.
///
/// The shapes broadcast. The result is bool.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn logical_xor(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::logical_xor(lhs, rhs)
}

/// `lhs & rhs`, bit by bit.
///
/// The shapes broadcast. The result has the promoted dtype. Integers and bool only.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn bitwise_and(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::bitwise_and(lhs, rhs)
}

/// `lhs | rhs`, bit by bit.
///
/// The shapes broadcast. The result has the promoted dtype. Integers and bool only.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn bitwise_or(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::bitwise_or(lhs, rhs)
}

/// `lhs ^ rhs`, bit by bit.
///
/// The shapes broadcast. The result has the promoted dtype. Integers and bool only.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
pub fn bitwise_xor(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::bitwise_xor(lhs, rhs)
}

/// `lhs << rhs`.
///
/// The shapes broadcast. The result has the promoted dtype. Integers and bool only.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
#[doc(alias = "bitwise_left_shift")]
pub fn left_shift(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::left_shift(lhs, rhs)
}

/// `lhs >> rhs`.
///
/// The shapes broadcast. The result has the promoted dtype. Integers and bool only.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the shapes do not broadcast or the dtypes do not allow it.
#[doc(alias = "bitwise_right_shift")]
pub fn right_shift(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::right_shift(lhs, rhs)
}

/// `!a`, bit by bit.
///
/// Keeps the dtype. Integers and bool only.
///
/// # Errors
/// [`Error::Op`](crate::Error::Op) if the dtype does not allow it.
pub fn bitwise_invert(a: &Array) -> Result<Array> {
    ffi::bitwise_invert(a)
}
