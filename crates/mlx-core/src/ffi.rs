//! The boundary to MLX: every `unsafe` of this crate, and the funnels that turn the shim's status
//! codes into [`Result`]s.
//!
//! Facts that hold for every call and are not repeated there:
//! - an [`Array`] always holds a live handle, so its pointer may be read for the length of a call;
//! - the shim is `noexcept`, writes results only on success and the error slot only on failure;
//! - calls not marked lock-free in `shim.h` are made under [`lock::lock`].
//!
//! Public only for `mlx-transforms`, the other half of the boundary; not part of the API.

#[cfg(target_os = "linux")]
pub mod blas;
mod deep;
pub(crate) mod distributed;
#[cfg(feature = "dlpack")]
pub mod dlpack;
pub(crate) mod kernel;
pub mod lock;
mod memory;
pub(crate) mod mmap;
#[path = "ffi/ops.gen.rs"]
pub(crate) mod ops;
pub(crate) mod runtime;
mod slice;

pub(crate) use self::memory::{Memory, memory};
pub use self::slice::ArraySlice;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;

pub use deep::{deep, fits};

use crate::{Array, Dtype, Element, Error, Result};

/// Where an operation runs.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    /// On the calling thread's stream.
    Current,
    /// On the CPU: MLX has no GPU kernel for it.
    Cpu,
}

impl Stream {
    #[inline]
    fn raw(self) -> mlx_sys::stream {
        match self {
            Stream::Current => runtime::current_stream(),
            Stream::Cpu => runtime::cpu_stream(),
        }
        .raw()
    }
}

#[inline]
pub(crate) fn error_slot() -> mlx_sys::error {
    mlx_sys::error {
        kind: 0,
        text: std::ptr::null_mut(),
        payload: std::ptr::null_mut(),
    }
}

/// Calls an op with one result.
#[inline]
pub(crate) fn one(
    op: &'static str,
    operands: &[&Array],
    place: Stream,
    call: impl FnOnce(*mut mlx_sys::array, mlx_sys::stream, *mut mlx_sys::error) -> c_int,
) -> Result<Array> {
    let stream = place.raw();
    let mut out = MaybeUninit::<mlx_sys::array>::uninit();
    let mut error = error_slot();
    let _guard = runtime::enter();
    if call(out.as_mut_ptr(), stream, &raw mut error) == 0 {
        // SAFETY: on success the shim has stored an owned handle.
        Ok(unsafe { Array::from_raw(out.assume_init()) })
    } else {
        Err(describe(error, op, operands))
    }
}

/// Calls an op with two results.
pub(crate) fn pair(
    op: &'static str,
    operands: &[&Array],
    place: Stream,
    call: impl FnOnce(*mut mlx_sys::array, mlx_sys::stream, *mut mlx_sys::error) -> c_int,
) -> Result<(Array, Array)> {
    let stream = place.raw();
    let mut out = [
        MaybeUninit::<mlx_sys::array>::uninit(),
        MaybeUninit::uninit(),
    ];
    let mut error = error_slot();
    let _guard = runtime::enter();
    if call(out.as_mut_ptr().cast(), stream, &raw mut error) == 0 {
        let [first, second] = out;
        // SAFETY: on success the shim has stored an owned handle in each place.
        Ok(unsafe {
            (
                Array::from_raw(first.assume_init()),
                Array::from_raw(second.assume_init()),
            )
        })
    } else {
        Err(describe(error, op, operands))
    }
}

/// Calls an op with a list of results.
pub(crate) fn many(
    op: &'static str,
    operands: &[&Array],
    place: Stream,
    call: impl FnOnce(*mut mlx_sys::array_list, mlx_sys::stream, *mut mlx_sys::error) -> c_int,
) -> Result<Vec<Array>> {
    let stream = place.raw();
    let mut out = ArrayList::new();
    let mut error = error_slot();
    let _guard = runtime::enter();
    if call(out.as_mut_ptr(), stream, &raw mut error) == 0 {
        Ok(out.into_vec())
    } else {
        Err(describe(error, op, operands))
    }
}

/// Calls a function without a result. Takes the lock only if the caller already did not.
pub(crate) fn status_call<F>(call: F) -> Result<()>
where
    F: StatusCall,
{
    let _guard = lock::lock();
    let mut error = error_slot();
    if call.call(&raw mut error) == 0 {
        Ok(())
    } else {
        Err(describe(error, "", &[]))
    }
}

/// A closure, or a binding of that shape.
pub(crate) trait StatusCall {
    fn call(self, error: *mut mlx_sys::error) -> c_int;
}

