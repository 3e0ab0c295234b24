//! Random transforms of every public op with hostile arguments. They may fail, but not crash.
//!
//! The arguments are those of `mlx-core`'s own fuzz test; here the arrays among them become the
//! inputs of a function, which is differentiated, batched, compiled, or written to a file and read
//! back. Functions compiled or exported `shapeless` are called with the arrays of another case too.
//! Hooks of custom functions return what does not fit, tangents have other dtypes, and axes have
//! size 0 or 1. `cargo xtask fuzz --transforms` makes many more.

mod files;
mod hooks;

#[path = "../../crates/mlx-core/tests/it/fuzz/harness.rs"]
mod harness;
#[path = "../../crates/mlx-core/tests/it/fuzz/hostile.rs"]
mod hostile;
#[path = "../../crates/mlx-core/tests/it/fuzz/recipes.rs"]
mod recipes;

use mlx_core::ops::shape::{expand_dims, stack};
use mlx_core::{Array, Dtype, DtypeCategory, Error, Index, Result};
use mlx_transforms::{CompileMode, compile, jvp, set_compile_mode, value_and_grad, vmap};

use self::harness::Fuzz;
use self::hostile::{Hostile, Rng};
use crate::calls::{Arguments, NAMES, call};

/// Results larger than this are built and dropped, not computed.
const COMPUTED_BYTES: usize = 1 << 20;
/// What is done to a call; every op gets each in turn.
const KINDS: u64 = 13;

#[test]
fn transforms_of_hostile_calls_never_crash() {
    let fuzz = Fuzz {
        test: "transform_fuzz::transforms_of_hostile_calls_never_crash",
        cases: 6_000,
        one,
        hopeless: None,
    };
    fuzz.run();
}

/// Gives what `inner` gives, but other arrays in place of its own.
struct Swap<'a> {
    inner: Hostile,
    given: &'a [Array],
    own: Vec<Array>,
}

impl Swap<'_> {
    fn swap(&mut self, array: Array) -> Array {
        let place = self.own.len();
        let other = self.given.get(place).cloned();
        self.own.push(array.clone());
        other.unwrap_or(array)
    }
}

macro_rules! pass_on {
    ($($name:ident -> $type:ty;)*) => {$(
        fn $name(&mut self, name: &str) -> Result<$type> {
            self.inner.$name(name)
        }
    )*};
}

impl Arguments for Swap<'_> {
    fn opt_array(&mut self, name: &str) -> Result<Option<Array>> {
        let array = self.inner.opt_array(name)?;
        Ok(array.map(|array| self.swap(array)))
    }

    fn array(&mut self, name: &str) -> Result<Array> {
        let array = self.inner.array(name)?;
        Ok(self.swap(array))
    }

    fn arrays(&mut self, name: &str) -> Result<Vec<Array>> {
        let arrays = self.inner.arrays(name)?;
        Ok(arrays.into_iter().map(|array| self.swap(array)).collect())
    }

    pass_on! {
        opt_int -> Option<i32>;
        int -> i32;
        opt_ints -> Option<Vec<i32>>;
        ints -> Vec<i32>;
        longs -> Vec<i64>;
        pairs -> Vec<(i32, i32)>;
        u64 -> u64;
        opt_f32 -> Option<f32>;
        f64 -> f64;
        opt_bool -> Option<bool>;
        opt_dtype -> Option<Dtype>;
        dtype -> Dtype;
        opt_text -> Option<String>;
        index -> Vec<Index>;
    }
}

/// One case's call, as a function of its arrays.
#[derive(Clone, Copy)]
struct Call {
    seed: u64,
    case: u64,
    op: (&'static str, &'static str),
}

impl Call {
    /// The results, the arrays that the call has by itself, and whether it is too large to compute.
    fn run(self, given: &[Array]) -> Result<(Vec<Array>, Vec<Array>, bool)> {
        let (family, name) = self.op;
        let mut arguments = Swap {
            inner: Hostile::new(self.seed, self.case, family, name)?,
            given,
            own: Vec::new(),
        };
        let results = call(family, name, &mut arguments)?;
        Ok((results, arguments.own, arguments.inner.huge))
    }

    fn function(self) -> impl Fn(&[Array]) -> Result<Vec<Array>> + Copy + 'static {
        move |given: &[Array]| Ok(self.run(given)?.0)
    }

    fn total(self) -> impl Fn(&[Array]) -> Result<Vec<Array>> + Copy + 'static {
        move |given: &[Array]| total(self.run(given)?.0)
    }

    /// Choices of this case that its arguments do not depend on.
    fn choices(self) -> Result<Rng> {
        let (family, name) = self.op;
        Ok(Hostile::new(!self.seed, self.case, family, name)?.rng)
    }
}

/// The sum of all results that are floating point.
fn total(results: Vec<Array>) -> Result<Vec<Array>> {
    let mut total = Array::scalar(0.0f32)?;
    for result in results {
        let dtype = result.dtype();
        if dtype == Dtype::Complex64 {
            total = (total + result.real()?.sum(false)?)?;
        } else if dtype.is_subtype(DtypeCategory::Inexact) {
            total = (total + result.astype(Dtype::Float32)?.sum(false)?)?;
        }
    }
    Ok(vec![total])
}

