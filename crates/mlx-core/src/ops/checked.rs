//! Indices that cannot leave their array.
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
