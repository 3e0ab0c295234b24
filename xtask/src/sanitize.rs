//! `cargo xtask sanitize`: the tests that touch memory and threads under AddressSanitizer and
//! ThreadSanitizer, Rust and C++ both.
//!
//! Needs the nightly toolchain, whose compiler carries the sanitizers' runtimes. MLX's own library
//! is not instrumented: AddressSanitizer still sees its accesses to the heap's edges only through
//! the functions it intercepts, and ThreadSanitizer sees its locks but not its accesses.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::sh;

/// Options of `cargo xtask sanitize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this sanitizer
    #[arg(value_enum)]
    only: Option<Sanitizer>,
    /// How many hostile calls to make under AddressSanitizer
    #[arg(long, default_value_t = 4_000)]
    cases: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sanitizer {
    Address,
    Thread,
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What ThreadSanitizer may not say, each with its reason.
const SUPPRESSIONS: &str = "\
# MLX's library is not instrumented. Its locks are seen, its atomics are not, so that what they
# order looks unordered. Only reports with one of its frames on the stack are dropped.
called_from_lib:libmlx.so
race:libmlx.so
mutex:libmlx.so
# The standard library of the nightly toolchain is not instrumented either: channels of the test
# harness hand over through atomics inside it.
race:std::sync::mpmc
race:test::
";

pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |sanitizer| args.only.is_none_or(|only| only == sanitizer);
    if wanted(Sanitizer::Address) {
        address(args.cases)?;
    }
    if wanted(Sanitizer::Thread) {
        thread()?;
    }
    Ok(())
}

fn address(cases: u64) -> Result<()> {
    let run = |words: &[&str]| {
        let mut command = test("address", words);
        command
            // MLX keeps its streams and allocator until the process ends.
            .env(
                "ASAN_OPTIONS",
                "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
            )
            .env("MLX_FUZZ_CASES", cases.to_string());
        sh::run(&mut command)
    };
    run(&["soundness", "indexing", "io_", "cpu_kernels"])?;
    run(&["--exact", crate::fuzz::TEST, "--nocapture"])?;
    println!("sanitize: address: no report");
    Ok(())
}

fn thread() -> Result<()> {
    let folder = sh::root().join("target/sanitize-thread");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join("suppressions.txt");
    fs::write(&path, SUPPRESSIONS).with_context(|| format!("write {}", path.display()))?;
    let mut command = test("thread", &["threads"]);
    command.env(
        "TSAN_OPTIONS",
        format!(
            "halt_on_error=1:ignore_noninstrumented_modules=1:suppressions={}",
            path.display()
        ),
    );
    sh::run(&mut command)?;
    println!("sanitize: thread: no report");
    Ok(())
}

/// The tests of mlx-core, built with a sanitizer in a folder of their own.
fn test(sanitizer: &str, words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command
        .current_dir(sh::root())
        .args(["+nightly", "test", "--package", "mlx-core", "--test", "it"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(format!("target/sanitize-{sanitizer}"))
        .arg("--")
        .args(words)
        // The standard library is the toolchain's own, built without.
        .env(
            "RUSTFLAGS",
            format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer"),
        )
        .env(
            "CXXFLAGS_x86_64_unknown_linux_gnu",
            format!("-fsanitize={sanitizer} -fno-omit-frame-pointer -g1"),
        )
        // A toolchain chosen by an outer cargo would win over `+nightly`.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    command
}
