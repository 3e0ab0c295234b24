//! Where the bytes of an open file live.

use std::ops::Deref;

use crate::ffi::mmap::Mapped;

/// The bytes of a file: mapped, or read by the caller.
#[derive(Debug)]
pub(crate) enum Data {
    Mapped(Mapped),
    Owned(Vec<u8>),
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}
