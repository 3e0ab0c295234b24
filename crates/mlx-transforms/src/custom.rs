//! Functions with derivatives of their own.

use std::cell::Cell;
use std::rc::Rc;

use mlx_core::{Array, Error, Result};

use crate::closure::{Closure, Hooks};

/// A function `fwd` whose gradient is what `bwd` says.
///
/// `bwd` gets the inputs, the cotangents of the outputs, and the outputs, in this order, and
/// returns a gradient for each input, of its shape.
///
/// ```
/// use mlx_core::{Array, ops::arithmetic::square};
/// use mlx_transforms::{custom_vjp, grad};
///
/// let clipped = custom_vjp(
///     |xs| Ok(vec![square(&xs[0])?]),
///     |_primals, cotangents, _outputs| Ok(vec![(&cotangents[0] * 0.5)?]),
/// )?;
/// let slope = grad(clipped, &[0])?;
/// assert_eq!(slope(&[Array::scalar(3.0f32)?])?[0].item::<f32>()?, 0.5);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::OutOfMemory`] if there is none left. The function returned fails as `fwd` does; its
/// gradient as `bwd` does, or with [`Error::Shape`] if the gradients do not fit the inputs.
pub fn custom_vjp<F, B>(fwd: F, bwd: B) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    B: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
{
    custom_function(CustomFunction::new(fwd).vjp(bwd))
}

/// A function whose forward-mode derivative is what `jvp` says: from the inputs, their tangents
/// and the numbers of the inputs that have one, to a tangent for each output.
///
/// # Errors
/// As [`custom_vjp`].
pub fn custom_jvp<F, J>(f: F, jvp: J) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    J: Fn(&[Array], &[Array], &[i32]) -> Result<Vec<Array>> + 'static,
{
    custom_function(CustomFunction::new(f).jvp(jvp))
}

/// A function whose vectorisation is what `vmap` says: from the inputs and their mapped axes to
/// outputs and theirs.
///
/// # Errors
/// As [`custom_vjp`].
pub fn custom_vmap<F, V>(f: F, vmap: V) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    V: Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
{
    custom_function(CustomFunction::new(f).vmap(vmap))
}

/// A function with the derivatives that it brings along; see [`custom_function`].
#[must_use]
pub struct CustomFunction {
    f: Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>,
    hooks: Hooks,
    /// How many outputs the function gave last: MLX takes the hooks' counts on trust.
    outputs: Rc<Cell<Option<usize>>>,
}

impl std::fmt::Debug for CustomFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CustomFunction")
            .field("vjp", &self.hooks.vjp.is_some())
            .field("jvp", &self.hooks.jvp.is_some())
            .field("vmap", &self.hooks.vmap.is_some())
            .finish_non_exhaustive()
    }
}

impl CustomFunction {
    /// A function with MLX's own derivatives.
    pub fn new(f: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static) -> Self {
        let outputs = Rc::new(Cell::new(None));
        let count = Rc::clone(&outputs);
        CustomFunction {
            f: Box::new(move |inputs| {
                let results = f(inputs)?;
                count.set(Some(results.len()));
                Ok(results)
            }),
            hooks: Hooks::default(),
            outputs,
        }
    }

    /// The reverse-mode derivative; see [`custom_vjp`].
    pub fn vjp(
        mut self,
        vjp: impl Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
    ) -> Self {
        self.hooks.vjp = Some(Box::new(move |primals, cotangents, outputs| {
            let grads = vjp(primals, cotangents, outputs)?;
            // MLX picks gradients by position without looking at the length.
            let fits = grads.len() == primals.len()
                && grads
                    .iter()
                    .zip(primals)
                    .all(|(grad, primal)| grad.shape() == primal.shape());
            if fits {
                return Ok(grads);
            }
            Err(Error::Shape {
                op: "custom_vjp",
                message: format!(
                    "gradients of shapes {:?} for inputs of shapes {:?}",
                    shapes(&grads),
                    shapes(primals)
                ),
            })
        }));
        self
    }

    /// The forward-mode derivative; see [`custom_jvp`].
    pub fn jvp(
        mut self,
        jvp: impl Fn(&[Array], &[Array], &[i32]) -> Result<Vec<Array>> + 'static,
    ) -> Self {
        let outputs = Rc::clone(&self.outputs);
        self.hooks.jvp = Some(Box::new(move |primals, tangents, argnums| {
            let results = jvp(primals, tangents, argnums)?;
            expect_count("custom_jvp", &outputs, results.len())?;
            Ok(results)
        }));
        self
    }

    /// The vectorisation; see [`custom_vmap`].
    pub fn vmap(
        mut self,
        vmap: impl Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
    ) -> Self {
        let outputs = Rc::clone(&self.outputs);
        self.hooks.vmap = Some(Box::new(move |inputs, axes| {
            let axes: Vec<Option<i32>> = axes
                .iter()
                .map(|&axis| (axis >= 0).then_some(axis))
                .collect();
            let (results, result_axes) = vmap(inputs, &axes)?;
            expect_count("custom_vmap", &outputs, results.len())?;
            if result_axes.len() != results.len() {
                return Err(Error::Shape {
                    op: "custom_vmap",
                    message: format!("{} axes for {} outputs", result_axes.len(), results.len()),
                });
            }
            Ok((
                results,
                result_axes
                    .into_iter()
                    .map(|axis| axis.unwrap_or(-1))
                    .collect(),
            ))
        }));
        self
    }
}

fn shapes(arrays: &[Array]) -> Vec<&[i32]> {
    arrays.iter().map(Array::shape).collect()
}

fn expect_count(op: &'static str, outputs: &Cell<Option<usize>>, found: usize) -> Result<()> {
    match outputs.get() {
        Some(expected) if expected != found => Err(Error::Shape {
            op,
            message: format!("{found} results for a function with {expected} outputs"),
        }),
        _ => Ok(()),
    }
}

/// A function that uses the derivatives given, and MLX's own for the rest.
///
/// # Errors
/// As [`custom_vjp`].
pub fn custom_function(
    function: CustomFunction,
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static> {
    let CustomFunction { f, hooks, .. } = function;
    let closure = Closure::kept(f)?.with_hooks(hooks)?;
    Ok(move |inputs: &[Array]| closure.call(inputs))
}