fn one(seed: u64, case: u64, op: (&'static str, &'static str)) -> Result<bool> {
    // Each fused graph would ask for a C++ compiler; those have tests of their own.
    set_compile_mode(CompileMode::NoFuse)?;
    let count = u64::try_from(NAMES.len()).unwrap();
    let call = Call { seed, case, op };
    let (results, own, huge) = call.run(&[])?;
    if huge || own.is_empty() || results.iter().any(large) || own.iter().any(large) {
        return Ok(false);
    }
    let mut rng = call.choices()?;
    let place = rng.below(own.len());
    let every: Vec<i32> = (0..i32::try_from(own.len()).unwrap()).collect();
    let outputs = match case / count % KINDS {
        0 => value_and_grad(call.total(), &every[place..=place])?(&own)?.1,
        1 => value_and_grad(call.total(), &every)?(&own)?.1,
        2 => jvp(call.function(), &own, &ones_like(&own)?)?.1,
        3 => pushed(call, &own, &mut rng)?,
        4 => mapped(call.function(), &own, None, results.len(), &mut rng)?,
        5 => mapped(call.function(), &own, Some(place), results.len(), &mut rng)?,
        6 => compile(call.function(), false)?(&own)?,
        7 => varied(call, &own, count, compile(call.function(), true)?)?,
        8 => hooks::pulled(call, &own, &mut rng)?,
        9 => hooks::pushed(call, &own, &mut rng)?,
        10 => hooks::mapped(call, &own, results.len(), &mut rng)?,
        11 => hooks::run_again(call, &own, &mut rng)?,
        _ => files::replayed(call, &own, count, &mut rng)?,
    };
    for output in outputs.iter().filter(|output| !large(output)) {
        if let Err(error) = output.to_bytes() {
            // What nothing wrote must not become readable because somebody looked.
            assert!(output.to_bytes().is_err(), "readable after {error}");
            return Err(error);
        }
    }
    Ok(true)
}

fn large(array: &Array) -> bool {
    array.size().saturating_mul(array.dtype().size()) > COMPUTED_BYTES
}

fn ones_like(arrays: &[Array]) -> Result<Vec<Array>> {
    arrays
        .iter()
        .map(|array| Array::ones_dtype(array.shape(), array.dtype()))
        .collect()
}

/// Forward mode with tangents of other dtypes, which must be refused.
fn pushed(call: Call, own: &[Array], rng: &mut Rng) -> Result<Vec<Array>> {
    let mut tangents = ones_like(own)?;
    let place = rng.below(own.len());
    tangents[place] = tangents[place].astype(rng.pick(&Dtype::ALL))?;
    let fits = tangents[place].dtype() == own[place].dtype();
    let result = jvp(call.function(), own, &tangents);
    assert!(fits || result.is_err(), "a tangent of another dtype");
    Ok(result?.1)
}

/// The function on several slices of each array, or of the one at `place`. Without a slice it must
/// be refused.
fn mapped(
    function: impl Fn(&[Array]) -> Result<Vec<Array>> + 'static,
    own: &[Array],
    place: Option<usize>,
    results: usize,
    rng: &mut Rng,
) -> Result<Vec<Array>> {
    if results == 0 {
        return Err(Error::Unsupported("no results".to_owned()));
    }
    let slices = rng.pick(&[2, 2, 1, 1, 0]);
    let mut axes = vec![None; own.len()];
    let mut inputs = own.to_vec();
    for (number, array) in own.iter().enumerate() {
        if place.is_some_and(|place| place != number) {
            continue;
        }
        let rank = i32::try_from(array.ndim()).unwrap();
        let axis = rng.pick(&[0, 0, rank, rank / 2, -1]);
        let mut none = array.shape().to_vec();
        none.insert(
            usize::try_from(if axis < 0 { rank } else { axis }).unwrap(),
            0,
        );
        inputs[number] = match slices {
            0 => Array::zeros_dtype(&none, array.dtype())?,
            1 => expand_dims(array, &[axis])?,
            _ => stack(&[array, array], axis)?,
        };
        axes[number] = Some(axis);
    }
    let result = vmap(function, &axes, &vec![Some(0); results])?(&inputs);
    assert!(slices > 0 || result.is_err(), "no slices");
    result
}

/// The function on the call's own arrays and on those of later cases of the op.
fn varied(
    call: Call,
    own: &[Array],
    count: u64,
    function: impl Fn(&[Array]) -> Result<Vec<Array>>,
) -> Result<Vec<Array>> {
    let mut outputs = function(own)?;
    for later in 1..12 {
        let other = Call {
            case: call.case + later * count,
            ..call
        };
        let Ok((_, arrays, false)) = other.run(&[]) else {
            continue;
        };
        if arrays.len() != own.len() || arrays.iter().any(large) {
            continue;
        }
        // The same dtypes, so that the first trace is replayed wherever the ranks agree.
        let same = arrays
            .iter()
            .zip(own)
            .map(|(array, first)| array.astype(first.dtype()));
        if let Ok(more) = function(&same.collect::<Result<Vec<_>>>()?) {
            outputs.extend(more);
        }
        // One array changes and the others stay.
        let mut mixed = own.to_vec();
        let place = usize::try_from(later).unwrap() % own.len();
        mixed[place] = arrays[place].astype(own[place].dtype())?;
        if let Ok(more) = function(&mixed) {
            outputs.extend(more);
        }
    }
    Ok(outputs)
}