impl<F: FnOnce(*mut mlx_sys::error) -> c_int> StatusCall for F {
    fn call(self, error: *mut mlx_sys::error) -> c_int {
        self(error)
    }
}

/// Reads one of the allocator's numbers.
pub(crate) fn read_size(
    binding: unsafe extern "C" fn(*mut usize, *mut mlx_sys::error) -> c_int,
) -> Result<usize> {
    let _guard = runtime::enter();
    let mut size = 0;
    // SAFETY: the binding writes one number.
    status_call(|error| unsafe { binding(&raw mut size, error) })?;
    Ok(size)
}

/// Sets one of the allocator's limits and returns the former one.
pub(crate) fn set_limit(
    binding: unsafe extern "C" fn(*mut usize, usize, *mut mlx_sys::error) -> c_int,
    limit: usize,
) -> Result<usize> {
    let _guard = runtime::enter();
    let mut previous = 0;
    // SAFETY: the binding writes one number.
    status_call(|error| unsafe { binding(&raw mut previous, limit, error) })?;
    Ok(previous)
}

/// Calls a binding that takes nothing but the error slot.
pub(crate) fn plain_call(
    binding: unsafe extern "C" fn(*mut mlx_sys::error) -> c_int,
) -> Result<()> {
    let _guard = runtime::enter();
    // SAFETY: the binding takes nothing else.
    status_call(|error| unsafe { binding(error) })
}

/// Turns a filled error slot into an [`Error`] and frees it.
#[cold]
pub fn describe(mut error: mlx_sys::error, op: &'static str, operands: &[&Array]) -> Error {
    use mlx_sys::error_kind as kind;
    let code = u32::try_from(error.kind).unwrap_or(kind::MLXS_ERROR_OTHER);
    if code == kind::MLXS_ERROR_CLOSURE && !error.payload.is_null() {
        // SAFETY: the only payloads are those of `into_failure`, handed over exactly once.
        return unsafe { *Box::from_raw(error.payload.cast::<Error>()) };
    }
    let message = if error.text.is_null() {
        "no explanation".to_owned()
    } else {
        // SAFETY: the shim's texts are NUL-terminated.
        unsafe { CStr::from_ptr(error.text) }
            .to_string_lossy()
            .into_owned()
    };
    // SAFETY: the slot was filled by the shim and is cleared once.
    unsafe { mlx_sys::error_clear(&raw mut error) };
    match code {
        kind::MLXS_ERROR_OUT_OF_MEMORY => Error::OutOfMemory(message),
        _ if op.is_empty() => Error::Backend(message),
        _ => {
            let list: Vec<String> = operands
                .iter()
                .map(|array| format!("{}{:?}", array.dtype(), array.shape()))
                .collect();
            Error::Op {
                op,
                operands: list.join(", "),
                message: strip_prefix(&message).to_owned(),
            }
        }
    }
}

/// MLX begins most messages with its own name of the op, which `Error::Op` gives already.
fn strip_prefix(message: &str) -> &str {
    match message
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((_, rest)) => rest.trim_start(),
        None => message,
    }
}

/// A failure of a user's closure as the box that travels through MLX to [`describe`].
pub fn into_failure(error: Error) -> *mut c_void {
    Box::into_raw(Box::new(error)).cast()
}

/// Frees a box of [`into_failure`] that MLX swallowed.
///
/// # Safety
/// `failure` must come from [`into_failure`] and must not be used again.
pub unsafe extern "C" fn drop_failure(failure: *mut c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(failure.cast::<Error>()) });
}

/// Takes the lock on a thread that MLX knows, for the bindings of `mlx-transforms`.
pub fn enter() -> lock::Guard {
    runtime::enter()
}

/// The storage of a list of results.
#[derive(Debug)]
pub struct ArrayList(mlx_sys::array_list);

impl ArrayList {
    /// An empty list, for the shim to fill.
    #[must_use]
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        ArrayList(mlx_sys::array_list {
            data: std::ptr::null_mut(),
            len: 0,
        })
    }

    /// Where the shim writes.
    pub fn as_mut_ptr(&mut self) -> *mut mlx_sys::array_list {
        &raw mut self.0
    }

    /// Moves the arrays out.
    #[must_use]
    pub fn into_vec(mut self) -> Vec<Array> {
        let mut out = Vec::with_capacity(self.0.len);
        for i in 0..self.0.len {
            // SAFETY: `data` points at `len` owned handles; each is moved out once, because `len`
            // is set to zero before the storage is freed.
            out.push(unsafe { Array::from_raw(self.0.data.add(i).read()) });
        }
        self.0.len = 0;
        out
    }
}

