//! The program, run as users run it.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mlx_core::io::{load_npy, load_safetensors};
use serde_json::{Value, json};

use crate::support::{Folder, HIDDEN, Outcome, close};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-embed"));
    // Nothing may depend on the environment, and nothing may be fetched.
    command
        .env_clear()
        .env("MLX_SYS_OFFLINE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

fn run(model: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    program().args(arguments).arg("--model").arg(model).output()
}

fn feed(model: &Path, arguments: &[&str], input: &[u8]) -> std::io::Result<Output> {
    let mut child = program()
        .args(arguments)
        .arg("--model")
        .arg(model)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    child.wait_with_output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn records(output: &Output) -> Result<Vec<Value>, serde_json::Error> {
    text(&output.stdout)
        .lines()
        .map(serde_json::from_str)
        .collect()
}

/// Expects exit code `code` and an error line with `part`, a hint perhaps, and nothing else.
#[track_caller]
fn fails(output: &Output, code: i32, part: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(
        lines.len() <= 2 && lines[0].starts_with("error: ") && lines[0].contains(part),
        "`{part}`: {stderr}"
    );
    assert!(
        lines.get(1).is_none_or(|line| line.starts_with("hint: ")),
        "{stderr}"
    );
}

#[test]
fn json_lines_hold_index_text_and_vector() -> Outcome {
    let folder = Folder::new()?;
    let output = run(folder.path(), &["encode", "--json", "a man", "", "girl"])?;
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        text(&output.stderr)
    );
    let records = records(&output)?;
    let texts: Vec<_> = records.iter().map(|record| &record["text"]).collect();
    assert_eq!(texts, ["a man", "", "girl"]);
    let indices: Vec<_> = records.iter().map(|record| &record["index"]).collect();
    assert_eq!(indices, [&json!(0), &json!(1), &json!(2)]);
    assert!(
        records
            .iter()
            .all(|record| record["embedding"].as_array().is_some_and(|v| v.len() == 8))
    );
    Ok(())
}

#[test]
fn arguments_lines_and_files_give_the_same() -> Outcome {
    let folder = Folder::new()?;
    let given = run(folder.path(), &["encode", "a man", "", "girl"])?;
    assert_eq!(text(&given.stdout).lines().count(), 3);
    assert_eq!(text(&given.stdout).split_whitespace().count(), 24);
    let input = b"a man\n\r\ngirl";
    let piped = feed(folder.path(), &["encode"], input)?;
    assert_eq!(
        text(&piped.stdout),
        text(&given.stdout),
        "{}",
        text(&piped.stderr)
    );
    let file = folder.path().join("texts.txt");
    fs::write(&file, input)?;
    let read = run(
        folder.path(),
        &["encode", "--file", file.to_str().ok_or("path")?],
    )?;
    assert_eq!(text(&read.stdout), text(&given.stdout));
    let nothing = feed(folder.path(), &["encode"], b"")?;
    assert!(nothing.status.success() && nothing.stdout.is_empty());
    Ok(())
}

#[test]
fn arrays_are_written_whole() -> Outcome {
    let folder = Folder::new()?;
    let printed = run(
        folder.path(),
        &["encode", "--truncate-dim", "4", "a man", "girl"],
    )?;
    let printed: Vec<f32> = text(&printed.stdout)
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let target = tempfile::tempdir()?;
    for name in ["x.npy", "x.safetensors"] {
        let path = target.path().join(name);
        let arguments = ["encode", "--truncate-dim", "4", "a man", "girl", "-o"];
        let output = program()
            .args(arguments)
            .arg(&path)
            .arg("-m")
            .arg(folder.path())
            .output()?;
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{}",
            text(&output.stderr)
        );
        let array = match name {
            "x.npy" => load_npy(&path)?,
            _ => load_safetensors(&path)?
                .0
                .remove("embeddings")
                .ok_or("embeddings")?,
        };
        assert_eq!(array.shape(), [2, 4]);
        close(&array.to_vec::<f32>()?, &printed, 0.0);
    }
    let empty = target.path().join("empty.npy");
    let output = feed(
        folder.path(),
        &["encode", "-o", empty.to_str().ok_or("path")?],
        b"",
    )?;
    assert!(output.status.success());
    assert_eq!(load_npy(&empty)?.shape(), [0, HIDDEN]);
    assert_eq!(
        fs::read_dir(target.path())?.count(),
        3,
        "nothing else is left behind"
    );
    Ok(())
}

#[test]
fn candidates_are_ranked() -> Outcome {
    let folder = Folder::new()?;
    let arguments = ["similarity", "a man", "girl", "a man", "the baby"];
    let output = run(folder.path(), &arguments)?;
    let stdout = text(&output.stdout);
    assert_eq!(stdout.lines().count(), 3, "{}", text(&output.stderr));
    assert_eq!(stdout.lines().next(), Some("  1.0000  a man"));
    let output = run(
        folder.path(),
        &[
            "similarity",
            "a man",
            "girl",
            "a man",
            "the baby",
            "-k",
            "2",
            "--json",
        ],
    )?;
    let record: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(
        (&record["query"], &record["metric"]),
        (&json!("a man"), &json!("cosine"))
    );
    let results = record["results"].as_array().ok_or("results")?;
    assert_eq!((results.len(), &results[0]["index"]), (2, &json!(1)));
    let output = feed(
        folder.path(),
        &["similarity", "a man", "--metric", "manhattan"],
        b"girl\na man\n",
    )?;
    let stdout = text(&output.stdout);
    assert!(
        stdout
            .lines()
            .next()
            .is_some_and(|line| line.ends_with("0.0000  a man")),
        "{stdout}"
    );
    Ok(())
}

