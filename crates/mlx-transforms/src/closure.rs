//! The boundary between Rust closures and MLX: every `unsafe` of this crate.
//!
//! Facts that hold throughout and are not repeated:
//! - MLX is entered under the lock of `mlx_core::ffi`, and a caller's code (the function itself, or
//!   the destructor of what it captured) runs without it;
//! - a payload is a thin pointer to a boxed function; the shim drops it exactly once, through the
//!   destructor that came with it;
//! - no panic crosses the boundary;
//! - a function that arrays may keep (the derivatives of custom functions, in the graph) is bound to
//!   its thread, because arrays may leave it and the function may not; the types of this crate keep
//!   the others where they belong.

mod callbacks;
mod compiled;
mod export;
mod graph;
mod home;

use std::ffi::c_int;
use std::ptr::null_mut;
use std::sync::Arc;

use mlx_core::ffi::{self, ArrayList};
use mlx_core::{Array, Result};

use self::callbacks::{call, call_jvp, call_vjp, call_vmap, drop_payload, into_payload};
pub(crate) use self::compiled::Compiled;
pub(crate) use self::export::RawExporter;
pub use self::export::{ImportedFunction, import_function};
pub(crate) use self::graph::write_graph;
use self::home::Home;

pub(crate) type Function = dyn Fn(&[Array]) -> Result<Vec<Array>>;
/// `(primals, cotangents, outputs)`.
pub(crate) type VjpFunction = dyn Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>>;
/// `(primals, tangents, argnums)`.
pub(crate) type JvpFunction = dyn Fn(&[Array], &[Array], &[i32]) -> Result<Vec<Array>>;
/// `(inputs, axes)`, giving outputs and their axes; -1 means not mapped.
type VmapFunction = dyn Fn(&[Array], &[i32]) -> Result<(Vec<Array>, Vec<i32>)>;

/// An owning handle of a function from arrays to arrays, as MLX sees it.
///
/// Transforms make one for themselves; make one by hand only to call the raw ABI.
///
/// ```
/// use mlx_core::Array;
/// use mlx_transforms::Closure;
///
/// let double = Closure::new(|xs| Ok(vec![(&xs[0] * 2.0)?]))?;
/// assert!(!double.as_raw().ctx.is_null());
/// assert_eq!(double.call(&[Array::scalar(3.0f32)?])?[0].item::<f32>()?, 6.0);
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Closure {
    raw: mlx_sys::closure,
}

