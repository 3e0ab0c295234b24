//! `cargo xtask bench`: ours and the peers, timed in one run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{fetch, parity, sh};

/// Options of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Recording `a + b` and dropping it, against the same in C++ and in Python
    Core,
    /// The share of the lock around MLX in writing tokens, with a tiny and with a small model
    Lock,
    /// Matrix products and small models on the CPU, against stock MLX, NumPy, llama.cpp,
    /// onnxruntime and torch
    Cpu(Cpu),
    /// Decode steps of language models, against Python's mlx-lm
    Lm(Lm),
    /// Training steps of small Llamas on the CPU, against Python's MLX
    Train(Train),
}

#[derive(Debug, clap::Args)]
struct Cpu {
    /// Run only these cases; see tests/bench/cpu.py
    cases: Vec<String>,
    /// Threads of every side [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Write the medians, in seconds, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// First install onnxruntime and build llama.cpp for this processor, which takes a quarter of
    /// an hour
    #[arg(long)]
    install: bool,
}

#[derive(Debug, clap::Args)]
struct Lm {
    /// Run only these cases; see tests/bench/lm.py
    cases: Vec<String>,
    /// Threads of both sides [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Write the medians, in seconds, to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Train {
    /// Run only these models; see tests/bench/train.py
    models: Vec<String>,
    /// Threads of both sides [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
    /// Write the results to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const SCRIPT: &str = "tests/bench/cpu.py";
const LM_SCRIPT: &str = "tests/bench/lm.py";
const TRAIN_SCRIPT: &str = "tests/bench/train.py";
const TOKENIZER: &str = "tests/fixtures/lm/llama/f32/tokenizer.json";
const REQUIREMENTS: &str = "xtask/python/bench-requirements.txt";

pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Core => core(),
        What::Lock => lock(),
        What::Cpu(args) => cpu(args),
        What::Lm(args) => lm(args),
        What::Train(args) => train(args),
    }
}

fn core() -> Result<()> {
    let bench = ["bench", "-p", "mlx-core", "--bench", "overhead"];
    let python = parity::environment(false)?;
    sh::run(sh::cargo().args(bench).env("MLX_BENCH_PYTHON", python))
}

fn lock() -> Result<()> {
    build("bench_lock")?;
    let tiny = sh::root().join("tests/fixtures/lm/llama/f32");
    let mut command = Command::new(sh::target().join("release/examples/bench_lock"));
    sh::run(command.arg(tiny).arg(smollm2()?))
}

fn cpu(args: &Cpu) -> Result<()> {
    let python = parity::environment(false)?;
    if args.install {
        sh::run(
            Command::new(&python)
                .current_dir(sh::root())
                .args(["-m", "pip", "install", "--requirement", REQUIREMENTS])
                .env("CMAKE_ARGS", "-DGGML_NATIVE=ON -DMTMD_BUILD=OFF"),
        )?;
    } else {
        for module in ["llama_cpp", "onnxruntime"] {
            let import = format!("import {module}");
            if sh::read(Command::new(&python).args(["-c", &import])).is_err() {
                eprintln!("{module} is not installed and left out; `--install` installs it");
            }
        }
    }
    build("bench_cpu")?;
    let gguf = smollm2()?;
    let mut command = Command::new(&python);
    command
        .current_dir(sh::root())
        .arg(SCRIPT)
        .arg("--ours")
        .arg(sh::target().join("release/examples/bench_cpu"))
        .arg("--gguf")
        .arg(gguf)
        .arg("--minilm")
        .arg(fetch::fetch_model("all-minilm-l6-v2", &mut |_| {})?)
        .arg("--made")
        .arg(fetch::cache_dir()?.join("bench"))
        .args(&args.cases);
    finish(&mut command, args.threads, args.json.as_deref())
}

fn lm(args: &Lm) -> Result<()> {
    let python = parity::environment(false)?;
    build("bench_lm")?;
    let ours = sh::target().join("release/examples/bench_lm");
    let models = fetch::cache_dir()?.join("bench-lm");
    let converted = models.join("smollm2");
    let needed = args.cases.is_empty() || args.cases.iter().any(|case| case == "smollm2");
    if needed && !converted.exists() {
        std::fs::create_dir_all(&models).with_context(|| format!("create {}", models.display()))?;
        let mut export = Command::new(&ours);
        sh::run(export.arg("--export").arg(smollm2()?).arg(&converted))?;
    }
    let mut command = Command::new(&python);
    command
        .current_dir(sh::root())
        .arg(LM_SCRIPT)
        .arg("--ours")
        .arg(ours)
        .arg("--models")
        .arg(models)
        .args(["--tokenizer", TOKENIZER])
        .args(&args.cases);
    finish(&mut command, args.threads, args.json.as_deref())
}

fn train(args: &Train) -> Result<()> {
    let python = parity::environment(false)?;
    build("bench_train")?;
    let mut command = Command::new(&python);
    command
        .current_dir(sh::root())
        .arg(TRAIN_SCRIPT)
        .arg("--ours")
        .arg(sh::target().join("release/examples/bench_train"))
        .args(&args.models);
    finish(&mut command, args.threads, args.json.as_deref())
}

/// Runs a script with the options that all of them have.
fn finish(command: &mut Command, threads: Option<usize>, json: Option<&Path>) -> Result<()> {
    if let Some(threads) = threads {
        command.arg("--threads").arg(threads.to_string());
    }
    if let Some(path) = json {
        command.arg("--json").arg(std::path::absolute(path)?);
    }
    sh::run(command.env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// Builds our side of a comparison.
fn build(example: &str) -> Result<()> {
    let words = [
        "build",
        "--release",
        "-p",
        "mlx-tests",
        "--example",
        example,
    ];
    sh::run(sh::cargo().args(words))
}

/// The GGUF file of the small real model.
fn smollm2() -> Result<PathBuf> {
    let folder = fetch::fetch_model("smollm2-135m-instruct", &mut |_| {})?;
    let mut files = std::fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path());
    let is_gguf = |path: &PathBuf| {
        path.extension()
            .is_some_and(|extension| extension == "gguf")
    };
    files
        .find(is_gguf)
        .with_context(|| format!("no .gguf file in {}", folder.display()))
}
