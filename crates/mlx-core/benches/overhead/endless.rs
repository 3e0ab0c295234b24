//! The same operation ten million times: its cost stays flat, and so does the memory.

use std::env;
use std::fs;

use mlx_core::{Array, Result as MlxResult};

use crate::{Outcome, median, record};

const OPERATIONS: u64 = 10_000_000;
const PARTS: u64 = 50;
/// Operations between two evaluations of the second loop.
const EVALUATE: u32 = 100;
/// How much the last fifth may cost, as a part of the first one. A leak or a growing table costs
/// far more; other programs cost less than this.
const SLOWER: f64 = 1.25;
/// Memory that allocators keep or give back as they like.
const SLACK: i64 = 4 << 20;

/// Runs both loops, reports, and returns what was missed.
pub(crate) fn run(add: impl Fn() -> MlxResult<Array>) -> Outcome<Vec<String>> {
    let operations = operations()?;
    let part = u32::try_from(operations / PARTS)?.max(EVALUATE);
    let mut missed = Vec::new();
    missed.extend(report("dropped", part, || Ok(record(&add, part)?))?);
    missed.extend(report("evaluated each 100", part, || {
        evaluated(&add, part)
    })?);
    Ok(missed)
}

fn operations() -> Outcome<u64> {
    let mut arguments = env::args().skip_while(|argument| argument != "--loop");
    match (arguments.next(), arguments.next()) {
        (None, _) => Ok(OPERATIONS),
        (Some(_), Some(count)) => Ok(count.parse()?),
        (Some(_), None) => Err("--loop takes a number".into()),
    }
}

fn evaluated(add: impl Fn() -> MlxResult<Array>, count: u32) -> Outcome<f64> {
    let mut seconds = 0.0;
    for _ in 0..count / EVALUATE {
        let start = std::time::Instant::now();
        record(&add, EVALUATE - 1)?;
        add()?.eval()?;
        seconds += start.elapsed().as_secs_f64();
    }
    Ok(seconds)
}

fn report(name: &str, part: u32, mut run: impl FnMut() -> Outcome<f64>) -> Outcome<Vec<String>> {
    // What is allocated once is allocated before the count.
    run()?;
    let before = resident()?;
    let mut times = Vec::new();
    for _ in 0..PARTS {
        times.push(run()? * 1e9 / f64::from(part));
    }
    let grown = resident()? - before;
    let fifth = times.len() / 5;
    let last = median(&mut times.split_off(times.len() - fifth));
    times.truncate(fifth);
    let first = median(&mut times);
    println!(
        "{} x a + b, {name}: {first:.1} ns at first, {last:.1} ns at last; \
         resident memory {:.1} MiB, {:+.2} MiB",
        u64::from(part) * PARTS,
        mebibytes(before),
        mebibytes(grown)
    );
    let mut missed = Vec::new();
    if last > SLOWER * first {
        missed.push(format!("{name}: slower at the end"));
    }
    if grown > SLACK {
        missed.push(format!("{name}: memory grew by {grown} bytes"));
    }
    Ok(missed)
}

#[allow(clippy::cast_precision_loss, reason = "shown with two decimals")]
fn mebibytes(bytes: i64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Bytes of memory that the process occupies.
fn resident() -> Outcome<i64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: i64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("the system does not say how much memory is resident")?
        .parse()?;
    Ok(kib * 1024)
}