#[test]
fn wrong_usage_exits_with_2() -> Outcome {
    let folder = Folder::new()?;
    for arguments in [
        &["encode", "--batch-size", "many"][..],
        &["translate"],
        &[],
        &["similarity"],
    ] {
        assert_eq!(
            program().args(arguments).output()?.status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    let path = folder.path();
    fails(
        &run(path, &["encode", "x", "--truncate-dim", "99"])?,
        2,
        "option `truncate_dim`",
    );
    fails(
        &run(path, &["encode", "x", "--batch-size", "0"])?,
        2,
        "option `batch_size`",
    );
    fails(
        &run(path, &["encode", "x", "--prompt-name", "poem"])?,
        2,
        "no prompt `poem`",
    );
    fails(
        &run(path, &["encode", "x", "--output", "vectors.xlsx"])?,
        2,
        "cannot tell the format of vectors.xlsx",
    );
    fails(
        &run(path, &["encode", "x", "--output", "no/such/folder/x.npy"])?,
        2,
        "cannot be written",
    );
    fails(
        &feed(path, &["similarity", "x"], b"")?,
        2,
        "there is no candidate",
    );
    fails(
        &feed(path, &["encode"], b"fine\ncaf\xe9\n")?,
        2,
        "line 2 of standard input is not UTF-8",
    );
    Ok(())
}

#[test]
fn models_that_cannot_be_loaded_are_explained() -> Outcome {
    let folder = Folder::new()?;
    fails(
        &run(Path::new("no/such/model"), &["encode", "x"])?,
        1,
        "no model folder at `no/such/model`",
    );
    fails(
        &run(folder.path(), &["encode", "--file", "no/such/file"])?,
        1,
        "read no/such/file",
    );
    folder.write("config.json", &json!({ "model_type": "abacus" }))?;
    let output = run(folder.path(), &["encode", "x"])?;
    fails(&output, 1, "unsupported model_type `abacus`");
    assert!(text(&output.stderr).contains("hint: supported are bert"));
    fs::write(folder.path().join("config.json"), "{\n\n  nonsense\n}")?;
    fails(&run(folder.path(), &["encode", "x"])?, 1, "config.json");
    Ok(())
}

#[test]
fn the_default_model_offline_says_what_to_do() -> Outcome {
    let cache = tempfile::tempdir()?;
    let output = program()
        .env("MLX_CACHE_DIR", cache.path())
        .args(["encode", "x"])
        .output()?;
    fails(&output, 1, "MLX_SYS_OFFLINE forbids fetching");
    assert!(text(&output.stderr).contains("hint: name a model of your own with --model"));
    Ok(())
}

#[test]
fn help_shows_examples() -> Outcome {
    for arguments in [
        &["--help"][..],
        &["encode", "--help"],
        &["similarity", "--help"],
    ] {
        let output = program().args(arguments).output()?;
        assert!(output.status.success());
        assert!(
            text(&output.stdout).contains("Examples:\n  mlx-embed "),
            "{arguments:?}"
        );
    }
    Ok(())
}

#[cfg(unix)]
#[test]
fn ctrl_c_exits_with_130() -> Outcome {
    let folder = Folder::new()?;
    let mut child = program()
        .args(["encode", "--model"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut stdin, mut stdout) = (
        child.stdin.take().ok_or("stdin")?,
        child.stdout.take().ok_or("stdout")?,
    );
    // One window of texts: once its vectors come, the program waits for more.
    stdin.write_all("a man\n".repeat(1024).as_bytes())?;
    stdout.read_exact(&mut [0; 1])?;
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()?;
    assert!(interrupted.success());
    // The flag is raised at some moment after the signal; until then there is more to do.
    let writer = std::thread::spawn(move || {
        let window = "a man\n".repeat(1024);
        while stdin.write_all(window.as_bytes()).is_ok() {}
    });
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest)?;
    writer.join().map_err(|_| "the writer panicked")?;
    let output = child.wait_with_output()?;
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(130), String::new())
    );
    Ok(())
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() -> Outcome {
    let folder = Folder::new()?;
    let mut child = program()
        .args(["encode", "--model"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(child.stdout.take());
    child
        .stdin
        .take()
        .ok_or("stdin")?
        .write_all("a man\n".repeat(1024).as_bytes())?;
    let output = child.wait_with_output()?;
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), String::new())
    );
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_no_utf8_is_wrong_usage() -> Outcome {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let output = program()
        .arg("encode")
        .arg(OsStr::from_bytes(b"caf\xe9"))
        .output()?;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).starts_with("error: "),
        "{}",
        text(&output.stderr)
    );
    Ok(())
}
