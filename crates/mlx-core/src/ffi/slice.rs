//! Slices that own the array whose memory they show.

use std::fmt;
use std::ops::Deref;

use crate::{Array, Element, Result};

/// A slice of an array's own memory, which it keeps alive: zero-copy export.
///
/// The memory is never written while this value lives: MLX reuses a buffer for a later result only
/// if nothing else refers to it, and this value does. It may be sent to and shared between threads.
/// Made by [`Array::to_slice`].
#[derive(Clone)]
pub struct ArraySlice<T> {
    array: Array,
    data: *const T,
}

// SAFETY: the memory is immutable while the array lives, which this value owns; arrays and elements
// may both cross threads.
unsafe impl<T: Element> Send for ArraySlice<T> {}
// SAFETY: as above.
unsafe impl<T: Element> Sync for ArraySlice<T> {}

impl<T: Element> ArraySlice<T> {
    pub(crate) fn new(array: Array) -> Result<Self> {
        let data = array.as_slice::<T>()?.as_ptr();
        Ok(ArraySlice { array, data })
    }

    /// The array that the slice shows.
    pub fn array(&self) -> &Array {
        &self.array
    }
}

impl<T: Element> Deref for ArraySlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `data` is what `as_slice` gave for this array: `size` elements (or a dangling
        // pointer for none) that stay as they are while the array lives.
        unsafe { std::slice::from_raw_parts(self.data, self.array.size()) }
    }
}

impl<T: Element> AsRef<[T]> for ArraySlice<T> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Element + fmt::Debug> fmt::Debug for ArraySlice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