impl Closure {
    /// Takes the function over.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](mlx_core::Error::OutOfMemory) if there is none left.
    pub fn new<F>(f: F) -> Result<Self>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        Self::with_home(Box::new(f), None)
    }

    /// A function that the arrays it returns may hold on to: see [`Home`].
    pub(crate) fn kept<F>(f: F) -> Result<Self>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        Self::with_home(Box::new(f), Some(Home::current()))
    }

    fn with_home(f: Box<Function>, home: Option<Arc<Home>>) -> Result<Self> {
        let payload = into_payload::<Function>(f, home);
        let raw = make(|out, error| {
            // SAFETY: the payload fits its two functions.
            unsafe {
                mlx_sys::closure_new(
                    out,
                    payload,
                    Some(call),
                    Some(drop_payload::<Function>),
                    error,
                )
            }
        })?;
        Ok(Closure { raw })
    }

    /// The raw handle, which this value keeps owning.
    pub fn as_raw(&self) -> mlx_sys::closure {
        self.raw
    }

    /// Calls the function through MLX.
    ///
    /// # Errors
    /// What the function returns.
    pub fn call(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let mut out = ArrayList::new();
        run("closure", inputs, |error| {
            // SAFETY: live handles with their true count.
            unsafe {
                mlx_sys::closure_call(
                    out.as_mut_ptr(),
                    self.raw,
                    inputs.as_ptr().cast(),
                    inputs.len(),
                    error,
                )
            }
        })?;
        Ok(out.into_vec())
    }

    pub(crate) fn checkpoint(&self) -> Result<Closure> {
        // SAFETY: a live handle; the result is owned.
        make(|out, error| unsafe { mlx_sys::checkpoint(out, self.raw, error) })
            .map(|raw| Closure { raw })
    }

    /// The function on slices of `inputs` along `in_axes` (-1: whole), each output stacked along
    /// a new first axis.
    pub(crate) fn vmap(&self, inputs: &[Array], in_axes: &[i32]) -> Result<Vec<Array>> {
        debug_assert_eq!(inputs.len(), in_axes.len());
        let mut out = ArrayList::new();
        run("vmap", inputs, |error| {
            // SAFETY: live handles and axes with their true count.
            unsafe {
                mlx_sys::vmap_call(
                    out.as_mut_ptr(),
                    self.raw,
                    inputs.as_ptr().cast(),
                    in_axes.as_ptr(),
                    inputs.len().min(in_axes.len()),
                    error,
                )
            }
        })?;
        Ok(out.into_vec())
    }

    fn compile(&self, id: usize, shapeless: bool) -> Result<Closure> {
        // SAFETY: a live handle; the result is owned.
        make(|out, error| unsafe { mlx_sys::compile(out, self.raw, id, shapeless, error) })
            .map(|raw| Closure { raw })
    }

    pub(crate) fn vjp(
        &self,
        primals: &[Array],
        cotangents: &[Array],
    ) -> Result<(Vec<Array>, Vec<Array>)> {
        let (mut outputs, mut products) = (ArrayList::new(), ArrayList::new());
        run("vjp", primals, |error| {
            // SAFETY: live handles with their true counts.
            unsafe {
                mlx_sys::vjp(
                    outputs.as_mut_ptr(),
                    products.as_mut_ptr(),
                    self.raw,
                    primals.as_ptr().cast(),
                    primals.len(),
                    cotangents.as_ptr().cast(),
                    cotangents.len(),
                    error,
                )
            }
        })?;
        Ok((outputs.into_vec(), products.into_vec()))
    }

    pub(crate) fn jvp(
        &self,
        primals: &[Array],
        tangents: &[Array],
    ) -> Result<(Vec<Array>, Vec<Array>)> {
        let (mut outputs, mut products) = (ArrayList::new(), ArrayList::new());
        run("jvp", primals, |error| {
            // SAFETY: live handles with their true counts.
            unsafe {
                mlx_sys::jvp(
                    outputs.as_mut_ptr(),
                    products.as_mut_ptr(),
                    self.raw,
                    primals.as_ptr().cast(),
                    primals.len(),
                    tangents.as_ptr().cast(),
                    tangents.len(),
                    error,
                )
            }
        })?;
        Ok((outputs.into_vec(), products.into_vec()))
    }

    pub(crate) fn with_hooks(&self, hooks: Hooks) -> Result<Closure> {
        let mut raw = mlx_sys::hooks {
            vjp_payload: null_mut(),
            vjp: None,
            vjp_drop: None,
            jvp_payload: null_mut(),
            jvp: None,
            jvp_drop: None,
            vmap_payload: null_mut(),
            vmap: None,
            vmap_drop: None,
        };
        if let Some(f) = hooks.vjp {
            raw.vjp_payload = into_payload::<VjpFunction>(f, Some(Home::current()));
            raw.vjp = Some(call_vjp);
            raw.vjp_drop = Some(drop_payload::<VjpFunction>);
        }
        if let Some(f) = hooks.jvp {
            raw.jvp_payload = into_payload::<JvpFunction>(f, Some(Home::current()));
            raw.jvp = Some(call_jvp);
            raw.jvp_drop = Some(drop_payload::<JvpFunction>);
        }
        if let Some(f) = hooks.vmap {
            raw.vmap_payload = into_payload::<VmapFunction>(f, Some(Home::current()));
            raw.vmap = Some(call_vmap);
            raw.vmap_drop = Some(drop_payload::<VmapFunction>);
        }
        // SAFETY: a live handle; each payload fits its functions; the result is owned.
        make(|out, error| unsafe { mlx_sys::custom_function(out, self.raw, raw, error) })
            .map(|raw| Closure { raw })
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        let _guard = ffi::enter();
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::closure_free(self.raw) };
    }
}

