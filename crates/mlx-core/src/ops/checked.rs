//! Indices that cannot leave their array, and divisors that cannot end the process.
//!
//! MLX's CPU kernels trust every index. Here an index array that is computed already is read and
//! refused if it points outside; one that is still lazy is limited to the axis in the graph, so
//! that a wrong index gives a defined element instead of foreign memory.

use crate::ffi::ops as ffi;
use crate::{Array, Dtype, DtypeCategory, Error, Result};

/// `indices`, safe to use on axis `axis` of length `len`.
pub(super) fn indices(op: &'static str, indices: &Array, axis: usize, len: i32) -> Result<Array> {
    let dtype = indices.dtype();
    if !dtype.is_integer() {
        return Err(Error::shape(
            op,
            format!("indices must be integers, found {dtype}"),
        ));
    }
    if indices.size() == 0 {
        return Ok(indices.clone());
    }
    if len <= 0 {
        return Err(Error::shape(
            op,
            format!("axis {axis} is empty, so there is nothing to index"),
        ));
    }
    if indices.is_available() {
        return match first_outside(indices, i64::from(len))? {
            Some(index) => Err(Error::OutOfBounds {
                op,
                index,
                axis,
                size: i64::from(len),
            }),
            None => Ok(indices.clone()),
        };
    }
    let last = Array::scalar_dtype(f64::from(len - 1), limit_dtype(dtype, len - 1))?;
    let below = ffi::minimum(indices, &last)?;
    if dtype.category() == DtypeCategory::UnsignedInteger {
        return Ok(below);
    }
    let first = Array::scalar_dtype(f64::from(-len), limit_dtype(dtype, len))?;
    ffi::maximum(&below, &first)
}

/// The index dtype where it can hold the limit, else one that can: promotion then widens.
fn limit_dtype(dtype: Dtype, limit: i32) -> Dtype {
    let fits = match dtype {
        Dtype::Int8 => limit <= i32::from(i8::MAX),
        Dtype::Uint8 => limit <= i32::from(u8::MAX),
        Dtype::Int16 => limit <= i32::from(i16::MAX),
        Dtype::Uint16 => limit <= i32::from(u16::MAX),
        _ => true,
    };
    match (fits, dtype.category()) {
        (true, _) => dtype,
        (false, DtypeCategory::UnsignedInteger) => Dtype::Uint32,
        (false, _) => Dtype::Int32,
    }
}

/// The first index outside `-len..len`.
fn first_outside(indices: &Array, len: i64) -> Result<Option<i64>> {
    let outside = |index: i64| index < -len || index >= len;
    macro_rules! scan {
        ($type:ty) => {{
            let wide = |v: $type| i64::try_from(v).unwrap_or(i64::MAX);
            match indices.as_slice::<$type>() {
                Ok(values) => values.iter().map(|&v| wide(v)).find(|&v| outside(v)),
                Err(_) => indices
                    .to_vec::<$type>()?
                    .into_iter()
                    .map(wide)
                    .find(|&v| outside(v)),
            }
        }};
    }
    Ok(match indices.dtype() {
        Dtype::Uint8 => scan!(u8),
        Dtype::Uint16 => scan!(u16),
        Dtype::Uint32 => scan!(u32),
        Dtype::Uint64 => scan!(u64),
        Dtype::Int8 => scan!(i8),
        Dtype::Int16 => scan!(i16),
        Dtype::Int32 => scan!(i32),
        Dtype::Int64 => scan!(i64),
        _ => None,
    })
}

/// Fails for integer divisors that end a process: zero, and -1 under the smallest integer.
///
/// Divisors that are computed, as scalars from Rust are, are only read, so that nothing waits for
/// them. The dividends are computed only if a divisor is -1.
pub(super) fn divisor(op: &'static str, lhs: &Array, rhs: &Array) -> Result<()> {
    let inexact = |array: &Array| array.dtype().is_subtype(DtypeCategory::Inexact);
    if inexact(lhs) || inexact(rhs) || rhs.size() == 0 {
        return Ok(());
    }
    if holds(rhs, 0)? {
        return Err(Error::shape(op, "integer division by zero"));
    }
    let signed = |array: &Array| array.dtype().category() == DtypeCategory::SignedInteger;
    let wide = lhs.dtype().size().max(rhs.dtype().size()) == 8;
    let smallest = if wide { i64::MIN } else { i64::from(i32::MIN) };
    if signed(lhs) && signed(rhs) && holds(rhs, -1)? && holds(lhs, smallest)? {
        return Err(Error::shape(
            op,
            "the quotient of the smallest integer and -1 overflows",
        ));
    }
    Ok(())
}

/// Whether an array of integers or bools holds this number.
fn holds(array: &Array, number: i64) -> Result<bool> {
    macro_rules! scan {
        ($type:ty) => {
            match <$type>::try_from(number) {
                Ok(number) => match array.as_slice::<$type>() {
                    Ok(values) => values.contains(&number),
                    Err(_) => array.to_vec::<$type>()?.contains(&number),
                },
                Err(_) => false,
            }
        };
    }
    Ok(match array.dtype() {
        Dtype::Bool => number == 0 && array.to_vec::<bool>()?.contains(&false),
        Dtype::Uint8 => scan!(u8),
        Dtype::Uint16 => scan!(u16),
        Dtype::Uint32 => scan!(u32),
        Dtype::Uint64 => scan!(u64),
        Dtype::Int8 => scan!(i8),
        Dtype::Int16 => scan!(i16),
        Dtype::Int32 => scan!(i32),
        Dtype::Int64 => scan!(i64),
        _ => false,
    })
}
