//! What the lock around MLX's host side costs a decode loop: `cargo xtask bench lock`.
//!
//! Arguments: model folders or files. For each it writes tokens, counts how often the lock was
//! taken, and multiplies with the time that taking and releasing it costs.

#![allow(clippy::print_stdout, reason = "a bench reports on the terminal")]

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use mlx_core::{Device, ffi};
use mlx_lm::{GenerateOptions, generate::Tokens};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const TOKENS: usize = 200;
const ROUNDS: usize = 5;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds to take and to release the lock.
fn pair() -> f64 {
    const COUNT: u32 = 100_000;
    let once = || {
        let start = Instant::now();
        for _ in 0..COUNT {
            drop(black_box(ffi::enter()));
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(COUNT)
    };
    median((0..50).map(|_| once()).collect())
}

/// Nanoseconds and acquisitions for one token.
fn decode(path: &Path) -> Outcome<(f64, f64)> {
    let model = mlx_lm::load(path)?;
    let prompt: Vec<u32> = (1..17).collect();
    let options = GenerateOptions::default().max_tokens(TOKENS);
    let (mut times, mut counts) = (Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        let mut tokens = Tokens::new(model.model(), &prompt, &Default::default(), &options)?;
        tokens.next().ok_or("no token")??;
        let (start, before) = (Instant::now(), ffi::lock::acquisitions());
        let mut written = 0u32;
        for token in tokens {
            token?;
            written += 1;
        }
        let taken = u32::try_from(ffi::lock::acquisitions() - before)?;
        times.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(written));
        counts.push(f64::from(taken) / f64::from(written));
    }
    // The first round is warm-up.
    Ok((median(times.split_off(1)), median(counts)))
}

fn main() -> Outcome<()> {
    Device::cpu().set_default()?;
    let pair = pair();
    println!("taking and releasing the lock: {pair:.1} ns");
    for argument in std::env::args_os().skip(1) {
        let path = Path::new(&argument);
        let (time, count) = decode(path)?;
        println!(
            "{}: {:.0} µs and {count:.0} acquisitions for a token: the lock takes {:.2} %",
            path.file_name().unwrap_or_default().to_string_lossy(),
            time / 1e3,
            100.0 * pair * count / time
        );
    }
    Ok(())
}
