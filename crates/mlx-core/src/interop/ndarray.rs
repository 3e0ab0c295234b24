//! The crate `ndarray`.

use ndarray::{ArrayBase, ArrayD, ArrayViewD, Data, Dimension, IxDyn};

use crate::{Array, Element, Error, Result};

fn shape_error(op: &'static str, error: &ndarray::ShapeError) -> Error {
    Error::shape(op, error.to_string())
}

/// Copies the elements, whatever their order in memory.
impl<T: Element, S: Data<Elem = T>, D: Dimension> TryFrom<&ArrayBase<S, D>> for Array {
    type Error = Error;

    fn try_from(array: &ArrayBase<S, D>) -> Result<Array> {
        match array.as_slice() {
            Some(elements) => Array::from_slice(elements, array.shape()),
            None => Array::from_vec(array.iter().copied().collect(), array.shape()),
        }
    }
}

/// Takes the elements over without a copy where they lie in row-major order without gaps and the
/// back end can use the memory.
impl<T: Element, D: Dimension> TryFrom<ndarray::Array<T, D>> for Array {
    type Error = Error;

    fn try_from(array: ndarray::Array<T, D>) -> Result<Array> {
        if !array.is_standard_layout() {
            return Array::try_from(&array);
        }
        let dims = array.shape().to_vec();
        let (data, offset) = array.into_raw_vec_and_offset();
        let size = dims.iter().product();
        if offset.unwrap_or(0) == 0 && data.len() == size {
            return Array::from_vec(data, &dims);
        }
        let start = offset.unwrap_or(0);
        let elements = data
            .get(start..start.saturating_add(size))
            .ok_or_else(|| Error::shape("from_ndarray", "the elements lie outside their vector"))?;
        Array::from_slice(elements, &dims)
    }
}

impl Array {
    /// A copy for the crate `ndarray`, evaluating the array if need be.
    ///
    /// ```
    /// # use mlx_core::{Array, array};
    /// let x = array!([[1, 2], [3, 4]])?;
    /// let y = x.to_ndarray::<i32>()?;
    /// assert_eq!(y[[1, 0]], 3);
    /// assert_eq!(Array::try_from(y.t().to_owned())?.to_vec::<i32>()?, [1, 3, 2, 4]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DtypeMismatch`] if `T` is not the array's type, or whatever the computation
    /// reports.
    pub fn to_ndarray<T: Element>(&self) -> Result<ArrayD<T>> {
        ArrayD::from_shape_vec(self.extents(), self.to_vec()?)
            .map_err(|error| shape_error("to_ndarray", &error))
    }

    /// The elements in place as a view of the crate `ndarray`, evaluating the array if need be.
    ///
    /// # Errors
    /// As [`as_slice`](Array::as_slice).
    pub fn as_ndarray<T: Element>(&self) -> Result<ArrayViewD<'_, T>> {
        ArrayViewD::from_shape(self.extents(), self.as_slice()?)
            .map_err(|error| shape_error("as_ndarray", &error))
    }

    fn extents(&self) -> IxDyn {
        let dims: Vec<usize> = self
            .shape()
            .iter()
            .map(|&dim| usize::try_from(dim).unwrap_or(0))
            .collect();
        IxDyn(&dims)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, ArrayD, s};

    use crate::Array;

    #[test]
    fn every_layout_comes_across() {
        let x = Array2::from_shape_fn((3, 4), |(i, j)| i32::try_from(10 * i + j).unwrap());
        let whole = Array::try_from(x.clone()).unwrap();
        assert_eq!(whole.shape(), [3, 4]);
        assert_eq!(whole.to_ndarray::<i32>().unwrap(), x.clone().into_dyn());
        assert_eq!(whole.as_ndarray::<i32>().unwrap(), x.view().into_dyn());
        let part = x.slice(s![1..;-1, ..;2]);
        assert_eq!(
            Array::try_from(&part).unwrap().to_vec::<i32>().unwrap(),
            [20, 22, 10, 12]
        );
        // Owned, but neither from the start of its vector nor to the end of it.
        let tail = x.slice_move(s![1..2, ..]);
        assert_eq!(
            Array::try_from(tail).unwrap().to_vec::<i32>().unwrap(),
            [10, 11, 12, 13]
        );
        let turned = Array::from_slice(&[1, 2, 3, 4], &[2, 2])
            .unwrap()
            .transpose()
            .unwrap();
        assert_eq!(turned.to_ndarray::<i32>().unwrap()[[0, 1]], 3);
    }

    #[test]
    fn scalars_empty_arrays_and_wrong_types() {
        let scalar = Array::try_from(ndarray::arr0(true)).unwrap();
        assert!(scalar.to_ndarray::<bool>().unwrap()[[]]);
        let empty = Array::zeros::<f32>(&[0, 3]).unwrap();
        assert_eq!(
            empty.to_ndarray::<f32>().unwrap(),
            ArrayD::<f32>::zeros(vec![0, 3])
        );
        assert!(empty.to_ndarray::<f64>().is_err());
    }
}
