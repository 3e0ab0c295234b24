//! Gradients without remembered activations.

use std::{cell::RefCell, rc::Rc};

use mlx_core::Array;

use crate::{Error, Module, Result, trainable_parameters, with_arrays};

/// Runs `f` on a copy of `module` so that its gradient remembers nothing of what `f` computed but
/// its inputs: it is computed again when it is needed. Trades time for memory ("Training Deep Nets
/// with Sublinear Memory Cost", 2016).
///
/// Gradients flow to the trainable parameters of `module`, as they are at this call, and to
/// `inputs`.
///
/// ```
/// use mlx_core::{Array, ops::reduction::sum};
/// use mlx_nn::{Linear, checkpoint, value_and_grad};
///
/// let mut layer = Linear::new(2, 2, true)?;
/// let x = [Array::ones::<f32>(&[1, 2])?];
/// let (_, gradients) = value_and_grad(&mut layer, &x, |layer, xs| {
///     let y = checkpoint(layer, xs, |layer, xs| Ok(vec![layer.forward(&xs[0])?]))?;
///     Ok(sum(&y[0], false)?)
/// })?;
/// assert_eq!(gradients["bias"].to_vec::<f32>()?, [1.0, 1.0]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// What `f` reports.
pub fn checkpoint<M: Module + Clone + 'static>(
    module: &M,
    inputs: &[Array],
    f: impl Fn(&M, &[Array]) -> Result<Vec<Array>> + 'static,
) -> Result<Vec<Array>> {
    let (names, mut arrays): (Vec<String>, Vec<Array>) =
        trainable_parameters(module).into_iter().unzip();
    let count = arrays.len();
    arrays.extend_from_slice(inputs);
    let copy = Rc::new(RefCell::new(module.clone()));
    let run = move |xs: &[Array]| -> mlx_core::Result<Vec<Array>> {
        let (parameters, inputs) = xs
            .split_at_checked(count)
            .ok_or_else(|| Error::invalid("checkpoint", "an input is missing"))?;
        let named = names.iter().cloned().zip(parameters.iter().cloned());
        let mut module = copy
            .try_borrow_mut()
            .map_err(|_| Error::invalid("checkpoint", "a module runs inside itself"))?;
        Ok(with_arrays(&mut *module, named.collect(), |module| {
            f(module, inputs)
        })?)
    };
    Ok(mlx_transforms::checkpoint(run)?(&arrays)?)
}
