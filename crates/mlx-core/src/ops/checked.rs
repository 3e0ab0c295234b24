//! Indices that cannot leave their array, and divisors that cannot end the process.
//!
//! MLX's CPU kernels trust every index. Here an index array that is computed already is read and
//! refused if it points outside; one that is still lazy is limited to the axis in the graph, so
//! that a wrong index gives a defined element instead of foreign memory.

use crate::ffi::ops as ffi;
use crate::{Array, Dtype, DtypeCategory, Error, Result};

/// `indices`, safe to use on axis `axis` of length `len`, as 32-bit or int64 numbers.
pub(super) fn indices(op: &'static str, indices: &Array, axis: usize, len: i32) -> Result<Array> {
    let dtype = indices.dtype();
    if !dtype.is_integer() {
        return Err(Error::shape(
            op,
            format!("indices must be integers, found {dtype}"),
        ));
    }
    if indices.size() == 0 {
        return widened(indices);
    }
    if len <= 0 {
        return Err(Error::shape(
            op,
            format!("axis {axis} is empty, so there is nothing to index"),
        ));
    }
    if indices.is_available() {
        let reach = i64::from(len);
        return match first(indices, |index| index < -reach || index >= reach)? {
            Some(index) => Err(Error::OutOfBounds {
                op,
                index,
                axis,
                size: reach,
            }),
            None => widened(indices),
        };
    }
    if dtype == Dtype::Uint64 {
        // Only what is limited fits int64.
        let last = Array::scalar_dtype(f64::from(len - 1), dtype)?;
        return widened(&ffi::minimum(indices, &last)?);
    }
    let wide = widened(indices)?;
    let last = Array::scalar_dtype(f64::from(len - 1), wide.dtype())?;
    let below = ffi::minimum(&wide, &last)?;
    if dtype.category() == DtypeCategory::UnsignedInteger {
        return Ok(below);
    }
    let front = Array::scalar_dtype(f64::from(-len), wide.dtype())?;
    ffi::maximum(&below, &front)
}

/// Checked indices as positions counted from the front, for kernels that know no others.
pub(super) fn positions(indices: &Array, len: i32) -> Result<Array> {
    let dtype = indices.dtype();
    if dtype.category() == DtypeCategory::UnsignedInteger {
        return Ok(indices.clone());
    }
    if indices.is_available() && first(indices, |index| index < 0)?.is_none() {
        return Ok(indices.clone());
    }
    let negative = ffi::less(indices, &Array::scalar_dtype(0.0, dtype)?)?;
    let length = Array::scalar_dtype(f64::from(len), dtype)?;
    ffi::r#where(&negative, &ffi::add(indices, &length)?, indices)
}

/// The same numbers with room to spare. MLX numbers the items of a batch in the dtype of the
/// indices, so that eight bits wrap at the 256th; and uint64 beside int32 promotes to a float.
fn widened(indices: &Array) -> Result<Array> {
    let wide = match indices.dtype() {
        Dtype::Uint8 | Dtype::Uint16 => Dtype::Uint32,
        Dtype::Int8 | Dtype::Int16 => Dtype::Int32,
        Dtype::Uint64 => Dtype::Int64,
        _ => return Ok(indices.clone()),
    };
    ffi::astype(indices, wide)
}

/// The first index of the kind that is looked for.
fn first(indices: &Array, wanted: impl Fn(i64) -> bool) -> Result<Option<i64>> {
    macro_rules! scan {
        ($type:ty) => {{
            let wide = |v: $type| i64::try_from(v).unwrap_or(i64::MAX);
            match indices.as_slice::<$type>() {
                Ok(values) => values.iter().map(|&v| wide(v)).find(|&v| wanted(v)),
                Err(_) => indices
                    .to_vec::<$type>()?
                    .into_iter()
                    .map(wide)
                    .find(|&v| wanted(v)),
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
    if inexact(lhs) || inexact(rhs) || lhs.size() == 0 || rhs.size() == 0 {
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
