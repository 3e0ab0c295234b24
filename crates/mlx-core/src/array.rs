//! The array type.

mod create;
mod display;
pub(crate) mod index;
pub(crate) mod iter;
pub(crate) mod literal;
#[rustfmt::skip]
#[path = "array/methods.gen.rs"]
mod methods;
pub(crate) mod operators;
mod read;
pub(crate) mod view;

use crate::{Dtype, Error, Result, ffi, shape};

/// A lazy, immutable array of up to any number of dimensions.
///
/// A value of this type is a counted reference: cloning it costs one atomic increment and shares
/// the data. Operations record a graph; reading a value, or [`eval`](crate::eval()), computes it.
/// Every function of [`ops`](crate::ops) whose first argument is an array is also a method.
#[must_use = "arrays are lazy: an unused one is never computed"]
#[repr(transparent)]
pub struct Array {
    pub(crate) raw: mlx_sys::array,
}

impl Array {
    /// The dimensions. Free: no allocation, no evaluation.
    #[inline]
    pub fn shape(&self) -> &[i32] {
        self.raw_shape()
    }

    /// The number of dimensions.
    #[inline]
    pub fn ndim(&self) -> usize {
        self.raw_shape().len()
    }

    /// The number of elements.
    #[inline]
    pub fn size(&self) -> usize {
        self.raw_size()
    }

    /// The bytes that the elements take in row-major order.
    pub fn nbytes(&self) -> usize {
        self.size() * self.dtype().size()
    }

    /// The size of one axis; negative axes count from the end.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no such axis.
    pub fn dim(&self, axis: i32) -> Result<i32> {
        let index = shape::normalize_axis("dim", axis, self.ndim())?;
        Ok(self.shape()[index])
    }

    /// The element type.
    #[inline]
    pub fn dtype(&self) -> Dtype {
        // Both sides of the boundary list the same fourteen dtypes.
        Dtype::from_code(self.raw_dtype()).unwrap_or(Dtype::Float32)
    }

    /// A number that two handles share exactly if they are clones of each other.
    pub fn id(&self) -> usize {
        self.raw_id()
    }

    /// Computes the array and waits for it.
    ///
    /// # Errors
    /// Whatever the computation reports.
    pub fn eval(&self) -> Result<()> {
        ffi::eval(&[self])
    }

    /// Like [`Clone::clone`], which cannot fail: for code written against fallible handles.
    ///
    /// # Errors
    /// None; the type leaves room for back ends that could fail.
    pub fn try_clone(&self) -> Result<Array> {
        Ok(self.clone())
    }

    /// Whether the computation has finished; never waits and never starts it.
    pub fn is_available(&self) -> bool {
        self.raw_status() == 2
    }

    pub(crate) fn expect_dtype(&self, expected: Dtype) -> Result<()> {
        let found = self.dtype();
        if found == expected {
            Ok(())
        } else {
            Err(Error::DtypeMismatch { expected, found })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static_assertions::assert_impl_all!(Array: Send, Sync, Clone);
    static_assertions::assert_eq_size!(Array, [usize; 2]);
}
