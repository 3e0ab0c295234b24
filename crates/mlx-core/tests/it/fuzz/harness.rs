//! Random calls in a child process, which may die of them, and what came of them.
//!
//! | variable | |
//! |---|---|
//! | `MLX_FUZZ_CASES` | how many cases (a few thousand without it) |
//! | `MLX_FUZZ_SEED` | the seed of all of them |
//! | `MLX_FUZZ_CASE` | only this case, with its arguments printed |

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mlx_core::Result;

use crate::calls::NAMES;

const CHILD: &str = "MLX_FUZZ_CHILD";
/// A case that takes longer hangs. Sanitizers and busy machines are slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// The number of the case after the last.
const FINISHED: u64 = u64::MAX;
const MOST_FAILURES: usize = 40;

/// A test that makes many random calls.
pub(crate) struct Fuzz {
    /// Its path, by which the child finds it.
    pub(crate) test: &'static str,
    /// How many cases without `MLX_FUZZ_CASES`.
    pub(crate) cases: u64,
    /// Makes the case of this seed and number with an op of this family and name. Says whether its
    /// results were computed.
    pub(crate) one: fn(u64, u64, (&'static str, &'static str)) -> Result<bool>,
    /// Ops of which no call can succeed; all others must once in many. None: ops need not.
    pub(crate) hopeless: Option<&'static [&'static str]>,
}

impl Fuzz {
    #[allow(clippy::print_stdout)]
    pub(crate) fn run(&self) {
        let seed = number("MLX_FUZZ_SEED").unwrap_or(1);
        if let Ok(range) = std::env::var(CHILD) {
            let mut parts = range.splitn(3, ':');
            let mut next = || parts.next().unwrap();
            let (from, to): (u64, u64) = (next().parse().unwrap(), next().parse().unwrap());
            self.child(seed, from..to, Path::new(next()));
            return;
        }
        let cases = match number("MLX_FUZZ_CASE") {
            Some(case) => case..case + 1,
            None => 0..number("MLX_FUZZ_CASES").unwrap_or(self.cases),
        };
        let start = Instant::now();
        let folder = tempfile::tempdir().unwrap();
        let progress = folder.path().join("progress");
        let mut failures = Vec::new();
        let mut from = cases.start;
        while from < cases.end && failures.len() < MOST_FAILURES {
            let verbose = cases.end - cases.start == 1;
            let Some((case, how)) = self.attempt(seed, from, cases.end, &progress, verbose) else {
                break;
            };
            failures.push(format!(
                "case {case} {}: {how}",
                self.describe(seed, case, &progress)
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
        if let (true, Some(hopeless)) = (cases.end - cases.start >= 50_000, self.hopeless) {
            let never: Vec<_> = NAMES
                .iter()
                .map(|(family, name)| format!("{family}::{name}"))
                .filter(|name| !hopeless.contains(&name.as_str()))
                .filter(|name| counts.get(name).is_none_or(|count| count[0] == 0))
                .collect();
            assert!(never.is_empty(), "no call of these succeeded: {never:?}");
        }
    }

    /// Runs cases in a child. On failure, the case and how the child ended.
    #[allow(clippy::print_stderr)]
    fn attempt(
        &self,
        seed: u64,
        from: u64,
        to: u64,
        progress: &Path,
        verbose: bool,
    ) -> Option<(u64, String)> {
        fs::write(progress, from.to_le_bytes()).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", self.test, "--nocapture"])
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

    /// The arguments of a failed case, from another child that dies of it.
    fn describe(&self, seed: u64, case: u64, progress: &Path) -> String {
        let (family, name) = NAMES[usize::try_from(case).unwrap() % NAMES.len()];
        let again = self.attempt(seed, case, case + 1, progress, true);
        let text = again.map_or_else(|| "did not fail alone".to_owned(), |(_, text)| text);
        format!("{family}::{name} {text}")
    }

    fn child(&self, seed: u64, cases: std::ops::Range<u64>, progress: &Path) {
        let place = File::options().write(true).open(progress).unwrap();
        let mut counts: BTreeMap<usize, [u64; 3]> = BTreeMap::new();
        for case in cases {
            place.write_at(&case.to_le_bytes(), 0).unwrap();
            let op = usize::try_from(case).unwrap() % NAMES.len();
            let count = counts.entry(op).or_default();
            match (self.one)(seed, case, NAMES[op]) {
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
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn current(progress: &Path) -> u64 {
    fs::read(progress)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_le_bytes)
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
