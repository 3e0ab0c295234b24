//! Shapes as arguments, and checked arithmetic on them.

use std::borrow::Cow;

use crate::{Dtype, Error, Result};

mod sealed {
    pub trait Sealed {}
}

/// Anything that reads as a shape: `[i32; N]`, `&[i32]`, `&[usize]`, `Vec` of either, and tuples
/// of one to eight `usize`.
///
/// Functions take `&(impl IntoShape + ?Sized)`, so `&[2, 3]`, `&(2, 3)`, `&x.shape()[..]` and `&[0i32; 0]`
/// all work.
pub trait IntoShape: sealed::Sealed {
    /// The dimensions as MLX counts them.
    ///
    /// # Errors
    /// [`Error::Shape`] if a dimension exceeds `i32::MAX`.
    fn dims(&self) -> Result<Cow<'_, [i32]>>;
}

fn narrow(dims: &[usize]) -> Result<Cow<'static, [i32]>> {
    dims.iter()
        .map(|&dim| {
            i32::try_from(dim)
                .map_err(|_| Error::shape("shape", format!("dimension {dim} exceeds {}", i32::MAX)))
        })
        .collect::<Result<Vec<_>>>()
        .map(Cow::Owned)
}

macro_rules! borrowed {
    ($([$($generics:tt)*] $type:ty;)*) => {$(
        impl<$($generics)*> sealed::Sealed for $type {}
        impl<$($generics)*> IntoShape for $type {
            fn dims(&self) -> Result<Cow<'_, [i32]>> {
                Ok(Cow::Borrowed(&self[..]))
            }
        }
    )*};
}

macro_rules! narrowed {
    ($([$($generics:tt)*] $type:ty;)*) => {$(
        impl<$($generics)*> sealed::Sealed for $type {}
        impl<$($generics)*> IntoShape for $type {
            fn dims(&self) -> Result<Cow<'_, [i32]>> {
                narrow(&self[..])
            }
        }
    )*};
}

macro_rules! tuples {
    ($($($name:ident)+;)*) => {$(
        impl sealed::Sealed for ($(tuples!(@usize $name),)+) {}
        impl IntoShape for ($(tuples!(@usize $name),)+) {
            #[allow(non_snake_case)]
            fn dims(&self) -> Result<Cow<'_, [i32]>> {
                let ($($name,)+) = *self;
                narrow(&[$($name),+])
            }
        }
    )*};
    (@usize $name:ident) => { usize };
}

borrowed! { [const N: usize] [i32; N]; [] [i32]; [] &[i32]; [] Vec<i32>; }
narrowed! { [const N: usize] [usize; N]; [] [usize]; [] &[usize]; [] Vec<usize>; }
tuples! { A; A B; A B C; A B C D; A B C D E; A B C D E F; A B C D E F G; A B C D E F G H; }

/// The number of elements, refusing what MLX would let wrap around: negative dimensions, and
/// shapes whose bytes exceed what a machine can address.
pub(crate) fn checked_size(op: &'static str, dims: &[i32], dtype: Dtype) -> Result<usize> {
    let mut size: usize = 1;
    let mut bytes = dtype.size();
    for &dim in dims {
        let dim = usize::try_from(dim).map_err(|_| {
            Error::shape(
                op,
                format!("shape {dims:?} has the negative dimension {dim}"),
            )
        })?;
        size = size.saturating_mul(dim);
        bytes = bytes.saturating_mul(dim.max(1));
    }
    if bytes > (isize::MAX as usize) {
        return Err(Error::shape(
            op,
            format!("an array of shape {dims:?} and dtype {dtype} is larger than any memory"),
        ));
    }
    Ok(size)
}

/// The shape to which two shapes broadcast.
///
/// ```
/// # use mlx_core::broadcast_shapes;
/// assert_eq!(broadcast_shapes(&[2, 1, 3], &[4, 1])?, [2, 4, 3]);
/// assert!(broadcast_shapes(&[2], &[3]).is_err());
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if two sizes differ and neither is 1.
pub fn broadcast_shapes(
    a: &(impl IntoShape + ?Sized),
    b: &(impl IntoShape + ?Sized),
) -> Result<Vec<i32>> {
    let (a, b) = (a.dims()?, b.dims()?);
    let (long, short) = if a.len() >= b.len() {
        (&a, &b)
    } else {
        (&b, &a)
    };
    let mut out = long.to_vec();
    let lead = long.len() - short.len();
    for (size, &other) in out[lead..].iter_mut().zip(short.iter()) {
        if *size == 1 {
            *size = other;
        } else if other != 1 && other != *size {
            return Err(Error::shape(
                "broadcast_shapes",
                format!("{a:?} and {b:?} do not broadcast"),
            ));
        }
    }
    Ok(out)
}

/// `axis` counted from the front, or an error naming it.
pub(crate) fn normalize_axis(op: &'static str, axis: i32, ndim: usize) -> Result<usize> {
    let rank = i64::try_from(ndim).unwrap_or(i64::MAX);
    let from_front = if axis < 0 {
        i64::from(axis) + rank
    } else {
        i64::from(axis)
    };
    usize::try_from(from_front)
        .ok()
        .filter(|&axis| axis < ndim)
        .ok_or_else(|| {
            Error::shape(
                op,
                format!("axis {axis} is out of bounds for an array of {ndim} dimensions"),
            )
        })
}

/// Every axis of an array of `ndim` dimensions.
pub(crate) fn every_axis(ndim: usize) -> Vec<i32> {
    (0..i32::try_from(ndim).unwrap_or(i32::MAX)).collect()
}
