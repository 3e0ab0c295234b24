//! The program, run as users run it.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Outcome, checkpoint, config, prose, with};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-lm"));
    // Nothing may depend on the environment, and nothing may be fetched.
    command
        .env_clear()
        .env("MLX_SYS_OFFLINE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

fn generate(model: &Path, arguments: &[&str]) -> std::io::Result<Output> {
    program()
        .arg("generate")
        .arg("--model")
        .arg(model)
        .args(arguments)
        .output()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Expects exit code `code`, an error line with `part`, a hint, and nothing else.
fn fails(output: &Output, code: i32, part: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    let lines: Vec<&str> = stderr.lines().collect();
    let [error, hint] = lines[..] else {
        panic!("not an error and a hint: {stderr}");
    };
    assert!(
        error.starts_with("error: ") && error.contains(part),
        "`{part}`: {stderr}"
    );
    assert!(hint.starts_with("hint: "), "{stderr}");
}

#[test]
fn text_goes_to_stdout_and_statistics_to_stderr() -> Outcome {
    let output = generate(
        &prose(),
        &[
            "--prompt",
            "The captain looked",
            "--temp",
            "0",
            "--max-tokens",
            "12",
        ],
    )?;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{stderr}");
    assert!(stdout.len() > 20 && stdout.ends_with('\n'), "{stdout}");
    for part in [
        "Prompt: ",
        "Generation: 12 tokens",
        "tokens-per-sec",
        "Peak memory: ",
    ] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let quiet = generate(
        &prose(),
        &[
            "--prompt",
            "The captain looked",
            "--temp",
            "0",
            "--max-tokens",
            "12",
            "--quiet",
        ],
    )?;
    assert_eq!(
        (text(&quiet.stdout), text(&quiet.stderr)),
        (stdout, String::new())
    );
    Ok(())
}

#[test]
fn json_is_one_object() -> Outcome {
    let output = generate(
        &prose(),
        &["-p", "It was", "--seed", "4", "-m", "8", "--json"],
    )?;
    let record: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(
        (&record["generation_tokens"], &record["finish_reason"]),
        (&json!(8), &json!("length"))
    );
    assert!(record["text"].as_str().is_some_and(|text| !text.is_empty()));
    assert!(record["prompt_tps"].as_f64().is_some_and(|rate| rate > 0.0));
    let again = generate(
        &prose(),
        &["-p", "It was", "--seed", "4", "-m", "8", "--quiet"],
    )?;
    assert_eq!(
        text(&again.stdout).trim_end_matches('\n'),
        record["text"]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches('\n')
    );
    Ok(())
}

#[test]
fn a_dash_reads_the_prompt_from_stdin() -> Outcome {
    let mut command = program();
    command
        .args([
            "generate", "--quiet", "--temp", "0", "-m", "4", "--prompt", "-", "--model",
        ])
        .arg(prose());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .ok_or("no stdin")?
        .write_all(b"The captain looked")?;
    let piped = child.wait_with_output()?;
    let direct = generate(
        &prose(),
        &[
            "--quiet",
            "--temp",
            "0",
            "-m",
            "4",
            "--prompt",
            "The captain looked",
        ],
    )?;
    assert_eq!(text(&piped.stdout), text(&direct.stdout));
    assert!(!piped.stdout.is_empty());
    Ok(())
}

#[test]
fn prompts_that_cannot_be_used_are_explained() -> Outcome {
    fails(
        &generate(&prose(), &["--prompt", ""])?,
        2,
        "the prompt is empty",
    );
    let feed = |bytes: &[u8]| -> std::io::Result<Output> {
        let mut command = program();
        command
            .args(["generate", "--prompt", "-", "--model"])
            .arg(prose());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(bytes)?;
        }
        child.wait_with_output()
    };
    fails(&feed(b"")?, 2, "the prompt is empty");
    fails(&feed(b"caf\xe9")?, 2, "not UTF-8");
    let long = feed("one more word and ".repeat(60_000).as_bytes())?;
    fails(&long, 1, "but the model's context holds 512");
    assert!(text(&long.stderr).contains("hint: shorten the prompt"));
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_no_utf8_is_wrong_usage() -> Outcome {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let output = program()
        .arg("generate")
        .arg("--prompt")
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

#[test]
fn wrong_usage_exits_with_2() -> Outcome {
    for arguments in [
        &["generate"][..],
        &["generate", "--prompt", "x", "--max-tokens", "many"],
        &["translate"],
        &[],
    ] {
        assert_eq!(
            program().args(arguments).output()?.status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
    fails(
        &generate(&prose(), &["--prompt", "x", "--top-p", "7"])?,
        2,
        "option `top_p`",
    );
    fails(
        &generate(&prose(), &["--prompt", "x", "--system", "y"])?,
        2,
        "--system needs a chat template",
    );
    Ok(())
}

#[test]
fn models_that_cannot_be_loaded_are_explained() -> Outcome {
    fails(
        &generate(Path::new("no/such/model"), &["--prompt", "x"])?,
        1,
        "no model at `no/such/model`",
    );
    let folder = checkpoint(&with(config("llama"), json!({ "model_type": "abacus" })))?;
    let output = generate(folder.path(), &["--prompt", "x"])?;
    fails(&output, 1, "unsupported model_type `abacus`");
    assert!(text(&output.stderr).contains("hint: supported are "));
    std::fs::write(folder.path().join("config.json"), "{\n\n  nonsense\n}")?;
    fails(
        &generate(folder.path(), &["--prompt", "x"])?,
        1,
        "config.json",
    );
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, b"GGUF\x03")?;
    fails(&generate(&file, &["--prompt", "x"])?, 1, "model.gguf");
    Ok(())
}

#[test]
fn the_default_model_offline_says_what_to_do() -> Outcome {
    let cache = tempfile::tempdir()?;
    let output = program()
        .env("MLX_CACHE_DIR", cache.path())
        .args(["generate", "--prompt", "x"])
        .output()?;
    fails(&output, 1, "MLX_SYS_OFFLINE forbids fetching");
    assert!(text(&output.stderr).contains("hint: name a model of your own with --model"));
    Ok(())
}

#[test]
fn help_shows_examples() -> Outcome {
    for arguments in [
        &["--help"][..],
        &["generate", "--help"],
        &["info", "--help"],
    ] {
        let output = program().args(arguments).output()?;
        assert!(output.status.success());
        assert!(
            text(&output.stdout).contains("Examples:\n  mlx-lm "),
            "{arguments:?}"
        );
    }
    Ok(())
}

#[test]
fn a_reader_that_leaves_ends_the_program_quietly() -> Outcome {
    let mut command = program();
    command
        .args([
            "generate",
            "--prompt",
            "It was",
            "--max-tokens",
            "400",
            "--temp",
            "0",
            "--model",
        ])
        .arg(prose());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    stdout.read_exact(&mut [0; 1])?;
    drop(stdout);
    let output = child.wait_with_output()?;
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(0), String::new())
    );
    Ok(())
}

#[cfg(unix)]
#[test]
fn ctrl_c_exits_with_130() -> Outcome {
    let mut command = program();
    command
        .args([
            "generate",
            "--prompt",
            "It was",
            "--max-tokens",
            "100000",
            "--max-kv-size",
            "64",
            "--model",
        ])
        .arg(prose());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("no stdout")?;
    stdout.read_exact(&mut [0; 8])?;
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()?
            .success()
    );
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest)?;
    let output = child.wait_with_output()?;
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(130), String::new())
    );
    assert!(rest.ends_with(b"\n"));
    Ok(())
}

