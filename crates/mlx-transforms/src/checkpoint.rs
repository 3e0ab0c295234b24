//! Gradient checkpointing.

use mlx_core::{Array, Result};

use crate::closure::Closure;

/// A function that computes the same as `f` but keeps no intermediate results for the gradient:
/// they are computed again. Trades time for memory ("Training Deep Nets with Sublinear Memory
/// Cost", 2016).
///
/// # Errors
/// [`Error::OutOfMemory`](mlx_core::Error::OutOfMemory) if there is none left. The function
/// returned fails as `f` does.
pub fn checkpoint<F>(f: F) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let closure = Closure::kept(f)?.checkpoint()?;
    Ok(move |inputs: &[Array]| closure.call(inputs))
}
