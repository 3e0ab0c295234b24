//! Plain-old-data types: slices of vectors, colours and other records of numbers.

use bytemuck::Pod;

use crate::{Array, Element, Error, IntoShape, Result};

impl Array {
    /// Copies records that consist of `T`s, such as `[f32; 3]` or a `#[repr(C)]` struct of them,
    /// as an array of `shape`, which counts the `T`s: `N` records of three make `[N, 3]`.
    ///
    /// ```
    /// # use mlx_core::Array;
    /// let points = [[0.0f32, 1.0, 2.0], [3.0, 4.0, 5.0]];
    /// let x = Array::from_pod::<f32, _>(&points, &[2, 3])?;
    /// assert_eq!(x.sum(false)?.item::<f32>()?, 15.0);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the records are no whole number of `T`s or do not fill `shape`.
    pub fn from_pod<T: Element + Pod, P: Pod>(
        records: &[P],
        shape: &(impl IntoShape + ?Sized),
    ) -> Result<Array> {
        // By bytes, so that records may be aligned less strictly than `T`.
        Array::from_bytes(bytemuck::cast_slice(records), shape, T::DTYPE)
    }

    /// The elements in place as records that consist of `T`s, evaluating the array if need be: the
    /// counterpart of [`from_pod`](Array::from_pod), without a copy.
    ///
    /// ```
    /// # use mlx_core::array;
    /// let x = array!([[0.0, 1.0], [2.0, 3.0]])?;
    /// let pairs: &[[f32; 2]] = x.as_pod::<f32, _>()?;
    /// assert_eq!(pairs[1], [2.0, 3.0]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`as_slice`](Array::as_slice); [`Error::Shape`] if the elements are no whole number of
    /// records.
    pub fn as_pod<T: Element + Pod, P: Pod>(&self) -> Result<&[P]> {
        bytemuck::try_cast_slice(self.as_slice::<T>()?).map_err(|error| {
            Error::shape(
                "as_pod",
                format!(
                    "shape {:?} of {} as records of {} bytes: {error}",
                    self.shape(),
                    self.dtype(),
                    size_of::<P>()
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::Array;

    #[test]
    fn records_that_do_not_fit_are_errors() {
        let x = Array::from_pod::<f32, _>(&[[1.0f32; 3]; 2], &[6]).unwrap();
        assert_eq!(x.as_pod::<f32, [f32; 2]>().unwrap().len(), 3);
        assert!(x.as_pod::<f32, [f32; 4]>().is_err());
        assert!(x.as_pod::<i32, [i32; 2]>().is_err());
        assert!(Array::from_pod::<f32, _>(&[[0u8; 3]], &[1]).is_err());
    }
}
