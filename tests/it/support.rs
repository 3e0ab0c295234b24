//! Fixtures, comparison, and programs run as users run them.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use mlx_core::io::load_safetensors;
use mlx_core::{Array, Dtype};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

pub(crate) fn fixture(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(path)
}

pub(crate) fn json(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn arrays(path: impl AsRef<Path>) -> HashMap<String, Array> {
    load_safetensors(path).unwrap().0
}

/// A list of token ids in JSON.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A list of token ids in a golden file.
pub(crate) fn tokens(array: &Array) -> Vec<u32> {
    array
        .to_vec::<i32>()
        .unwrap()
        .into_iter()
        .map(|id| u32::try_from(id).unwrap())
        .collect()
}

/// The values of an array of any floating-point dtype.
pub(crate) fn values(array: &Array) -> Vec<f32> {
    array
        .astype(Dtype::Float32)
        .unwrap()
        .to_vec::<f32>()
        .unwrap()
}

/// The largest difference over the largest reference value, the measure of every tolerance in a note.
pub(crate) fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0.0f32, |most, value| most.max(value.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // A NaN must not get lost in the maximum.
    let apart = apart.fold(0.0f32, |most, gap| {
        if gap > most || gap.is_nan() {
            gap
        } else {
            most
        }
    });
    apart / largest
}

/// Token ids `[1, L]`.
pub(crate) fn row(tokens: &[u32]) -> Array {
    Array::from_slice::<u32>(tokens, &[1, i32::try_from(tokens.len()).unwrap()]).unwrap()
}

/// The position of the largest value, the first of several.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().fold(
        0,
        |best, (i, value)| if *value > row[best] { i } else { best },
    );
    u32::try_from(best).unwrap()
}

/// Copies the files of a folder into a fresh one.
pub(crate) fn copied(folder: impl AsRef<Path>) -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// A program of the workspace, in the folder above this test's own.
pub(crate) fn program(name: &str) -> Command {
    let path = std::env::current_exe()
        .unwrap()
        .ancestors()
        .nth(2)
        .unwrap()
        .join(name);
    // `cargo test --workspace` has built it; a run of this package alone has not.
    static BUILT: OnceLock<()> = OnceLock::new();
    if !path.is_file() {
        BUILT.get_or_init(|| build(&path));
    }
    let mut command = Command::new(path);
    // Nothing may depend on the environment, and nothing may be fetched unasked.
    command
        .env_clear()
        .env("MLX_SYS_OFFLINE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

fn build(path: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if path
        .parent()
        .is_some_and(|profile| profile.ends_with("release"))
    {
        command.arg("--release");
    }
    assert!(
        command.status().unwrap().success(),
        "building the programs failed"
    );
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Expects exit code `code`, nothing on standard output, and exactly two lines on standard
/// error: the error, which names `part`, and what to do about it.
#[track_caller]
pub(crate) fn fails(output: &Output, code: i32, part: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{part}: {stderr}");
    assert!(output.stdout.is_empty(), "{part}: {}", text(&output.stdout));
    let lines: Vec<&str> = stderr.lines().collect();
    let [error, hint] = lines[..] else {
        panic!("{part}: not an error and a hint: {stderr}")
    };
    assert!(
        error.starts_with("error: ") && error.contains(part),
        "{part}: {stderr}"
    );
    assert!(hint.starts_with("hint: "), "{part}: {stderr}");
    assert!(!stderr.contains("panicked"), "{part}: {stderr}");
}
