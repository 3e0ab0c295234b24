//! Graphs as text.

use std::ffi::{CString, c_char, c_void};

use mlx_core::{Array, Error, Result, ffi};

use super::{run, with_room};

/// The graph that `outputs` depend on, in Graphviz's language or as plain text.
pub(crate) fn write_graph(
    dot: bool,
    outputs: &[Array],
    names: &[(String, Array)],
) -> Result<Vec<u8>> {
    unsafe extern "C" fn write(context: *mut c_void, text: *const c_char, length: usize) {
        // SAFETY: `context` is the buffer below, not otherwise borrowed during the call; the text
        // has this length.
        unsafe {
            let out = &mut *context.cast::<Vec<u8>>();
            out.extend_from_slice(std::slice::from_raw_parts(text.cast::<u8>(), length));
        }
    }
    // What follows a zero byte would not show anyway.
    let texts: Vec<CString> = names
        .iter()
        .map(|(name, _)| CString::new(name.replace('\0', "")).unwrap_or_default())
        .collect();
    let pointers: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let arrays: Vec<Array> = names.iter().map(|(_, array)| array.clone()).collect();
    let mut out = Vec::new();
    with_room(|| {
        let depth = {
            let _guard = ffi::enter();
            // SAFETY: live handles with their true count.
            unsafe { mlx_sys::graph_depth_of(outputs.as_ptr().cast(), outputs.len()) }
        };
        if !ffi::fits(depth) {
            return Err(Error::Unsupported(format!(
                "print_graph: a chain of {depth} operations is more than MLX can follow"
            )));
        }
        run("print_graph", outputs, |error| {
            // SAFETY: arrays and NUL-terminated names with their true counts; `write` is called during
            // this call only, with `out` as its context.
            unsafe {
                mlx_sys::graph_write(
                    dot,
                    outputs.as_ptr().cast(),
                    outputs.len(),
                    pointers.as_ptr(),
                    arrays.as_ptr().cast(),
                    arrays.len(),
                    (&raw mut out).cast(),
                    Some(write),
                    error,
                )
            }
        })
    })?;
    Ok(out)
}
