//! Host cost of recording `a + b` and dropping it, beside the same in C++ and in Python, and the
//! same ten million times over: `cargo bench -p mlx-core --bench overhead`.
//!
//! The sides take turns, a millisecond each, so that what else the machine does meets all of them;
//! medians are compared. Ends with an error if ours takes more than 1.3 times what C++ takes or
//! more than half of what Python takes, if the loop slows down, or if it gains memory.
//!
//! | argument or variable | |
//! |---|---|
//! | `-- --loop N` | operations of the long loop (ten million without it) |
//! | `CXX` | the C++ compiler (`c++` without it) |
//! | `MLX_BENCH_PYTHON` | an interpreter with Python's MLX; `cargo xtask bench core` sets it |

#![allow(clippy::print_stdout, reason = "a bench reports on the terminal")]

mod endless;
mod peer;

use std::hint::black_box;
use std::time::Instant;

use mlx_core::{Array, Device, Result as MlxResult};

use self::peer::Peer;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Turns of each side.
const ROUNDS: usize = 400;
/// Operations of one turn: about a millisecond.
const OPERATIONS: u32 = 3_000;
const MOST_OF_CPP: f64 = 1.3;
const MOST_OF_PYTHON: f64 = 0.5;

/// Seconds for `count` times `operation`.
fn record(operation: impl Fn() -> MlxResult<Array>, count: u32) -> MlxResult<f64> {
    let start = Instant::now();
    for _ in 0..count {
        drop(black_box(operation()?));
    }
    Ok(start.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Times one operation on all sides, reports, and returns the comparisons that exceed what is
/// allowed.
fn compare(
    name: &str,
    operation: impl Fn() -> MlxResult<Array>,
    peers: &mut [Peer],
) -> Outcome<Vec<String>> {
    let mut ours = Vec::with_capacity(ROUNDS);
    let mut theirs = vec![Vec::with_capacity(ROUNDS); peers.len()];
    for _ in 0..ROUNDS {
        record(&operation, 200)?;
        ours.push(record(&operation, OPERATIONS)?);
        for (peer, times) in peers.iter_mut().zip(&mut theirs) {
            times.push(peer.seconds(name, OPERATIONS)?);
        }
    }
    let each = |times: &mut [f64]| median(times) * 1e9 / f64::from(OPERATIONS);
    let ours = each(&mut ours);
    println!("{name}, recorded and dropped: medians of {ROUNDS} turns of {OPERATIONS}");
    println!("  {:8} {ours:8.1} ns", "Rust");
    let mut missed = Vec::new();
    for (peer, times) in peers.iter().zip(&mut theirs) {
        let time = each(times);
        let ratio = ours / time;
        println!(
            "  {:8} {time:8.1} ns   Rust takes {ratio:.3} of it",
            peer.name
        );
        if ratio > peer.most {
            missed.push(format!(
                "{name} takes {ratio:.3} of the time in {}, more than {}",
                peer.name, peer.most
            ));
        }
    }
    Ok(missed)
}

fn main() -> Outcome<()> {
    Device::cpu().set_default()?;
    let (a, b) = (Array::ones::<f32>(&[4])?, Array::ones::<f32>(&[4])?);
    mlx_core::eval(&[&a, &b])?;

    let mut peers = vec![Peer::cpp()?];
    match Peer::python()? {
        Some(peer) => peers.push(peer),
        None => println!("Python: left out; `cargo xtask bench core` brings it"),
    }
    let add = || black_box(&a) + black_box(&b);
    let multiply = || black_box(&a) * black_box(&b);
    let mut missed = compare("add", add, &mut peers)?;
    // For information: of these two, only the sum has a shortcut of our own.
    compare("multiply", multiply, &mut peers)?;
    drop(peers);
    missed.extend(endless::run(add)?);
    if missed.is_empty() {
        Ok(())
    } else {
        Err(missed.join("; ").into())
    }
}
