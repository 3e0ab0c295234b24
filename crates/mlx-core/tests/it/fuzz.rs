//! Random calls of every public op with hostile arguments. A call may fail; it may not crash.
//!
//! A crash ends a process, so the calls are made in a child that notes the number of the case
//! before it starts. `cargo xtask fuzz` runs many more of them.
//!
//! | variable | |
//! |---|---|
//! | `MLX_FUZZ_CASES` | how many cases (a few thousand without it) |
//! | `MLX_FUZZ_SEED` | the seed of all of them |
//! | `MLX_FUZZ_CASE` | only this case, with its arguments printed |

mod hostile;
mod recipes;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_core::{Array, eval};

use self::hostile::Hostile;
use crate::calls::{NAMES, call};

const CHILD: &str = "MLX_FUZZ_CHILD";
const DEFAULT_CASES: u64 = 6_000;
/// Results larger than this are built and dropped, not computed.
const COMPUTED_BYTES: usize = 1 << 20;
/// A case that takes longer hangs. Sanitizers and busy machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of the case after the last.
const FINISHED: u64 = u64::MAX;
const MOST_FAILURES: usize = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[allow(clippy::print_stdout)]
fn hostile_calls_never_crash() {
    let seed = number("MLX_FUZZ_SEED").unwrap_or(1);
    if let Ok(range) = std::env::var(CHILD) {
        let mut parts = range.splitn(3, ':');
        let mut next = || parts.next().unwrap();
        let (from, to): (u64, u64) = (next().parse().unwrap(), next().parse().unwrap());
        child(seed, from..to, Path::new(next()));
        return;
    }
    let cases = match number("MLX_FUZZ_CASE") {
        Some(case) => case..case + 1,
        None => 0..number("MLX_FUZZ_CASES").unwrap_or(DEFAULT_CASES),
    };
    let start = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let progress = folder.path().join("progress");
    let mut failures = Vec::new();
    let mut from = cases.start;
    while from < cases.end && failures.len() < MOST_FAILURES {
        let verbose = cases.end - cases.start == 1;
        let Some((case, how)) = run(seed, from, cases.end, &progress, verbose) else {
            break;
        };
        failures.push(format!(
            "case {case} {}: {how}",
            describe(seed, case, &progress)
        ));
        from = case + 1;
    }
    let counts = tally(&folder.path().join("counts"));
    let total = |which: usize| counts.values().map(|count| count[which]).sum::<u64>();
    println!(
        "{} cases over {} ops in {:.1} s: {} gave a result ({} of them computed), {} an error",
        total(0) + total(2),
        NAMES.len(),
        start.elapsed().as_secs_f64(),
        total(0),
        total(1),
        total(2),
    );
    assert!(
        failures.is_empty(),
        "seed {seed}: {} cases failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    if cases.end - cases.start >= 50_000 {
        let never: Vec<_> = NAMES
            .iter()
            .map(|(family, name)| format!("{family}::{name}"))
            // MLX has no CPU implementation of it.
            .filter(|name| name != "quantized::gather_qqmm")
            .filter(|name| counts.get(name).is_none_or(|count| count[0] == 0))
            .collect();
        assert!(never.is_empty(), "no call of these succeeded: {never:?}");
    }
}

#[allow(clippy::print_stderr)]
/// Runs cases in a child. On failure, the case and how the child ended.
fn run(seed: u64, from: u64, to: u64, progress: &Path, verbose: bool) -> Option<(u64, String)> {
    fs::write(progress, from.to_le_bytes()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "fuzz::hostile_calls_never_crash", "--nocapture"])
        .env(CHILD, format!("{from}:{to}:{}", progress.display()))
        .env("MLX_FUZZ_SEED", seed.to_string())
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null());
    if verbose {
        command.env("MLX_FUZZ_VERBOSE", "1");
    } else {
        command.env_remove("MLX_FUZZ_VERBOSE");
    }
    let errors = progress.with_extension("stderr");
    command.stderr(File::create(&errors).unwrap());
    let mut child = command.spawn().unwrap();
    let mut seen = (FINISHED, Instant::now());
    let how = loop {
        if let Some(status) = child.try_wait().unwrap() {
            // LAPACK and BLAS leave with success; whoever finishes says so.
            if status.success() && current(progress) == FINISHED {
                if verbose {
                    eprint!("{}", fs::read_to_string(&errors).unwrap_or_default());
                }
                return None;
            }
            break status.to_string();
        }
        let now = current(progress);
        if now != seen.0 {
            seen = (now, Instant::now());
        } else if seen.1.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            break "hangs".to_owned();
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let text = fs::read_to_string(&errors).unwrap_or_default();
    let most: String = text.chars().take(6_000).collect();
    Some((current(progress), format!("{how}\n{most}")))
}

fn current(progress: &Path) -> u64 {
    fs::read(progress)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

/// The arguments of a failed case, from another child that dies of it.
fn describe(seed: u64, case: u64, progress: &Path) -> String {
    let (family, name) = NAMES[usize::try_from(case).unwrap() % NAMES.len()];
    let again = run(seed, case, case + 1, progress, true);
    let text = again.map_or_else(|| "did not fail alone".to_owned(), |(_, text)| text);
    format!("{family}::{name} {text}")
}

/// For each op: results built, results computed, errors.
fn tally(path: &Path) -> BTreeMap<String, [u64; 3]> {
    let mut counts: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let count = counts.entry(words[0].to_owned()).or_default();
        for (sum, word) in count.iter_mut().zip(&words[1..]) {
            *sum += word.parse::<u64>().unwrap();
        }
    }
    counts
}

fn child(seed: u64, cases: std::ops::Range<u64>, progress: &Path) {
    let place = File::options().write(true).open(progress).unwrap();
    let mut counts: BTreeMap<usize, [u64; 3]> = BTreeMap::new();
    for case in cases {
        place.write_at(&case.to_le_bytes(), 0).unwrap();
        let op = usize::try_from(case).unwrap() % NAMES.len();
        let count = counts.entry(op).or_default();
        match one(seed, case, NAMES[op]) {
            Ok(computed) => {
                count[0] += 1;
                count[1] += u64::from(computed);
            }
            Err(_) => count[2] += 1,
        }
    }
    place.write_at(&FINISHED.to_le_bytes(), 0).unwrap();
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(progress.with_file_name("counts"))
        .unwrap();
    for (op, [built, computed, errors]) in counts {
        let (family, name) = NAMES[op];
        writeln!(file, "{family}::{name} {built} {computed} {errors}").unwrap();
    }
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
    eval(&all)?;
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
