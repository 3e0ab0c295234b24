//! Our DLPack tensors as a C library, for `cargo xtask parity dlpack`: Python wraps them in
//! capsules for NumPy and torch, and hands theirs back.

#![allow(
    clippy::print_stderr,
    missing_docs,
    reason = "called from one script, which reads standard error"
)]

use std::ptr::null_mut;
use std::slice;

use mlx_core::interop::dlpack::{self, ManagedTensor, ManagedTensorVersioned};
use mlx_core::{Array, Dtype, Result, memory};

fn report<T>(result: Result<*mut T>) -> *mut T {
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        null_mut()
    })
}

/// 0, 1, 2, … as the dtype of this number, laid out in one of the ways that an array can be.
fn example(dtype: i32, layout: i32) -> Result<Array> {
    let dtype = usize::try_from(dtype)
        .ok()
        .and_then(|index| Dtype::ALL.get(index).copied())
        .unwrap_or(Dtype::Float32);
    let numbers = Array::arange_dtype(0.0, 6.0, 1.0, Dtype::Int32)?.astype(dtype)?;
    match layout {
        0 => numbers.reshape(&[2, 3]),
        1 => numbers.reshape(&[2, 3])?.transpose(),
        2 => numbers.index(5),
        3 => Array::zeros_dtype(&[0, 3], dtype),
        4 => numbers.reshape(&[6, 1])?.broadcast_to(&[6, 4]),
        5 => numbers.slice_strided(&[1], &[6], &[2]),
        // A mebibyte and more, for those who count memory.
        _ => Array::zeros_dtype(&[1 << 20], dtype),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn mlx_test_export(dtype: i32, layout: i32) -> *mut ManagedTensorVersioned {
    report(example(dtype, layout).and_then(|array| dlpack::to_dlpack(&array)))
}

#[unsafe(no_mangle)]
pub extern "C" fn mlx_test_export_legacy(dtype: i32, layout: i32) -> *mut ManagedTensor {
    report(example(dtype, layout).and_then(|array| dlpack::to_dlpack_legacy(&array)))
}

/// Bytes of arrays that are alive.
#[unsafe(no_mangle)]
pub extern "C" fn mlx_test_active_memory() -> usize {
    memory::active_memory().unwrap_or(usize::MAX)
}

/// # Safety
/// As [`dlpack::from_dlpack`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlx_test_import(tensor: *mut ManagedTensorVersioned) -> *mut Array {
    // SAFETY: the caller's promise.
    report(unsafe { dlpack::from_dlpack(tensor) }.map(|array| Box::into_raw(Box::new(array))))
}

/// # Safety
/// As [`dlpack::from_dlpack_legacy`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlx_test_import_legacy(tensor: *mut ManagedTensor) -> *mut Array {
    // SAFETY: the caller's promise.
    report(
        unsafe { dlpack::from_dlpack_legacy(tensor) }.map(|array| Box::into_raw(Box::new(array))),
    )
}

/// Writes the number of the dtype, the dimensions and the elements in row-major order, and returns
/// how many dimensions and bytes there are; -1 on failure.
///
/// # Safety
/// `array` must be an imported one, `dims` and `bytes` must have room for `room` values each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlx_test_read(
    array: *const Array,
    dtype: *mut i32,
    ndim: *mut usize,
    dims: *mut i32,
    bytes: *mut u8,
    room: usize,
) -> isize {
    // SAFETY: the caller's promise.
    let (array, dims, bytes) = unsafe {
        (
            &*array,
            slice::from_raw_parts_mut(dims, room),
            slice::from_raw_parts_mut(bytes, room),
        )
    };
    let Ok(data) = array.to_bytes() else {
        return -1;
    };
    let (Some(dims), Some(bytes)) = (dims.get_mut(..array.ndim()), bytes.get_mut(..data.len()))
    else {
        return -1;
    };
    dims.copy_from_slice(array.shape());
    bytes.copy_from_slice(&data);
    let number = Dtype::ALL.iter().position(|known| *known == array.dtype());
    // SAFETY: the caller's promise.
    unsafe {
        *ndim = array.ndim();
        *dtype = number.and_then(|n| i32::try_from(n).ok()).unwrap_or(-1);
    }
    isize::try_from(data.len()).unwrap_or(-1)
}

/// # Safety
/// `array` must be an imported one and not be used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mlx_test_drop(array: *mut Array) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(array) });
}