#[test]
fn info_tells_what_a_model_is() -> Outcome {
    let output = program()
        .args(["info", "--json", "--model"])
        .arg(prose())
        .output()?;
    let facts: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(
        (&facts["model_type"], &facts["parameters"]),
        (&json!("llama"), &json!(5_475_584))
    );
    assert_eq!(
        (&facts["context"], &facts["layers"]),
        (&json!(512), &json!(6))
    );
    let output = program().args(["info", "--model"]).arg(prose()).output()?;
    assert!(
        text(&output.stdout)
            .lines()
            .any(|line| line.starts_with("vocab_size") && line.ends_with("4096"))
    );
    Ok(())
}

#[test]
fn a_hub_id_is_found_in_the_local_cache() -> Outcome {
    let cache = tempfile::tempdir()?;
    let repository = cache.path().join("models--someone--tiny");
    let snapshot = repository.join("snapshots/abc123");
    std::fs::create_dir_all(repository.join("refs"))?;
    std::fs::create_dir_all(&snapshot)?;
    std::fs::write(repository.join("refs/main"), "abc123")?;
    let folder = checkpoint(&config("qwen3"))?;
    for file in std::fs::read_dir(folder.path())?.flatten() {
        std::fs::copy(file.path(), snapshot.join(file.file_name()))?;
    }
    let info = |id: &str| {
        let mut command = program();
        command
            .env("HF_HUB_CACHE", cache.path())
            .args(["info", "--json", "--model", id]);
        command.output()
    };
    let facts: Value = serde_json::from_slice(&info("someone/tiny")?.stdout)?;
    assert_eq!(facts["model_type"], "qwen3");
    fails(
        &info("someone/else")?,
        1,
        "`someone/else` is not in the cache",
    );
    fails(
        &info("../someone/tiny")?,
        1,
        "no model at `../someone/tiny`",
    );
    Ok(())
}

#[test]
fn configuration_keys_that_nobody_reads_are_warned_about() -> Outcome {
    let folder = checkpoint(&with(
        config("llama"),
        json!({ "spiral_depth": 3, "torch_dtype": "float32" }),
    ))?;
    let output = generate(folder.path(), &["--prompt", "x", "-m", "1"])?;
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("WARN") && stderr.contains("spiral_depth"),
        "{stderr}"
    );
    assert!(!stderr.contains("torch_dtype"), "{stderr}");
    let quiet = generate(folder.path(), &["--prompt", "x", "-m", "1", "--quiet"])?;
    assert_eq!(text(&quiet.stderr), "");
    Ok(())
}
