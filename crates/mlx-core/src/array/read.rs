//! Values out of arrays.

use crate::{Array, Element, Error, Result, ffi};

impl Array {
    /// The only element, evaluating the array if need be.
    ///
    /// ```
    /// # use mlx_core::Array;
    /// assert_eq!(Array::from_slice(&[1.0f32, 2.0], &[2])?.sum(false)?.item::<f32>()?, 3.0);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DtypeMismatch`] if `T` is not the array's type, [`Error::Shape`] if there is not
    /// exactly one element, or whatever the computation reports.
    pub fn item<T: Element>(&self) -> Result<T> {
        self.expect_dtype(T::DTYPE)?;
        if self.size() != 1 {
            return Err(Error::shape(
                "item",
                format!("an array of shape {:?} is not a single value", self.shape()),
            ));
        }
        let values = ffi::memory(self)?.to_vec::<T>()?;
        values
            .first()
            .copied()
            .ok_or_else(|| Error::shape("item", "the array is empty"))
    }

    /// The elements in row-major order, evaluating the array if need be. Works for any strides.
    ///
    /// # Errors
    /// [`Error::DtypeMismatch`] if `T` is not the array's type, or whatever the computation
    /// reports.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.expect_dtype(T::DTYPE)?;
        ffi::memory(self)?.to_vec()
    }

    /// The elements in place, without a copy, evaluating the array if need be.
    ///
    /// # Errors
    /// [`Error::DtypeMismatch`] if `T` is not the array's type; [`Error::Unsupported`] if the
    /// elements do not lie in row-major order (see [`contiguous`](Array::contiguous)) or are
    /// `bool`, whose bytes may be others than 0 and 1; or whatever the computation reports.
    pub fn as_slice<T: Element>(&self) -> Result<&[T]> {
        self.expect_dtype(T::DTYPE)?;
        ffi::memory(self)?.as_slice().ok_or_else(|| {
            Error::Unsupported(format!(
                "as_slice: {} of shape {:?} is not laid out as a slice; use to_vec or contiguous",
                self.dtype(),
                self.shape()
            ))
        })
    }

    /// The bytes of the elements in row-major order and the machine's byte order.
    ///
    /// # Errors
    /// Whatever the computation reports.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let copy = |bytes: &[u8]| {
            let mut out = Vec::new();
            out.try_reserve_exact(bytes.len())
                .map_err(|error| Error::OutOfMemory(format!("{} bytes: {error}", bytes.len())))?;
            out.extend_from_slice(bytes);
            Ok(out)
        };
        if let Some(bytes) = ffi::memory(self)?.as_bytes() {
            return copy(bytes);
        }
        let dense = self.contiguous(false)?;
        let memory = ffi::memory(&dense)?;
        memory.as_bytes().map_or_else(
            || {
                Err(Error::Unsupported(
                    "to_bytes: the array could not be laid out densely".to_owned(),
                ))
            },
            copy,
        )
    }
}
