//! The boundary between Rust closures and MLX: every `unsafe` of this crate.
//!
//! Facts that hold throughout and are not repeated:
//! - MLX is entered under the lock of `mlx_core::ffi`, and a caller's code (the function itself, or
//!   the destructor of what it captured) runs without it;
//! - a payload is a thin pointer to a boxed function; the shim drops it exactly once, through the
//!   destructor that came with it;
//! - no panic crosses the boundary.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

use mlx_core::ffi::{self, ArrayList, lock};
use mlx_core::{Array, Error, Result};

type Function = dyn Fn(&[Array]) -> Result<Vec<Array>>;
/// `(primals, cotangents, outputs)`.
type VjpFunction = dyn Fn(&[Array], &[Array], &[Array]) -> Result<Vec<Array>>;
/// `(primals, tangents, argnums)`.
type JvpFunction = dyn Fn(&[Array], &[Array], &[i32]) -> Result<Vec<Array>>;
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
    /// [`Error::OutOfMemory`] if there is none left.
    pub fn new<F>(f: F) -> Result<Self>
    where
        F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    {
        let payload = into_payload::<Function>(Box::new(f));
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

    pub(crate) fn vmap(&self, in_axes: &[i32], out_axes: &[i32]) -> Result<Closure> {
        make(|out, error| {
            // SAFETY: a live handle and slices with their true lengths; the result is owned.
            unsafe {
                mlx_sys::vmap(
                    out,
                    self.raw,
                    in_axes.as_ptr(),
                    in_axes.len(),
                    out_axes.as_ptr(),
                    out_axes.len(),
                    error,
                )
            }
        })
        .map(|raw| Closure { raw })
    }

    pub(crate) fn compile(&self, id: usize, shapeless: bool) -> Result<Closure> {
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
            raw.vjp_payload = into_payload::<VjpFunction>(f);
            raw.vjp = Some(call_vjp);
            raw.vjp_drop = Some(drop_payload::<VjpFunction>);
        }
        if let Some(f) = hooks.jvp {
            raw.jvp_payload = into_payload::<JvpFunction>(f);
            raw.jvp = Some(call_jvp);
            raw.jvp_drop = Some(drop_payload::<JvpFunction>);
        }
        if let Some(f) = hooks.vmap {
            raw.vmap_payload = into_payload::<VmapFunction>(f);
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

/// Forgets what this thread compiled under `id`.
pub(crate) fn compile_erase(id: usize) {
    // Fails only if the thread's cache cannot be reached, and then there is nothing to forget.
    // SAFETY: a plain value.
    let _ = run("compile", &[], |error| unsafe {
        mlx_sys::compile_erase(id, error)
    });
}

pub(crate) fn set_compile_mode(mode: i32) -> Result<()> {
    // SAFETY: a plain value, one of MLX's own.
    run("set_compile_mode", &[], |error| unsafe {
        mlx_sys::set_compile_mode(mode, error)
    })
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
    if ffi::deep(|| call(&raw mut error)) == 0 {
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

/// A boxed function as a thin pointer.
fn into_payload<F: ?Sized>(f: Box<F>) -> *mut c_void {
    Box::into_raw(Box::new(f)).cast()
}

unsafe extern "C" fn drop_payload<F: ?Sized>(payload: *mut c_void) {
    // SAFETY: made by `into_payload::<F>` and dropped once.
    let f = unsafe { Box::from_raw(payload.cast::<Box<F>>()) };
    // A destructor that panics has nobody to tell; what it leaked stays leaked.
    let _ = catch_unwind(AssertUnwindSafe(|| lock::unlocked(|| drop(f))));
}

/// Runs a caller's function and hands its results, or its failure, to the shim.
fn enter_closure<T>(
    failure: *mut *mut c_void,
    f: impl FnOnce() -> Result<T>,
    store: impl FnOnce(T),
) -> c_int {
    let result = lock::unlocked(|| catch_unwind(AssertUnwindSafe(f)));
    let error = match result {
        Ok(Ok(value)) => {
            store(value);
            return 0;
        }
        Ok(Err(error)) => error,
        Err(payload) => Error::Panic(panic_text(payload)),
    };
    // SAFETY: the shim passes a valid place.
    unsafe { *failure = ffi::into_failure(error) };
    1
}

fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match payload.downcast_ref::<&'static str>() {
        Some(text) => (*text).to_owned(),
        None => match payload.downcast_ref::<String>() {
            Some(text) => text.clone(),
            None => "no message".to_owned(),
        },
    };
    // The payload's destructor is the caller's code too.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    text
}

fn push(out: *mut mlx_sys::arrays, arrays: &[Array]) {
    for array in arrays {
        // SAFETY: `out` is the shim's list of results; it copies the handle.
        unsafe { mlx_sys::arrays_push(out, array.as_raw()) };
    }
}

unsafe extern "C" fn call(
    payload: *mut c_void,
    inputs: *const mlx_sys::array,
    n_inputs: usize,
    out: *mut mlx_sys::arrays,
    failure: *mut *mut c_void,
) -> c_int {
    // SAFETY: the payload of `Closure::new`, alive during the call; MLX keeps the inputs alive.
    let (f, inputs) = unsafe {
        (
            &*payload.cast::<Box<Function>>(),
            Array::slice_from_raw(inputs, n_inputs),
        )
    };
    let status = enter_closure(failure, || f(inputs), |results| push(out, &results));
    if status != 0 {
        return status;
    }
    // SAFETY: `out` is the shim's list of results.
    let depth = unsafe { mlx_sys::graph_depth(out) };
    if ffi::fits(depth) {
        return 0;
    }
    let error = Error::Unsupported(format!(
        "the function records a chain of {depth} operations, more than a transform can follow"
    ));
    // SAFETY: the shim passes a valid place.
    unsafe { *failure = ffi::into_failure(error) };
    1
}

#[allow(clippy::too_many_arguments, reason = "the shim's signature")]
unsafe extern "C" fn call_vjp(
    payload: *mut c_void,
    primals: *const mlx_sys::array,
    n_primals: usize,
    cotangents: *const mlx_sys::array,
    n_cotangents: usize,
    outputs: *const mlx_sys::array,
    n_outputs: usize,
    out: *mut mlx_sys::arrays,
    failure: *mut *mut c_void,
) -> c_int {
    // SAFETY: the payload of `with_hooks`, alive during the call; MLX keeps the arrays alive.
    let (f, primals, cotangents, outputs) = unsafe {
        (
            &*payload.cast::<Box<VjpFunction>>(),
            Array::slice_from_raw(primals, n_primals),
            Array::slice_from_raw(cotangents, n_cotangents),
            Array::slice_from_raw(outputs, n_outputs),
        )
    };
    enter_closure(
        failure,
        || f(primals, cotangents, outputs),
        |results| push(out, &results),
    )
}

#[allow(clippy::too_many_arguments, reason = "the shim's signature")]
unsafe extern "C" fn call_jvp(
    payload: *mut c_void,
    primals: *const mlx_sys::array,
    n_primals: usize,
    tangents: *const mlx_sys::array,
    n_tangents: usize,
    argnums: *const i32,
    n_argnums: usize,
    out: *mut mlx_sys::arrays,
    failure: *mut *mut c_void,
) -> c_int {
    // SAFETY: the payload of `with_hooks`, alive during the call; MLX keeps the arrays alive.
    let (f, primals, tangents, argnums) = unsafe {
        (
            &*payload.cast::<Box<JvpFunction>>(),
            Array::slice_from_raw(primals, n_primals),
            Array::slice_from_raw(tangents, n_tangents),
            numbers(argnums, n_argnums),
        )
    };
    enter_closure(
        failure,
        || f(primals, tangents, argnums),
        |results| push(out, &results),
    )
}

#[allow(clippy::too_many_arguments, reason = "the shim's signature")]
unsafe extern "C" fn call_vmap(
    payload: *mut c_void,
    inputs: *const mlx_sys::array,
    n_inputs: usize,
    axes: *const i32,
    n_axes: usize,
    out: *mut mlx_sys::arrays,
    out_axes: *mut mlx_sys::axes,
    failure: *mut *mut c_void,
) -> c_int {
    // SAFETY: the payload of `with_hooks`, alive during the call; MLX keeps the arrays alive.
    let (f, inputs, axes) = unsafe {
        (
            &*payload.cast::<Box<VmapFunction>>(),
            Array::slice_from_raw(inputs, n_inputs),
            numbers(axes, n_axes),
        )
    };
    enter_closure(
        failure,
        || f(inputs, axes),
        |(results, result_axes)| {
            push(out, &results);
            for axis in result_axes {
                // SAFETY: `out_axes` is the shim's list of axes.
                unsafe { mlx_sys::axes_push(out_axes, axis) };
            }
        },
    )
}

/// # Safety
/// `data` must point at `len` numbers that outlive the slice, unless `len` is zero.
unsafe fn numbers<'a>(data: *const i32, len: usize) -> &'a [i32] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(data, len) }
}
