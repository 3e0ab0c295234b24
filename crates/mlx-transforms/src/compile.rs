//! Compilation of graphs.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mlx_core::{Array, Error, Result};

use crate::closure::{self, Compiled};

/// A function that traces `f` once for each combination of input shapes and dtypes, and from then
/// on runs the simplified, fused graph without calling `f`.
///
/// With `shapeless` one trace serves all shapes of the same ranks. Operations that need to know
/// theirs refuse that, and a call is an error whose shapes the trace cannot serve: each operation of
/// the graph is checked before it runs. A shape that `f` reads is that of the trace, so `f` must
/// not compute with it; neither must it make arrays of that shape, as `ones_like` does.
///
/// `f` must be pure: arrays that it captures become constants of the graph (see
/// [`compile_with_state`] for those that change), evaluating inside it is an error, and its side
/// effects happen while tracing only.
///
/// The function returned is `Send`, and `Sync`, if `f` is both: each thread that calls it traces
/// for itself. A call from within `f` itself runs uncompiled.
///
/// On the CPU MLX fuses through the C++ compiler `g++`; without one the function runs unfused.
///
/// ```
/// use mlx_core::array;
/// use mlx_transforms::compile;
///
/// let gelu = compile(|xs| Ok(vec![((&xs[0] * 1.702)?.sigmoid()? * &xs[0])?]), true)?;
/// assert_eq!(gelu(&[array!([0.0, 1.0, 2.0])?])?[0].shape(), [3]);
/// assert_eq!(gelu(&[array!([0.5])?])?[0].shape(), [1]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::OutOfMemory`] if there is none left. The function returned fails as `f` does.
pub fn compile<F>(
    f: F,
    shapeless: bool,
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let compiled = Compiled::new(f, shapeless)?;
    Ok(move |inputs: &[Array]| compiled.call(inputs))
}

/// Arrays that outlive the calls of a function compiled with [`compile_with_state`]: parameters,
/// optimizer state, random keys. Clones share them; any thread may read and replace them.
#[derive(Clone, Debug, Default)]
pub struct State {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    arrays: Mutex<Vec<Array>>,
    /// Held during a call, which reads the arrays at its beginning and replaces them at its end.
    turn: Mutex<()>,
    /// How many arrays the running call began with.
    count: AtomicUsize,
}

impl State {
    /// State that begins as `arrays`.
    pub fn new(arrays: Vec<Array>) -> Self {
        let state = State::default();
        state.set(arrays);
        state
    }

    /// The arrays as the last finished call left them.
    pub fn get(&self) -> Vec<Array> {
        self.lock().clone()
    }

    /// Replaces the arrays. Another number of them, or other shapes, lead to another trace. A call
    /// that is running on another thread has the last word.
    pub fn set(&self, arrays: Vec<Array>) {
        let before = std::mem::replace(&mut *self.lock(), arrays);
        // Dropped outside the guard: releasing arrays takes a lock of its own.
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Array>> {
        // A panic cannot leave the list half-written.
        self.shared
            .arrays
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    /// The states of the calls that this thread is in the middle of, by address.
    static BUSY: RefCell<Vec<*const Shared>> = const { RefCell::new(Vec::new()) };
}

/// [`compile`] for a function that also reads and replaces arrays which are no arguments.
///
/// `f` gets the state as its second argument and leaves the new one there, of the same number of
/// arrays. What other functions capture silently is thus declared: a captured array would become a
/// constant of the compiled graph, and a new value stored during tracing would be a placeholder.
/// Calls wait for each other, so none is lost. A call that fails leaves the state as it was.
///
/// ```
/// use mlx_core::array;
/// use mlx_transforms::{State, compile_with_state};
///
/// let total = State::new(vec![array!(0.0)?]);
/// let add = compile_with_state(
///     |xs, state| {
///         state[0] = (&state[0] + xs[0].sum(false)?)?;
///         Ok(vec![])
///     },
///     &total,
///     false,
/// )?;
/// add(&[array!([1.0, 2.0])?])?;
/// add(&[array!([3.0, 4.0])?])?;
/// assert_eq!(total.get()[0].item::<f32>()?, 10.0);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// As [`compile`]. The function returned also fails with [`Error::Shape`] if `f` changes the number
/// of arrays, and with [`Error::Unsupported`] if it is called from within itself.
pub fn compile_with_state<F>(
    f: F,
    state: &State,
    shapeless: bool,
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static + use<F>>
where
    F: Fn(&[Array], &mut Vec<Array>) -> Result<Vec<Array>> + 'static,
{
    let state = state.clone();
    let shared = Arc::clone(&state.shared);
    let compiled = Compiled::new(
        move |inputs: &[Array]| {
            let count = shared.count.load(Ordering::Acquire);
            let (inputs, before) = inputs.split_at(inputs.len().saturating_sub(count));
            let mut arrays = before.to_vec();
            let mut outputs = f(inputs, &mut arrays)?;
            if arrays.len() != count {
                return Err(Error::Shape {
                    op: "compile_with_state",
                    message: format!("a state of {count} arrays became {}", arrays.len()),
                });
            }
            outputs.append(&mut arrays);
            Ok(outputs)
        },
        shapeless,
    )?;
    Ok(move |inputs: &[Array]| {
        let _turn = Turn::take(&state.shared)?;
        let mut all = inputs.to_vec();
        let arrays = state.get();
        let count = arrays.len();
        state.shared.count.store(count, Ordering::Release);
        all.extend(arrays);
        let mut outputs = compiled.call(&all)?;
        state.set(outputs.split_off(outputs.len().saturating_sub(count)));
        Ok(outputs)
    })
}

/// The right to run one call.
struct Turn<'a> {
    _guard: MutexGuard<'a, ()>,
}

impl<'a> Turn<'a> {
    fn take(shared: &'a Arc<Shared>) -> Result<Self> {
        let place = Arc::as_ptr(shared);
        if BUSY.with_borrow(|busy| busy.contains(&place)) {
            return Err(Error::Unsupported(
                "compile_with_state: the function was called from within itself".to_owned(),
            ));
        }
        let guard = shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        BUSY.with_borrow_mut(|busy| busy.push(place));
        Ok(Turn { _guard: guard })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        BUSY.with_borrow_mut(Vec::pop);
    }
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

/// Sets how much [`compile`] does with functions that it is given from now on, for the whole
/// process.
///
/// # Errors
/// None in practice.
pub fn set_compile_mode(mode: CompileMode) -> Result<()> {
    closure::set_compile_mode(mode as i32)
}

/// Makes [`compile`] return functions as they are, for the whole process: to find out whether a
/// difference comes from compilation.
///
/// # Errors
/// None in practice.
pub fn disable_compile() -> Result<()> {
    set_compile_mode(CompileMode::Disabled)
}

/// Undoes [`disable_compile`], also where the environment variable `MLX_DISABLE_COMPILE` is set.
///
/// # Errors
/// None in practice.
pub fn enable_compile() -> Result<()> {
    set_compile_mode(CompileMode::Enabled)
}
