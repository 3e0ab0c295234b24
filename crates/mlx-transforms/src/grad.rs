//! Gradients of scalar functions.

use mlx_core::{Array, Error, Result};

use crate::closure::{Closure, ValueAndGrad};

/// A function that computes `f` and the gradients of its first output, a scalar, with respect to
/// the inputs at `argnums`. Negative numbers count from the last input.
///
/// Returns the outputs of `f` and the gradients in the order of `argnums`. The function is built
/// once and may be called often; fed to [`grad`] it gives higher derivatives.
///
/// ```
/// use mlx_core::Array;
/// use mlx_transforms::value_and_grad;
///
/// let f = value_and_grad(|xs| Ok(vec![(&xs[0] * &xs[1])?.sum(false)?]), &[0])?;
/// let x = Array::from_slice(&[1.0f32, 2.0], &[2])?;
/// let y = Array::from_slice(&[3.0f32, 4.0], &[2])?;
/// let (values, grads) = f(&[x, y])?;
/// assert_eq!(values[0].item::<f32>()?, 11.0);
/// assert_eq!(grads[0].to_vec::<f32>()?, [3.0, 4.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::EmptyInput`] if `argnums` is empty. The function returned fails as `f` does, and if an
/// argument number is out of range or the first output no scalar.
pub fn value_and_grad<F>(
    f: F,
    argnums: &[i32],
) -> Result<impl Fn(&[Array]) -> Result<(Vec<Array>, Vec<Array>)> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    build("value_and_grad", f, argnums)
}

/// A function that computes the gradients of the first output of `f`, a scalar, with respect to
/// the inputs at `argnums`.
///
/// # Errors
/// As [`value_and_grad`].
pub fn grad<F>(
    f: F,
    argnums: &[i32],
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let f = build("grad", f, argnums)?;
    Ok(move |inputs: &[Array]| f(inputs).map(|(_, grads)| grads))
}

fn build<F>(
    name: &'static str,
    f: F,
    argnums: &[i32],
) -> Result<impl Fn(&[Array]) -> Result<(Vec<Array>, Vec<Array>)> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    if argnums.is_empty() {
        return Err(Error::empty_input(format!("{name}: `argnums`")));
    }
    let closure = Closure::new(move |inputs: &[Array]| {
        let outputs = f(inputs)?;
        // MLX takes the first output without looking whether there is one.
        if outputs.is_empty() {
            return Err(Error::empty_input(format!(
                "{name}: the list of the function's outputs"
            )));
        }
        Ok(outputs)
    })?;
    let function = ValueAndGrad::new(&closure, argnums)?;
    let argnums = argnums.to_vec();
    Ok(move |inputs: &[Array]| {
        let (values, grads) = function.call(inputs)?;
        Ok((values, in_order_of(&argnums, inputs.len(), &grads)))
    })
}

/// MLX gives gradients in the order of the inputs, whatever the order of `argnums`.
fn in_order_of(argnums: &[i32], inputs: usize, grads: &[Array]) -> Vec<Array> {
    let inputs = i64::try_from(inputs).unwrap_or(i64::MAX);
    let place = |argnum: i32| {
        if argnum < 0 {
            i64::from(argnum) + inputs
        } else {
            argnum.into()
        }
    };
    argnums
        .iter()
        .filter_map(|&argnum| {
            let rank = argnums
                .iter()
                .filter(|&&other| place(other) < place(argnum))
                .count();
            grads.get(rank).cloned()
        })
        .collect()
}
