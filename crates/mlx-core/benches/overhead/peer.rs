//! The other sides: programs that read an operation and a number, and answer with seconds.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{MOST_OF_CPP, MOST_OF_PYTHON, Outcome};

/// A running program.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    /// The most that ours may take, as a part of this side's time.
    pub(crate) most: f64,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Compiles the C++ side against the very library that this program has loaded.
    pub(crate) fn cpp() -> Outcome<Self> {
        let library = loaded_library()?;
        let lib = library.parent().ok_or("MLX's library has no folder")?;
        let include = lib.with_file_name("include");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("overhead-peer");
        let compiler = env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let status = Command::new(&compiler)
            .args(["-std=c++20", "-O2", "-o"])
            .arg(&program)
            .arg(source("peer.cpp"))
            .arg("-isystem")
            .arg(include)
            .arg(&library)
            .arg(format!("-Wl,-rpath,{}", lib.display()))
            .status()
            .map_err(|error| format!("run {}: {error}", compiler.display()))?;
        if !status.success() {
            return Err(format!("{} ended with {status}", compiler.display()).into());
        }
        Self::start("C++", MOST_OF_CPP, &mut Command::new(program))
    }

    /// Python's MLX, if there is an interpreter that has it.
    pub(crate) fn python() -> Outcome<Option<Self>> {
        let Some(python) = env::var_os("MLX_BENCH_PYTHON").or_else(private_python) else {
            return Ok(None);
        };
        let mut command = Command::new(python);
        command.arg(source("peer.py"));
        Self::start("Python", MOST_OF_PYTHON, &mut command).map(Some)
    }

    fn start(name: &'static str, most: f64, command: &mut Command) -> Outcome<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self {
            name,
            most,
            child,
            input,
            output,
        })
    }

    /// Seconds for `count` times the operation.
    pub(crate) fn seconds(&mut self, operation: &str, count: u32) -> Outcome<f64> {
        let mut line = String::new();
        writeln!(self.input.as_mut().ok_or("no pipe")?, "{operation} {count}")?;
        self.output.read_line(&mut line)?;
        let seconds = line
            .trim()
            .parse()
            .map_err(|_| format!("the {} side ended without an answer", self.name))?;
        Ok(seconds)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input ends the program.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/overhead")
        .join(name)
}

/// MLX's library as this process has it: the folders of `MLX_DIR`, or what the system has mapped.
fn loaded_library() -> Outcome<PathBuf> {
    if let Some(root) = env::var_os("MLX_DIR").filter(|root| !root.is_empty()) {
        let lib = Path::new(&root).join("lib");
        let names = ["libmlx.so", "libmlx.dylib"].map(|name| lib.join(name));
        if let Some(library) = names.into_iter().find(|path| path.is_file()) {
            return Ok(library);
        }
    }
    let maps = fs::read_to_string("/proc/self/maps")
        .map_err(|error| format!("set MLX_DIR: the loaded library is not listed: {error}"))?;
    let mut paths = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| &line[at..]));
    let library = paths.find(|path| path.ends_with("/libmlx.so"));
    Ok(library.ok_or("MLX's library is not loaded")?.into())
}

/// The interpreter of `cargo xtask parity`, if it was installed where it is by default.
fn private_python() -> Option<std::ffi::OsString> {
    let cache = env::var_os("MLX_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| {
            let home = env::var_os("HOME").map(PathBuf::from)?;
            let caches = if cfg!(target_os = "macos") {
                home.join("Library/Caches")
            } else {
                env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from)
            };
            Some(caches.join("mlx-rust"))
        })?;
    let python = cache.join("peers/venv/bin/python");
    python.is_file().then(|| python.into_os_string())
}