impl Drop for ArrayList {
    fn drop(&mut self) {
        for i in 0..self.0.len {
            // SAFETY: as in `into_vec`; these were not moved out.
            drop(unsafe { Array::from_raw(self.0.data.add(i).read()) });
        }
        // SAFETY: the storage came from the shim, or is null, which it accepts.
        unsafe { mlx_sys::array_list_free(&raw mut self.0) };
    }
}

#[inline]
pub(crate) fn raw_opt(array: Option<&Array>) -> *const mlx_sys::array {
    array.map_or(std::ptr::null(), Array::as_raw)
}

#[inline]
pub(crate) fn opt_axes(axes: Option<&[i32]>) -> (*const i32, usize) {
    axes.map_or((std::ptr::null(), 0), |axes| (axes.as_ptr(), axes.len()))
}

#[inline]
pub(crate) fn opt_int(value: Option<i32>) -> mlx_sys::opt_int {
    mlx_sys::opt_int {
        some: value.is_some(),
        value: value.unwrap_or(0),
    }
}

#[inline]
pub(crate) fn opt_f32(value: Option<f32>) -> mlx_sys::opt_f32 {
    mlx_sys::opt_f32 {
        some: value.is_some(),
        value: value.unwrap_or(0.0),
    }
}

#[inline]
pub(crate) fn opt_bool(value: Option<bool>) -> mlx_sys::opt_bool {
    mlx_sys::opt_bool {
        some: value.is_some(),
        value: value.unwrap_or(false),
    }
}

#[inline]
pub(crate) fn opt_dtype(dtype: Option<Dtype>) -> i32 {
    dtype.map_or(-1, Dtype::code)
}

pub(crate) fn version() -> &'static str {
    // SAFETY: the shim returns a static, NUL-terminated text.
    unsafe { CStr::from_ptr(mlx_sys::version()) }
        .to_str()
        .unwrap_or("unknown")
}

pub(crate) fn eval(arrays: &[&Array]) -> Result<()> {
    if arrays.is_empty() {
        return Ok(());
    }
    let _guard = runtime::enter();
    let mut error = error_slot();
    // SAFETY: `&Array` is a pointer to a handle.
    let status = unsafe { mlx_sys::eval(arrays.as_ptr().cast(), arrays.len(), &raw mut error) };
    if status == 0 {
        Ok(())
    } else {
        Err(describe(error, "eval", &[]))
    }
}

pub(crate) fn async_eval(arrays: &[&Array]) -> Result<()> {
    if arrays.is_empty() {
        return Ok(());
    }
    let _guard = runtime::enter();
    let mut error = error_slot();
    // SAFETY: `&Array` is a pointer to a handle.
    let status =
        unsafe { mlx_sys::async_eval(arrays.as_ptr().cast(), arrays.len(), &raw mut error) };
    if status == 0 {
        Ok(())
    } else {
        Err(describe(error, "async_eval", &[]))
    }
}

/// How the shim waits: without the lock, so that other threads go on meanwhile.
pub(crate) unsafe extern "C" fn wait_unlocked(
    body: Option<unsafe extern "C" fn(*mut c_void)>,
    context: *mut c_void,
) {
    if let Some(body) = body {
        // SAFETY: the shim's own function with its own context; it throws nothing.
        lock::unlocked(|| unsafe { body(context) });
    }
}

/// Stores a text of the shim's in the `String` that is its context.
pub(crate) unsafe extern "C" fn visit_text(context: *mut c_void, text: *const c_char) {
    // SAFETY: `context` is the caller's string, not otherwise borrowed during the call.
    let out = unsafe { &mut *context.cast::<String>() };
    if !text.is_null() {
        // SAFETY: the shim's texts are NUL-terminated and outlive the call.
        *out = unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned();
    }
}

