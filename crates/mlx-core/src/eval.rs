//! Evaluation of lazy arrays.

use crate::{Array, Result, ffi};

/// Computes the arrays and waits for them. An empty slice is a no-op.
///
/// Evaluating several arrays together shares the work they have in common.
///
/// # Errors
/// Whatever the computation reports. The arrays then hold that error: reading one later repeats
/// it.
pub fn eval(arrays: &[&Array]) -> Result<()> {
    ffi::eval(arrays)
}

/// Starts computing the arrays and returns at once. An empty slice is a no-op.
///
/// # Errors
/// As [`eval`]: work that may fail while it runs (linear algebra on the CPU) is waited for, so that
/// its error belongs to this call. Not allowed on the tracers of a running transform.
pub fn async_eval(arrays: &[&Array]) -> Result<()> {
    ffi::async_eval(arrays)
}
