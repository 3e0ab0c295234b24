//! Elements in place: typed views of evaluated arrays.

use std::fmt;
use std::marker::PhantomData;

use crate::ffi::{self, ArraySlice, Memory};
use crate::{Array, Element, Error, Result};

/// The elements of an evaluated array, read in place whatever its strides.
///
/// Made by [`Array::elements`].
pub struct Elements<'a, T> {
    memory: Memory<'a>,
    array: &'a Array,
    element: PhantomData<T>,
}

impl<T> fmt::Debug for Elements<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Elements").field(self.array).finish()
    }
}

impl<'a, T: Element> Elements<'a, T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.array.size()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at these coordinates, one for each axis; `None` outside the array.
    pub fn get(&self, position: &[usize]) -> Option<T> {
        let shape = self.array.shape();
        if position.len() != shape.len() {
            return None;
        }
        let mut offset = 0i64;
        for ((&index, &dim), stride) in position.iter().zip(shape).zip(self.memory.strides()) {
            if index >= usize::try_from(dim).ok()? {
                return None;
            }
            offset += i64::try_from(index).ok()? * stride;
        }
        Some(self.memory.element(offset))
    }

    /// The elements in row-major order.
    pub fn iter(&self) -> ElementIter<'_, 'a, T> {
        ElementIter {
            elements: self,
            index: vec![0; self.array.ndim()],
            offset: 0,
            left: self.len(),
        }
    }
}

impl<'v, 'a, T: Element> IntoIterator for &'v Elements<'a, T> {
    type Item = T;
    type IntoIter = ElementIter<'v, 'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The iterator of [`Elements::iter`].
#[derive(Debug)]
pub struct ElementIter<'v, 'a, T> {
    elements: &'v Elements<'a, T>,
    index: Vec<i32>,
    /// Of the next element.
    offset: i64,
    left: usize,
}

impl<T: Element> Iterator for ElementIter<'_, '_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let value = self.elements.memory.element(self.offset);
        if self.left > 0 {
            // Advances the index like an odometer, last axis first.
            let shape = self.elements.array.shape();
            let strides = self.elements.memory.strides();
            for ((index, &dim), stride) in self.index.iter_mut().zip(shape).zip(strides).rev() {
                *index += 1;
                self.offset += stride;
                if *index < dim {
                    break;
                }
                self.offset -= stride * i64::from(dim);
                *index = 0;
            }
        }
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T: Element> ExactSizeIterator for ElementIter<'_, '_, T> {}

impl Array {
    /// The elements in place, whatever the strides, evaluating the array if need be.
    ///
    /// ```
    /// # use mlx_core::array;
    /// let x = array!([[1, 2, 3], [4, 5, 6]])?.transpose()?;
    /// let elements = x.elements::<i32>()?;
    /// assert_eq!(elements.get(&[2, 0]), Some(3));
    /// assert_eq!(elements.iter().collect::<Vec<_>>(), [1, 4, 2, 5, 3, 6]);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DtypeMismatch`] if `T` is not the array's type, or whatever the computation
    /// reports.
    pub fn elements<T: Element>(&self) -> Result<Elements<'_, T>> {
        self.expect_dtype(T::DTYPE)?;
        Ok(Elements {
            memory: ffi::memory(self)?,
            array: self,
            element: PhantomData,
        })
    }

    /// The elements in row-major order as a slice that keeps the array alive, evaluating it if
    /// need be. Without a copy if they lie in that order already, else after one.
    ///
    /// ```
    /// # use mlx_core::array;
    /// let slice = array!([1.0, 2.0, 3.0])?.to_slice::<f32>()?;
    /// let sum: f32 = std::thread::spawn(move || slice.iter().sum()).join().unwrap();
    /// assert_eq!(sum, 6.0);
    /// # Ok::<(), mlx_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::DtypeMismatch`] if `T` is not the array's type; [`Error::Unsupported`] for `bool`,
    /// whose bytes may be others than 0 and 1; or whatever the computation reports.
    pub fn to_slice<T: Element>(&self) -> Result<ArraySlice<T>> {
        match ArraySlice::new(self.clone()) {
            Err(Error::Unsupported(_)) if T::ANY_BYTES_VALID => {
                ArraySlice::new(self.contiguous(false)?)
            }
            other => other,
        }
    }
}
