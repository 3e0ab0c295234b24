//! The memory of evaluated arrays.

use super::{describe, error_slot, runtime};
use crate::{Array, Element, Error, Result};

/// The memory of an evaluated array.
pub(crate) struct Memory<'a> {
    data: *const u8,
    strides: Vec<i64>,
    pub(crate) row_contiguous: bool,
    array: &'a Array,
}

/// Evaluates the array and looks at its memory. The memory stays as it is while the array is
/// borrowed: MLX writes only into buffers that nothing else refers to.
pub(crate) fn memory(array: &Array) -> Result<Memory<'_>> {
    let _guard = runtime::enter();
    let mut data = std::ptr::null();
    let mut data_size = 0;
    let mut strides = vec![0i64; array.ndim()];
    let mut row_contiguous = false;
    let mut error = error_slot();
    // SAFETY: every out-parameter is valid; `strides` has room for each dimension.
    let status = unsafe {
        mlx_sys::array_read(
            array.as_raw(),
            &raw mut data,
            &raw mut data_size,
            strides.as_mut_ptr(),
            &raw mut row_contiguous,
            &raw mut error,
        )
    };
    if status != 0 {
        return Err(describe(error, "eval", &[]));
    }
    Ok(Memory {
        data: data.cast(),
        strides,
        row_contiguous,
        array,
    })
}

impl<'a> Memory<'a> {
    /// The elements, if they lie in row-major order without gaps.
    pub(crate) fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        if !self.row_contiguous || !T::ANY_BYTES_VALID {
            return None;
        }
        if self.array.size() == 0 {
            return Some(&[]);
        }
        // SAFETY: the caller has compared the dtype; a row-contiguous array has `size` elements
        // from `data` on, aligned by MLX's allocator or by the vector they came from.
        Some(unsafe { std::slice::from_raw_parts(self.data.cast::<T>(), self.array.size()) })
    }

    /// The bytes, if the elements lie in row-major order without gaps.
    pub(crate) fn as_bytes(&self) -> Option<&'a [u8]> {
        if !self.row_contiguous {
            return None;
        }
        if self.array.size() == 0 {
            return Some(&[]);
        }
        // SAFETY: as in `as_slice`; bytes have no validity of their own.
        Some(unsafe { std::slice::from_raw_parts(self.data, self.array.nbytes()) })
    }

    /// The elements in row-major order, whatever the strides.
    pub(crate) fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let shape = self.array.shape();
        let size = self.array.size();
        // A broadcast array has more elements than memory behind it.
        let mut out = Vec::new();
        out.try_reserve_exact(size).map_err(|error| {
            Error::OutOfMemory(format!("{size} elements of {}: {error}", T::DTYPE))
        })?;
        if let Some(slice) = self.as_slice::<T>() {
            out.extend_from_slice(slice);
            return Ok(out);
        }
        if size == 0 {
            return Ok(out);
        }
        let mut index = vec![0i32; shape.len()];
        let mut offset: i64 = 0;
        loop {
            out.push(self.element(offset));
            // Advances the index like an odometer, last axis first.
            let mut axis = shape.len();
            loop {
                if axis == 0 {
                    return Ok(out);
                }
                axis -= 1;
                index[axis] += 1;
                offset += self.strides[axis];
                if index[axis] < shape[axis] {
                    break;
                }
                offset -= self.strides[axis] * i64::from(shape[axis]);
                index[axis] = 0;
            }
        }
    }

    /// The distance from one element to the next along each axis, in elements.
    pub(crate) fn strides(&self) -> &[i64] {
        &self.strides
    }

    /// Where the first element lies; null for an array without elements.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.data
    }

    /// The element at `offset`, which must be that of an element of the array, counted in elements
    /// from the first; its dtype must be that of `T`.
    pub(crate) fn element<T: Element>(&self, offset: i64) -> T {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "offsets address memory that exists"
        )]
        let place = self.data.cast::<T>().wrapping_offset(offset as isize);
        if T::ANY_BYTES_VALID {
            // SAFETY: `offset` is that of an element of the array, and the dtype was compared.
            unsafe { place.read() }
        } else {
            // SAFETY: as above, read as the byte that it is.
            T::from_f64(f64::from(unsafe { place.cast::<u8>().read() }))
        }
    }
}
