//! The parts of a split, by number.

use mlx_core::Array;

use crate::{Error, Result};

/// The two parts of a split.
pub(super) fn two(parts: Vec<Array>) -> Result<[Array; 2]> {
    <[Array; 2]>::try_from(parts)
        .map_err(|parts| Error::weights(format!("{} parts where 2 belong", parts.len())))
}

/// The three parts of a split.
pub(super) fn three(parts: Vec<Array>) -> Result<[Array; 3]> {
    <[Array; 3]>::try_from(parts)
        .map_err(|parts| Error::weights(format!("{} parts where 3 belong", parts.len())))
}
