//! Random transforms of every public op with hostile arguments. They may fail, but not crash.
//!
//! The arguments are those of `mlx-core`'s own fuzz test; here the arrays among them become the
//! inputs of a function, which is differentiated, batched or compiled. Functions compiled
//! `shapeless` are called with the arrays of another case too. `cargo xtask fuzz --transforms`
//! makes many more.

#[path = "../../crates/mlx-core/tests/it/fuzz/harness.rs"]
mod harness;
#[path = "../../crates/mlx-core/tests/it/fuzz/hostile.rs"]
mod hostile;
#[path = "../../crates/mlx-core/tests/it/fuzz/recipes.rs"]
mod recipes;

use mlx_core::{Array, Dtype, DtypeCategory, Error, Index, Result};
use mlx_transforms::{CompileMode, compile, jvp, set_compile_mode, value_and_grad, vmap};

use self::harness::Fuzz;
use self::hostile::Hostile;
use crate::calls::{Arguments, NAMES, call};

/// Results larger than this are built and dropped, not computed.
const COMPUTED_BYTES: usize = 1 << 20;

#[test]
fn transforms_of_hostile_calls_never_crash() {
    let fuzz = Fuzz {
        test: "transform_fuzz::transforms_of_hostile_calls_never_crash",
        cases: 4_000,
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

    /// The sum of all results that are floating point.
    fn total(self) -> impl Fn(&[Array]) -> Result<Vec<Array>> + Copy + 'static {
        move |given: &[Array]| {
            let mut total = Array::scalar(0.0f32)?;
            for result in self.run(given)?.0 {
                let dtype = result.dtype();
                if dtype == Dtype::Complex64 {
                    total = (total + result.real()?.sum(false)?)?;
                } else if dtype.is_subtype(DtypeCategory::Inexact) {
                    total = (total + result.astype(Dtype::Float32)?.sum(false)?)?;
                }
            }
            Ok(vec![total])
        }
    }
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
    let place = usize::try_from(case / 7).unwrap() % own.len();
    let every: Vec<i32> = (0..i32::try_from(own.len()).unwrap()).collect();
    let outputs = match case / count % 7 {
        0 => value_and_grad(call.total(), &every[place..=place])?(&own)?.1,
        1 => value_and_grad(call.total(), &every)?(&own)?.1,
        2 => {
            let ones = |array: &Array| Array::ones_dtype(array.shape(), array.dtype());
            let tangents: Vec<Array> = own.iter().map(ones).collect::<Result<_>>()?;
            jvp(call.function(), &own, &tangents)?.1
        }
        3 => {
            let axes = vec![Some(0); own.len()];
            mapped(call, &own, &axes, results.len())?
        }
        4 => {
            let mut axes = vec![None; own.len()];
            axes[place] = Some(0);
            mapped(call, &own, &axes, results.len())?
        }
        5 => compile(call.function(), false)?(&own)?,
        _ => replayed(call, &own, count)?,
    };
    for output in outputs.iter().filter(|output| !large(output)) {
        output.to_bytes()?;
    }
    Ok(true)
}

fn large(array: &Array) -> bool {
    array.size().saturating_mul(array.dtype().size()) > COMPUTED_BYTES
}

/// The call on pairs of arrays.
fn mapped(call: Call, own: &[Array], axes: &[Option<i32>], results: usize) -> Result<Vec<Array>> {
    if results == 0 {
        return Err(Error::Unsupported("no results".to_owned()));
    }
    let pair = |(array, axis): (&Array, &Option<i32>)| match axis {
        Some(_) => mlx_core::ops::shape::stack(&[array, array], 0),
        None => Ok(array.clone()),
    };
    let inputs: Vec<Array> = own.iter().zip(axes).map(pair).collect::<Result<_>>()?;
    vmap(call.function(), axes, &vec![Some(0); results])?(&inputs)
}

/// A shapeless trace of the call, run on its own arrays and on those of later cases of the op.
fn replayed(call: Call, own: &[Array], count: u64) -> Result<Vec<Array>> {
    let function = compile(call.function(), true)?;
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