/// Replacements for a function's own derivatives.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) vjp: Option<Box<VjpFunction>>,
    pub(crate) jvp: Option<Box<JvpFunction>>,
    pub(crate) vmap: Option<Box<VmapFunction>>,
}

/// A function with its gradient: built once, called often.
#[derive(Debug)]
pub(crate) struct ValueAndGrad {
    raw: mlx_sys::value_and_grad,
}

impl ValueAndGrad {
    pub(crate) fn new(closure: &Closure, argnums: &[i32]) -> Result<Self> {
        let _guard = ffi::enter();
        let mut raw = mlx_sys::value_and_grad { ctx: null_mut() };
        run("value_and_grad", &[], |error| {
            // SAFETY: a live handle and a slice with its true length; MLX copies the function.
            unsafe {
                mlx_sys::value_and_grad_new(
                    &raw mut raw,
                    closure.raw,
                    argnums.as_ptr(),
                    argnums.len(),
                    error,
                )
            }
        })?;
        Ok(ValueAndGrad { raw })
    }

    pub(crate) fn call(&self, inputs: &[Array]) -> Result<(Vec<Array>, Vec<Array>)> {
        let (mut values, mut grads) = (ArrayList::new(), ArrayList::new());
        run("value_and_grad", inputs, |error| {
            // SAFETY: live handles with their true count.
            unsafe {
                mlx_sys::value_and_grad_call(
                    values.as_mut_ptr(),
                    grads.as_mut_ptr(),
                    self.raw,
                    inputs.as_ptr().cast(),
                    inputs.len(),
                    error,
                )
            }
        })?;
        Ok((values.into_vec(), grads.into_vec()))
    }
}

impl Drop for ValueAndGrad {
    fn drop(&mut self) {
        let _guard = ffi::enter();
        // SAFETY: owned and freed once.
        unsafe { mlx_sys::value_and_grad_free(self.raw) };
    }
}

pub(crate) fn set_compile_mode(mode: i32) -> Result<()> {
    // SAFETY: a plain value, one of MLX's own.
    run("set_compile_mode", &[], |error| unsafe {
        mlx_sys::set_compile_mode(mode, error)
    })
}

/// Runs `f` with room for MLX's recursive walks.
///
/// AddressSanitizer does not know that stack, and an exception on it leaves marks behind which later
/// calls run into. Under `cargo xtask sanitize` the thread's own stack is made large instead.
#[allow(unexpected_cfgs, reason = "set by `cargo xtask sanitize` alone")]
fn with_room<T>(f: impl FnOnce() -> T) -> T {
    if cfg!(mlx_sanitize) {
        f()
    } else {
        ffi::deep(f)
    }
}

/// Calls into MLX and turns a failure into an error.
fn run(
    op: &'static str,
    inputs: &[Array],
    call: impl FnOnce(*mut mlx_sys::error) -> c_int,
) -> Result<()> {
    let mut error = mlx_sys::error {
        kind: 0,
        text: null_mut(),
        payload: null_mut(),
    };
    let _guard = ffi::enter();
    if with_room(|| call(&raw mut error)) == 0 {
        return Ok(());
    }
    Err(ffi::describe(error, op, &inputs.iter().collect::<Vec<_>>()))
}

/// Calls a function of the shim that makes a closure.
fn make(
    call: impl FnOnce(*mut mlx_sys::closure, *mut mlx_sys::error) -> c_int,
) -> Result<mlx_sys::closure> {
    let mut raw = mlx_sys::closure { ctx: null_mut() };
    run("closure", &[], |error| call(&raw mut raw, error))?;
    Ok(raw)
}
