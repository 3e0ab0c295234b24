//! Random calls of every public op with hostile arguments. A call may fail; it may not crash.
//!
//! A crash ends a process, so the calls are made in a child that notes the number of the case
//! before it starts; see [`harness`]. `cargo xtask fuzz` runs many more of them.

mod harness;
mod hostile;
mod recipes;

use mlx_core::{Array, eval};

use self::harness::Fuzz;
use self::hostile::Hostile;
use crate::calls::{NAMES, call};

/// Results larger than this are built and dropped, not computed.
const COMPUTED_BYTES: usize = 1 << 20;

#[test]
fn hostile_calls_never_crash() {
    let fuzz = Fuzz {
        test: "fuzz::hostile_calls_never_crash",
        cases: 6_000,
        one,
        // MLX has no CPU implementation of these.
        hopeless: Some(&[
            "quantized::gather_qmm_with_global_scale",
            "quantized::gather_qqmm",
        ]),
    };
    fuzz.run();
}

/// The same calls from four threads at once. In this process: a sanitizer's report names the call.
#[test]
fn hostile_calls_from_many_threads_harm_nobody() {
    let wanted = std::env::var("MLX_FUZZ_CASES");
    let cases = wanted.map_or(1_000, |cases| cases.parse::<u64>().unwrap());
    std::thread::scope(|scope| {
        for first in 0..4 {
            scope.spawn(move || {
                for case in (first..cases).step_by(4) {
                    let op = usize::try_from(case).unwrap() % NAMES.len();
                    // Whether a call succeeds is the other test's matter.
                    let _ = one(2, case, NAMES[op]);
                }
            });
        }
    });
}

/// Makes a call, and computes and reads its results if they are small. Says whether they were.
fn one(seed: u64, case: u64, (family, name): (&str, &str)) -> mlx_core::Result<bool> {
    let mut hostile = Hostile::new(seed, case, family, name)?;
    let results = call(family, name, &mut hostile)?;
    let large = |array: &Array| array.size().saturating_mul(array.dtype().size()) > COMPUTED_BYTES;
    if hostile.huge || results.iter().any(large) {
        return Ok(false);
    }
    let all: Vec<&Array> = results.iter().collect();
    if let Err(error) = eval(&all) {
        // What nothing wrote stays out of reach.
        assert!(
            eval(&all).is_err(),
            "a second look finds values after {error}"
        );
        return Err(error);
    }
    for array in all {
        assert_eq!(
            array.to_bytes()?.len(),
            array.size() * array.dtype().size(),
            "a result reads as long as its shape"
        );
        if case.is_multiple_of(16) {
            let _ = array.to_string();
        }
    }
    Ok(true)
}
