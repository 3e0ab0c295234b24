//! Callers' functions as MLX calls and drops them.

use std::any::Any;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use mlx_core::ffi::{self, lock};
use mlx_core::{Array, Error, Result};

use super::home::Home;
use super::{Function, JvpFunction, VjpFunction, VmapFunction};

/// A caller's function, and the thread that it must not leave.
pub(super) struct Payload<F: ?Sized> {
    f: Box<F>,
    home: Option<Arc<Home>>,
}

impl<F: ?Sized> Payload<F> {
    /// The function, if this thread may call it.
    fn get(&self) -> Result<&F> {
        match &self.home {
            Some(home) if !home.is_here() => Err(Error::Unsupported(
                "a function with derivatives of its own was differentiated on another thread than \
                 the one that made it"
                    .to_owned(),
            )),
            _ => Ok(&self.f),
        }
    }
}

/// A boxed function as a thin pointer. With a `home` it is called and dropped there only.
pub(super) fn into_payload<F: ?Sized>(f: Box<F>, home: Option<Arc<Home>>) -> *mut c_void {
    Box::into_raw(Box::new(Payload { f, home })).cast()
}

pub(super) unsafe extern "C" fn drop_payload<F: ?Sized + 'static>(payload: *mut c_void) {
    // SAFETY: made by `into_payload::<F>` and dropped once.
    let payload = unsafe { Box::from_raw(payload.cast::<Payload<F>>()) };
    let home = payload.home.clone();
    // A destructor that panics has nobody to tell; what it leaked stays leaked.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        lock::unlocked(|| match home {
            Some(home) if !home.is_here() => home.send(payload),
            _ => drop(payload),
        });
    }));
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

pub(super) unsafe extern "C" fn call(
    payload: *mut c_void,
    inputs: *const mlx_sys::array,
    n_inputs: usize,
    out: *mut mlx_sys::arrays,
    failure: *mut *mut c_void,
) -> c_int {
    // SAFETY: the payload of `Closure::new`, alive during the call; MLX keeps the inputs alive.
    let (f, inputs) = unsafe {
        (
            &*payload.cast::<Payload<Function>>(),
            Array::slice_from_raw(inputs, n_inputs),
        )
    };
    let status = enter_closure(failure, || f.get()?(inputs), |results| push(out, &results));
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
pub(super) unsafe extern "C" fn call_vjp(
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
            &*payload.cast::<Payload<VjpFunction>>(),
            Array::slice_from_raw(primals, n_primals),
            Array::slice_from_raw(cotangents, n_cotangents),
            Array::slice_from_raw(outputs, n_outputs),
        )
    };
    enter_closure(
        failure,
        || f.get()?(primals, cotangents, outputs),
        |results| push(out, &results),
    )
}

#[allow(clippy::too_many_arguments, reason = "the shim's signature")]
pub(super) unsafe extern "C" fn call_jvp(
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
            &*payload.cast::<Payload<JvpFunction>>(),
            Array::slice_from_raw(primals, n_primals),
            Array::slice_from_raw(tangents, n_tangents),
            numbers(argnums, n_argnums),
        )
    };
    enter_closure(
        failure,
        || f.get()?(primals, tangents, argnums),
        |results| push(out, &results),
    )
}

#[allow(clippy::too_many_arguments, reason = "the shim's signature")]
pub(super) unsafe extern "C" fn call_vmap(
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
            &*payload.cast::<Payload<VmapFunction>>(),
            Array::slice_from_raw(inputs, n_inputs),
            numbers(axes, n_axes),
        )
    };
    enter_closure(
        failure,
        || f.get()?(inputs, axes),
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
