//! The bytes of arrays as files hold them.

use std::borrow::Cow;

use crate::{Array, Dtype, Result, ffi};

/// The bytes of the elements in row-major order, without a copy where they lie
/// so already. Evaluates the array.
pub(crate) fn dense_bytes(array: &Array) -> Result<Cow<'_, [u8]>> {
    if array.dtype() == Dtype::Bool {
        // The bytes of a view may be others than 0 and 1.
        let flags = array.to_vec::<bool>()?;
        return Ok(Cow::Owned(flags.into_iter().map(u8::from).collect()));
    }
    match ffi::memory(array)?.as_bytes() {
        Some(bytes) => Ok(Cow::Borrowed(bytes)),
        None => array.to_bytes().map(Cow::Owned),
    }
}
