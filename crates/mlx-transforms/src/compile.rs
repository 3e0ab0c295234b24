//! Compilation of graphs.

use std::sync::atomic::{AtomicUsize, Ordering};

use mlx_core::{Array, Result};

use crate::closure::{self, Closure};

/// MLX's cache of compiled graphs is keyed by this number, so it never repeats. It begins far from
/// the addresses that MLX uses as keys for functions of its own.
static NEXT_ID: AtomicUsize = AtomicUsize::new(1 << (usize::BITS - 2));

/// A function that traces `f` once for each combination of input shapes and dtypes, and from then
/// on runs the simplified, fused graph without calling `f`.
///
/// With `shapeless` one trace serves all shapes; operations that need to know theirs refuse that.
/// `f` must be pure: arrays that it captures become constants of the graph, evaluating inside it
/// is an error, and its side effects happen while tracing only. The result is not `Send`: MLX
/// keeps compiled graphs for each thread.
///
/// On the CPU MLX fuses through the C++ compiler `g++`; without one the function runs unfused.
///
/// # Errors
/// [`Error::OutOfMemory`](mlx_core::Error::OutOfMemory) if there is none left. The function
/// returned fails as `f` does.
pub fn compile<F>(
    f: F,
    shapeless: bool,
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    struct Compiled {
        closure: Closure,
        id: usize,
    }
    impl Drop for Compiled {
        fn drop(&mut self) {
            closure::compile_erase(self.id);
        }
    }
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    let compiled = Compiled {
        closure: Closure::new(f)?.compile(id, shapeless)?,
        id,
    };
    Ok(move |inputs: &[Array]| compiled.closure.call(inputs))
}

/// How much [`compile`] does, for the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompileMode {
    /// Nothing: functions run as they are.
    Disabled,
    /// Traces only.
    NoSimplify,
    /// Traces and simplifies.
    NoFuse,
    /// Traces, simplifies and fuses.
    Enabled,
}

/// Sets how much [`compile`] does, for the whole process.
///
/// # Errors
/// None in practice.
pub fn set_compile_mode(mode: CompileMode) -> Result<()> {
    closure::set_compile_mode(mode as i32)
}
