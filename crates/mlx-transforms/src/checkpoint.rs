//! Gradient checkpointing.

use mlx_core::{Array, Error, Result};

use crate::closure::Closure;

/// A function that computes the same as `f` but keeps no intermediate results for the gradient:
/// they are computed again. Trades time for memory ("Training Deep Nets with Sublinear Memory
/// Cost", 2016).
///
/// # Errors
/// [`Error::OutOfMemory`] if there is none left. The function returned fails as `f` does, and with
/// [`Error::EmptyInput`] if `f` has no outputs.
pub fn checkpoint<F>(f: F) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let closure = Closure::kept(move |inputs: &[Array]| {
        let outputs = f(inputs)?;
        // MLX takes the first output without looking whether there is one.
        if outputs.is_empty() {
            return Err(Error::empty_input(
                "checkpoint: the list of the function's outputs",
            ));
        }
        Ok(outputs)
    })?
    .checkpoint()?;
    Ok(move |inputs: &[Array]| closure.call(inputs))
}
