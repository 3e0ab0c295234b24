//! Products with Jacobians.

use mlx_core::{Array, Error, Result};

use crate::closure::Closure;

/// The outputs of `f` at `primals`, and the products of `cotangents` with its Jacobian: one for
/// each primal.
///
/// ```
/// use mlx_core::{Array, ops::arithmetic::square};
/// use mlx_transforms::vjp;
///
/// let x = Array::from_slice(&[1.0f32, 2.0], &[2])?;
/// let ones = Array::ones::<f32>(&[2])?;
/// let (_, products) = vjp(|xs| Ok(vec![square(&xs[0])?]), &[x], &[ones])?;
/// assert_eq!(products[0].to_vec::<f32>()?, [2.0, 4.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// What `f` returns; [`Error::Shape`] or [`Error::Op`] if the cotangents do not fit the outputs.
pub fn vjp<F>(f: F, primals: &[Array], cotangents: &[Array]) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let given = cotangents.len();
    let closure = Closure::new(move |inputs: &[Array]| {
        let outputs = f(inputs)?;
        // MLX ignores what is too many.
        if given > outputs.len() {
            return Err(Error::Shape {
                op: "vjp",
                message: format!("{given} cotangents for {} outputs", outputs.len()),
            });
        }
        Ok(outputs)
    })?;
    closure.vjp(primals, cotangents)
}

/// The outputs of `f` at `primals`, and the products of its Jacobian with `tangents`: one for each
/// output.
///
/// # Errors
/// What `f` returns; [`Error::Shape`], [`Error::DtypeMismatch`] or [`Error::Op`] if the tangents are
/// not of the number, dtypes and shapes of the primals.
pub fn jvp<F>(f: F, primals: &[Array], tangents: &[Array]) -> Result<(Vec<Array>, Vec<Array>)>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    if primals.len() != tangents.len() {
        return Err(Error::Shape {
            op: "jvp",
            message: format!("{} tangents for {} primals", tangents.len(), primals.len()),
        });
    }
    // The rules of many operations write a tangent into a result of the primal's dtype.
    for (primal, tangent) in primals.iter().zip(tangents) {
        if tangent.dtype() != primal.dtype() {
            return Err(Error::DtypeMismatch {
                expected: primal.dtype(),
                found: tangent.dtype(),
            });
        }
    }
    Closure::new(f)?.jvp(primals, tangents)
}