/// The order of contraction and MLX's report on it.
pub(crate) fn einsum_path(
    subscripts: &str,
    operands: &[&Array],
) -> Result<(Vec<Vec<usize>>, String)> {
    struct Path {
        steps: Vec<Vec<usize>>,
        report: String,
    }
    unsafe extern "C" fn visit_step(context: *mut c_void, operands: *const i32, n: usize) {
        // SAFETY: `context` is the path below, not otherwise borrowed during the call.
        let path = unsafe { &mut *context.cast::<Path>() };
        let step = (0..n)
            // SAFETY: the shim passes `n` numbers.
            .filter_map(|i| usize::try_from(unsafe { operands.add(i).read() }).ok())
            .collect();
        path.steps.push(step);
    }
    unsafe extern "C" fn visit_report(context: *mut c_void, text: *const c_char) {
        // SAFETY: as in `visit_step`.
        let path = unsafe { &mut *context.cast::<Path>() };
        // SAFETY: the report is a string, not otherwise borrowed.
        unsafe { visit_text((&raw mut path.report).cast(), text) };
    }
    let mut path = Path {
        steps: Vec::new(),
        report: String::new(),
    };
    let _guard = runtime::enter();
    let mut error = error_slot();
    // SAFETY: text and handles with their true lengths; the visits happen during this call.
    let status = unsafe {
        mlx_sys::einsum_path(
            subscripts.as_ptr().cast(),
            subscripts.len(),
            operands.as_ptr().cast(),
            operands.len(),
            (&raw mut path).cast(),
            Some(visit_step),
            Some(visit_report),
            &raw mut error,
        )
    };
    if status == 0 {
        Ok((path.steps, path.report))
    } else {
        Err(describe(error, "einsum_path", operands))
    }
}

/// The dtype to which two promote.
pub(crate) fn promote_types(a: Dtype, b: Dtype) -> Dtype {
    let mut code = -1;
    let mut error = error_slot();
    // SAFETY: lock-free; a place valid for writes.
    unsafe { mlx_sys::promote_types(&raw mut code, a.code(), b.code(), &raw mut error) };
    // Both sides list the same dtypes, so there is always an answer.
    Dtype::from_code(code).unwrap_or(a)
}

pub(crate) fn buffer_size(arrays: &[&Array]) -> Result<usize> {
    let _guard = runtime::enter();
    let mut size = 0;
    // SAFETY: live handles with their true count; one number is written.
    status_call(|error| unsafe {
        mlx_sys::memory_of_arrays(&raw mut size, arrays.as_ptr().cast(), arrays.len(), error)
    })?;
    Ok(size)
}

pub(crate) fn seed(seed: u64) -> Result<()> {
    let _guard = runtime::enter();
    // SAFETY: a plain value and a valid slot.
    status_call(|error| unsafe { mlx_sys::random_seed(seed, error) })
}

/// Copies `bytes` into a new array. The caller has checked that they fill `dims`.
pub(crate) fn array_from_bytes(bytes: &[u8], dims: &[i32], dtype: Dtype) -> Result<Array> {
    one("from_bytes", &[], Stream::Current, |out, _, error| {
        // SAFETY: pointers with their true lengths.
        unsafe {
            mlx_sys::array_from_data(
                out,
                bytes.as_ptr().cast(),
                bytes.len(),
                dims.as_ptr(),
                dims.len(),
                dtype.code(),
                error,
            )
        }
    })
}

/// Makes an array of `dims`, which hold `size` elements, and lets `fill` write them.
pub(crate) fn array_build<T: Element>(
    dims: &[i32],
    size: usize,
    fill: impl FnOnce(&mut [T]) -> Result<()>,
) -> Result<Array> {
    let array = one("build", &[], Stream::Current, |out, _, error| {
        // SAFETY: no data to copy: the shim allocates and clears the bytes.
        unsafe {
            mlx_sys::array_from_data(
                out,
                std::ptr::null(),
                size * size_of::<T>(),
                dims.as_ptr(),
                dims.len(),
                T::DTYPE.code(),
                error,
            )
        }
    })?;
    if size == 0 {
        fill(&mut [])?;
        return Ok(array);
    }
    let data = memory(&array)?.as_ptr().cast_mut().cast::<T>();
    // SAFETY: the array was made above and nothing else knows it; its memory holds `size` elements,
    // aligned by MLX's allocator, of which zero is a valid value.
    fill(unsafe { std::slice::from_raw_parts_mut(data, size) })?;
    Ok(array)
}

/// A slice of elements as its bytes.
pub(crate) fn bytes_of<T: Element>(data: &[T]) -> &[u8] {
    // SAFETY: elements are plain values without padding.
    unsafe { std::slice::from_raw_parts(data.as_ptr().cast(), std::mem::size_of_val(data)) }
}

pub(crate) fn array_from_scalar<T: Element>(value: T) -> Result<Array> {
    one("scalar", &[], Stream::Current, |out, _, error| {
        // SAFETY: the shim reads one element of this dtype.
        unsafe {
            mlx_sys::array_from_scalar(out, (&raw const value).cast(), T::DTYPE.code(), error)
        }
    })
}

