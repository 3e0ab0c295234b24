//! `cargo xtask sanitize`: the tests that touch memory and threads under AddressSanitizer and
//! ThreadSanitizer, Rust and C++ both.
//!
//! Needs the nightly toolchain, whose compiler carries the sanitizers' runtimes. The shim, its CPU
//! kernels and the Rust code are instrumented; MLX's own library is not. AddressSanitizer sees that
//! library's blocks of memory, their ends and when they were freed, but a wrong access from within
//! it only where it calls a function that is intercepted (`memcpy` and the like). ThreadSanitizer
//! sees its locks, threads and condition variables, but neither its accesses nor its atomics.

use std::process::Command;

use anyhow::{Result, bail};

use crate::{fuzz, sh};

/// Options of `cargo xtask sanitize`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this sanitizer
    #[arg(value_enum)]
    only: Option<Sanitizer>,
    /// How many hostile calls to make under AddressSanitizer
    #[arg(long, default_value_t = 100_000)]
    cases: u64,
    /// How many of them to transform there
    #[arg(long, default_value_t = 30_000)]
    transforms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sanitizer {
    Address,
    Thread,
}

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// - MLX keeps its streams, its allocator and compiled graphs until the process ends: no leaks.
/// - Absurd sizes are errors of ours, not reports.
/// - GCC before 13.3 misplaces variables of 64 bytes' alignment in the frames that the check for
///   uses after return puts on the heap, and AVX-512 kernels have such variables.
const ADDRESS: &str = "abort_on_error=1:detect_leaks=0:allocator_may_return_null=1:\
                       detect_stack_use_after_return=0";
/// What AddressSanitizer cannot run: its shadow does not fit into little address space, and memory
/// that was given back stays in quarantine, where the process seems to grow.
const NOT_ADDRESS: [&str; 4] = [
    "--skip",
    "real_lack_of_memory",
    "--skip",
    "recording_and_dropping_for_ever",
];

/// Room for the recursive walks of MLX's transforms, in bytes. The sanitizer clears the marks that
/// an exception leaves on stacks of up to 64 MiB.
const STACK: &str = "33554432";

/// Calls from a library that is not instrumented into intercepted functions count as
/// synchronisation, but not as accesses: MLX orders them by atomics that are not seen. Nothing is
/// suppressed.
const THREAD: &str = "halt_on_error=1:ignore_noninstrumented_modules=1";
/// The tests with more than one thread: whole families, and the calls that several threads make.
const THREADED: &[&str] = &["threads", "cpu_kernels", "cpu_fused", "errors", "from_many"];
/// How many of those calls.
const THREADED_CASES: &str = "4000";

pub(crate) fn run(args: &Args) -> Result<()> {
    let wanted = |sanitizer| args.only.is_none_or(|only| only == sanitizer);
    if wanted(Sanitizer::Address) {
        let most = [&["--skip", "fuzz::"][..], &NOT_ADDRESS].concat();
        let run = |package, words: &[&str], cases: u64| {
            let mut command = test("address", package, words);
            command.env("ASAN_OPTIONS", ADDRESS);
            command.env("MLX_FUZZ_CASES", cases.to_string());
            // Instead of the deep stack of the transforms; see `mlx_sanitize` there.
            command.env("RUST_MIN_STACK", STACK);
            sh::run(&mut command)
        };
        run("mlx-core", &most, args.cases)?;
        run(
            "mlx-core",
            &["--exact", fuzz::TEST, "--nocapture"],
            args.cases,
        )?;
        run("mlx-transforms", &[], args.cases)?;
        let exact = ["--exact", fuzz::TRANSFORMS, "--nocapture"];
        run("mlx-tests", &exact, args.transforms)?;
        println!("sanitize: address: no report");
    }
    if wanted(Sanitizer::Thread) {
        require_sources()?;
        sh::run(
            test("thread", "mlx-core", THREADED)
                .env("TSAN_OPTIONS", THREAD)
                .env("MLX_FUZZ_CASES", THREADED_CASES),
        )?;
        println!("sanitize: thread: no report");
    }
    Ok(())
}

/// ThreadSanitizer needs a standard library that is instrumented, too: channels and thread handles
/// hand over through atomics inside it.
fn require_sources() -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc
        .args(["+nightly", "--print", "sysroot"])
        .env_remove("RUSTUP_TOOLCHAIN");
    let root = sh::read(&mut rustc)?;
    let sources = std::path::Path::new(root.trim()).join("lib/rustlib/src/rust/library");
    if !sources.is_dir() {
        bail!("run `rustup component add rust-src --toolchain nightly` first");
    }
    Ok(())
}

/// The tests of a package, built with a sanitizer in a folder of their own.
fn test(sanitizer: &str, package: &str, words: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(sh::root()).args(["+nightly", "test"]);
    let flags = if sanitizer == "thread" {
        command.arg("-Zbuild-std");
        String::new()
    } else {
        // The standard library is the toolchain's own, built without; AddressSanitizer sees its
        // blocks of memory all the same.
        " -Cunsafe-allow-abi-mismatch=sanitizer".to_owned()
    };
    command
        .args(["--package", package, "--test", "it"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(sh::target().join(format!("sanitize-{sanitizer}")))
        .arg("--")
        .args(words)
        .env(
            "RUSTFLAGS",
            format!("-Zsanitizer={sanitizer} --cfg mlx_sanitize{flags}"),
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
