//! Functions with derivatives of their own.

mod forms;

use std::rc::Rc;

use mlx_core::{Array, Result};

use self::forms::{Forms, gradients};
use crate::closure::{Closure, Function, Hooks, JvpFunction, VjpFunction};

/// A function `fwd` whose gradient is what `bwd` says.
///
/// `bwd` gets the inputs, the cotangents of the outputs, and the outputs, in this order, and
/// returns a gradient for each input, of its shape. A gradient of another dtype is cast to the
/// input's.
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
/// As [`custom_function`]. The gradient of the function returned fails as `bwd` does, or with
/// [`Error::Shape`](mlx_core::Error::Shape) if the gradients do not fit the inputs.
pub fn custom_vjp<F, B>(fwd: F, bwd: B) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    B: Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
{
    custom_function(CustomFunction::new(fwd).vjp(bwd))
}

/// A function whose forward-mode derivative is what `jvp` says: from the inputs, their tangents
/// and the numbers of the inputs that have one, to a tangent for each output, of its shape and
/// dtype.
///
/// # Errors
/// As [`custom_function`]. The derivative of the function returned fails as `jvp` does, or with
/// [`Error::Shape`](mlx_core::Error::Shape) if the tangents do not fit the outputs.
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
/// An output has the shape and dtype that the function gives for one slice, with the mapped axis
/// in addition. Negative axes count from the end; `None` is an output that is the same for every
/// slice.
///
/// # Errors
/// As [`custom_function`]. The vectorisation of the function returned fails as `vmap` does, or with
/// [`Error::Shape`](mlx_core::Error::Shape) if its outputs or their axes do not fit the function's.
pub fn custom_vmap<F, V>(f: F, vmap: V) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    V: Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
{
    custom_function(CustomFunction::new(f).vmap(vmap))
}

/// `(inputs, axes)`, giving outputs and their axes.
type MapFunction = dyn Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)>;

/// A function with the derivatives that it brings along; see [`custom_function`].
#[must_use]
pub struct CustomFunction {
    f: Rc<Function>,
    vjp: Option<Rc<VjpFunction>>,
    jvp: Option<Rc<JvpFunction>>,
    vmap: Option<Rc<MapFunction>>,
}

impl std::fmt::Debug for CustomFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CustomFunction")
            .field("vjp", &self.vjp.is_some())
            .field("jvp", &self.jvp.is_some())
            .field("vmap", &self.vmap.is_some())
            .finish_non_exhaustive()
    }
}

impl CustomFunction {
    /// A function with MLX's own derivatives.
    pub fn new(f: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static) -> Self {
        CustomFunction {
            f: Rc::new(f),
            vjp: None,
            jvp: None,
            vmap: None,
        }
    }

    /// The reverse-mode derivative; see [`custom_vjp`].
    pub fn vjp(
        mut self,
        vjp: impl Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>> + 'static,
    ) -> Self {
        self.vjp = Some(Rc::new(vjp));
        self
    }

    /// The forward-mode derivative; see [`custom_jvp`].
    pub fn jvp(
        mut self,
        jvp: impl Fn(&[Array], &[Array], &[i32]) -> Result<Vec<Array>> + 'static,
    ) -> Self {
        self.jvp = Some(Rc::new(jvp));
        self
    }

    /// The vectorisation; see [`custom_vmap`].
    pub fn vmap(
        mut self,
        vmap: impl Fn(&[Array], &[Option<i32>]) -> Result<(Vec<Array>, Vec<Option<i32>>)> + 'static,
    ) -> Self {
        self.vmap = Some(Rc::new(vmap));
        self
    }

    /// Calls the function. The graph of this one call gets hooks that know what this call gave,
    /// because MLX takes what hooks return on trust, and the next call may give something else.
    fn call(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let forms = Rc::new(Forms::default());
        let (f, given) = (Rc::clone(&self.f), Rc::clone(&forms));
        Closure::kept(move |inputs: &[Array]| given.outputs(f(inputs)?))?
            .with_hooks(self.hooks(&forms))?
            .call(inputs)
    }

    fn hooks(&self, forms: &Rc<Forms>) -> Hooks {
        let mut hooks = Hooks::default();
        if let Some(vjp) = self.vjp.clone() {
            hooks.vjp = Some(Box::new(move |primals, cotangents, outputs| {
                gradients(vjp(primals, cotangents, outputs)?, primals)
            }));
        }
        if let Some(jvp) = self.jvp.clone() {
            let forms = Rc::clone(forms);
            hooks.jvp = Some(Box::new(move |primals, tangents, argnums| {
                forms.tangents(jvp(primals, tangents, argnums)?)
            }));
        }
        if let Some(vmap) = self.vmap.clone() {
            let forms = Rc::clone(forms);
            hooks.vmap = Some(Box::new(move |inputs, axes| {
                let axes: Vec<Option<i32>> = axes
                    .iter()
                    .map(|&axis| (axis >= 0).then_some(axis))
                    .collect();
                let (results, result_axes) = vmap(inputs, &axes)?;
                forms.mapped(inputs, &axes, results, &result_axes)
            }));
        }
        hooks
    }
}

/// A function that uses the derivatives given, and MLX's own for the rest.
///
/// # Errors
/// None in practice. The function returned fails as the one given does, with
/// [`Error::EmptyInput`](mlx_core::Error::EmptyInput) if that has no outputs, and with
/// [`Error::OutOfMemory`](mlx_core::Error::OutOfMemory) if there is no memory left. A derivative
/// that runs the function once more fails with [`Error::Shape`](mlx_core::Error::Shape) if the
/// function then gives outputs of other numbers, shapes or dtypes.
pub fn custom_function(
    function: CustomFunction,
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static> {
    Ok(move |inputs: &[Array]| function.call(inputs))
}