/// Takes a vector over. The caller has checked that it fills `dims`.
pub(crate) fn array_from_vec<T: Element>(data: Vec<T>, dims: &[i32]) -> Result<Array> {
    if data.is_empty() {
        return array_from_bytes(&[], dims, T::DTYPE);
    }
    let mut owner = Box::new(data);
    let pointer = owner.as_mut_ptr();
    // SAFETY: the memory is the vector's, which holds an element for each place of `dims`; elements
    // have no destructor, so any thread may free it.
    unsafe { array_from_foreign(pointer.cast(), dims, T::DTYPE, owner) }
}

/// Makes an array of memory that `owner` keeps alive, and that MLX may write.
///
/// # Safety
/// `data` must be aligned for the dtype, hold an element for each place of `dims`, and be nobody
/// else's until `owner` is dropped, which may happen on any thread.
pub(crate) unsafe fn array_from_foreign<O>(
    data: *mut c_void,
    dims: &[i32],
    dtype: Dtype,
    owner: Box<O>,
) -> Result<Array> {
    unsafe extern "C" fn release<O>(payload: *mut c_void) {
        // SAFETY: the payload is the box below, released once.
        drop(unsafe { Box::from_raw(payload.cast::<O>()) });
    }
    let payload = Box::into_raw(owner);
    one("from_vec", &[], Stream::Current, |out, _, error| {
        // SAFETY: the caller's promise; the memory lives until `release`, which the shim calls
        // exactly once.
        unsafe {
            mlx_sys::array_from_owned_data(
                out,
                data,
                dims.as_ptr(),
                dims.len(),
                dtype.code(),
                payload.cast(),
                Some(release::<O>),
                error,
            )
        }
    })
}

impl Array {
    /// # Safety
    /// `raw` must be an owned handle that nothing else will drop.
    #[doc(hidden)]
    #[inline]
    pub unsafe fn from_raw(raw: mlx_sys::array) -> Self {
        Array { raw }
    }

    #[doc(hidden)]
    #[inline]
    pub fn as_raw(&self) -> *const mlx_sys::array {
        &raw const self.raw
    }

    /// Views adjacent handles that MLX owns as arrays.
    ///
    /// # Safety
    /// `data` must point at `len` live handles for as long as the slice is used.
    #[doc(hidden)]
    pub unsafe fn slice_from_raw<'a>(data: *const mlx_sys::array, len: usize) -> &'a [Array] {
        if len == 0 {
            return &[];
        }
        // SAFETY: the caller's promise; `Array` is a transparent handle.
        unsafe { std::slice::from_raw_parts(data.cast(), len) }
    }

    #[inline]
    pub(crate) fn raw_shape(&self) -> &[i32] {
        // SAFETY: lock-free reads of a description that never changes and lives with the handle.
        unsafe {
            let len = mlx_sys::array_ndim(self.as_raw());
            if len == 0 {
                return &[];
            }
            std::slice::from_raw_parts(mlx_sys::array_shape(self.as_raw()), len)
        }
    }

    #[inline]
    pub(crate) fn raw_size(&self) -> usize {
        // SAFETY: as in `raw_shape`.
        unsafe { mlx_sys::array_size(self.as_raw()) }
    }

    #[inline]
    pub(crate) fn raw_dtype(&self) -> i32 {
        // SAFETY: as in `raw_shape`.
        unsafe { mlx_sys::array_dtype(self.as_raw()) }
    }

    pub(crate) fn raw_id(&self) -> usize {
        // SAFETY: as in `raw_shape`.
        unsafe { mlx_sys::array_id(self.as_raw()) }
    }

    pub(crate) fn raw_status(&self) -> i32 {
        let _guard = lock::lock();
        // SAFETY: a plain read under the lock.
        unsafe { mlx_sys::array_status(self.as_raw()) }
    }
}

impl Clone for Array {
    #[inline]
    fn clone(&self) -> Self {
        let mut out = MaybeUninit::uninit();
        // SAFETY: lock-free; stores an owned handle.
        unsafe {
            mlx_sys::array_clone(out.as_mut_ptr(), self.as_raw());
            Array::from_raw(out.assume_init())
        }
    }
}

impl Drop for Array {
    #[inline]
    fn drop(&mut self) {
        let _guard = lock::lock();
        // SAFETY: the handle is live and dropped once.
        unsafe { mlx_sys::array_drop(&raw mut self.raw) };
    }
}

// SAFETY: a handle is an atomically counted pointer; everything behind it that can change is
// touched only under the lock of `lock`, and what cannot change is read without.
unsafe impl Send for Array {}
// SAFETY: as above; no method hands out unlocked access to what can change. Memory that is read
// through `memory` is never written again while a handle lives.
unsafe impl Sync for Array {}
