//! The other commands of the program, run as users run them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Outcome, prose};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlx-lm"));
    command
        .args(arguments)
        .env_clear()
        .env("MLX_SYS_OFFLINE", "1")
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

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
        "{stderr}"
    );
    assert!(hint.starts_with("hint: "), "{stderr}");
}

/// The small trained model with a chat template that marks thoughts and tools.
fn chat_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(prose()).unwrap().flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
        {% if tools %}[{{ tools | length }} tools]{% endif %}\
        {% if add_generation_prompt %}assistant:{% endif %}{# <think></think> #}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

fn chat(folder: &Path, arguments: &[&str], typed: &str) -> Output {
    let base = [
        "chat",
        "--quiet",
        "--temp",
        "0",
        "-m",
        "8",
        "--model",
        path(folder),
    ];
    let mut child = program(&[&base, arguments].concat())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(typed.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_chat_answers_each_message_and_remembers_the_others() -> Outcome {
    let folder = chat_model();
    let saved = folder.path().join("talk.json");
    let typed = format!(
        "The captain looked\nAnd then?\\\nTell me.\n/save {}\n/quit\nnot read\n",
        saved.display()
    );
    let answers = succeeds(&chat(folder.path(), &["--system", "Be brief."], &typed));
    assert_eq!(
        answers.lines().filter(|line| !line.is_empty()).count(),
        2,
        "{answers}"
    );
    let talk: Value = serde_json::from_slice(&fs::read(&saved)?)?;
    let roles: Vec<&str> = talk["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    assert_eq!(talk["messages"][3]["content"], "And then?\nTell me.");
    // Going on with the saved conversation gives the same as never having left it.
    let loaded = chat(folder.path(), &["--load", path(&saved)], "/retry\n");
    let last = |text: &str| {
        text.lines()
            .rfind(|line| !line.is_empty())
            .unwrap()
            .to_owned()
    };
    assert_eq!(last(&succeeds(&loaded)), last(&answers));
    Ok(())
}

#[test]
fn a_quoted_message_keeps_its_lines() -> Outcome {
    let folder = chat_model();
    let saved = folder.path().join("talk.json");
    let typed = format!("\"\"\"\none\n\n/two\n\"\"\"\n/save {}\n", saved.display());
    succeeds(&chat(folder.path(), &[], &typed));
    let talk: Value = serde_json::from_slice(&fs::read(&saved)?)?;
    assert_eq!(talk["messages"][0]["content"], "one\n\n/two");
    Ok(())
}

#[test]
fn chat_commands_change_what_they_say() {
    let folder = chat_model();
    let output = chat(
        folder.path(),
        &[],
        "/set temp 0.5\n/set\n/help\nIt was\n/stats\n/undo\n/reset\n",
    );
    let stderr = text(&output.stderr);
    for part in [
        "temp 0.5\n",
        "/reset ",
        "Generation: 8 tokens",
        "A new conversation.",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    succeeds(&output);
    // In a script, a mistake ends the conversation.
    for (typed, part) in [
        ("/fly\n", "there is no command /fly"),
        ("/set temp hot\n", "temp cannot be `hot`"),
        ("/set top_p 7\n", "option `top_p`"),
        ("/set wings 2\n", "there is no setting `wings`"),
        ("/retry\n", "there is no answer yet"),
        ("/load no/such/file\n", "no/such/file"),
        ("/save no/such/folder/file\n", "cannot be written"),
    ] {
        let output = chat(folder.path(), &[], typed);
        assert!(!output.status.success(), "{typed}");
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains(part) && stderr.contains("hint: "),
            "{typed}: {stderr}"
        );
    }
}

#[test]
fn a_chat_needs_a_template() {
    let output = program(&["chat", "--quiet", "--model"])
        .arg(prose())
        .output()
        .unwrap();
    fails(&output, 2, "no chat template");
}

#[test]
fn a_template_that_fails_shows_its_line() -> Outcome {
    let folder = chat_model();
    fs::write(
        folder.path().join("chat_template.jinja"),
        "{% for m in messages %}\n{{ m.content | no_such_filter }}\n{% endfor %}",
    )?;
    let arguments = ["generate", "--model", path(folder.path()), "-p", "x"];
    fails(
        &run(&arguments),
        1,
        "chat template line 2 (`{{ m.content | no_such_filter }}`)",
    );
    fs::write(
        folder.path().join("chat_template.jinja"),
        "{{ raise_exception('No \"x\" today') }}",
    )?;
    fails(
        &run(&arguments),
        1,
        "refused the conversation: No \"x\" today",
    );
    Ok(())
}

#[test]
fn template_arguments_reach_the_template() -> Outcome {
    let folder = chat_model();
    fs::write(
        folder.path().join("chat_template.jinja"),
        "{{ messages[-1].content }}{% if enable_thinking is defined %}{{ raise_exception('think ' ~ enable_thinking ~ mood ~ tools | length) }}{% endif %}",
    )?;
    let tools = folder.path().join("tools.json");
    fs::write(
        &tools,
        r#"[{"type": "function", "function": {"name": "f"}}]"#,
    )?;
    let base = [
        "generate",
        "--model",
        path(folder.path()),
        "-p",
        "x",
        "-m",
        "1",
    ];
    let given = [
        "--enable-thinking=false",
        "--chat-template-config",
        "{\"mood\": 7}",
        "--tools",
        path(&tools),
    ];
    fails(&run(&[&base[..], &given].concat()), 1, "think False71");
    fails(
        &run(&[&base[..], &["--chat-template-config", "{"]].concat()),
        2,
        "--chat-template-config",
    );
    fails(
        &run(&[&base[..], &["--tools", "no/such"]].concat()),
        1,
        "no/such",
    );
    fails(
        &run(&[&base[..], &["--extra-eos-token", "no such token"]].concat()),
        2,
        "no such token",
    );
    let plain = [
        "generate",
        "--quiet",
        "--temp",
        "0",
        "--model",
        path(folder.path()),
        "-p",
        "The captain",
        "-m",
        "3",
    ];
    let prefilled = succeeds(&run(
        &[&plain[..], &["--prefill-response", " looked"]].concat()
    ));
    assert_ne!(prefilled, succeeds(&run(&plain)));
    Ok(())
}

#[test]
fn perplexity_is_that_of_the_text() -> Outcome {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("text.txt");
    fs::write(
        &file,
        "The captain looked out over the sea, and the sea was calm. ".repeat(20),
    )?;
    let model = prose();
    let measure = |file: &Path, more: &[&str]| -> Value {
        let base = [
            "perplexity",
            "--json",
            "--model",
            path(&model),
            "--file",
            path(file),
        ];
        serde_json::from_str(&succeeds(&run(&[&base[..], more].concat()))).unwrap()
    };
    let plain = measure(&file, &["--sequence-length", "64"]);
    let scrambled = folder.path().join("noise.txt");
    fs::write(
        &scrambled,
        "sea xq the zz captain vv qq over looked jj kk ".repeat(20),
    )?;
    let noise = measure(&scrambled, &["--sequence-length", "64"]);
    let value = |record: &Value| record["perplexity"].as_f64().unwrap();
    assert!(
        value(&plain) > 1.0 && value(&plain) < value(&noise),
        "{plain} {noise}"
    );
    assert_eq!(measure(&file, &["-l", "64", "-n", "1"])["tokens"], 63);
    let lines = folder.path().join("text.jsonl");
    fs::write(
        &lines,
        format!("{}\n", json!({"text": fs::read_to_string(&file)?})),
    )?;
    assert_eq!(
        value(&measure(&lines, &["--sequence-length", "64"])),
        value(&plain)
    );
    fs::write(&lines, "{\"txt\": 1}\n")?;
    let arguments = [
        "perplexity",
        "--model",
        path(&model),
        "--file",
        path(&lines),
    ];
    fails(&run(&arguments), 2, "line 1");
    fs::write(&file, "")?;
    let arguments = ["perplexity", "--model", path(&model), "--file", path(&file)];
    fails(&run(&arguments), 2, "fewer than two tokens");
    Ok(())
}

#[test]
fn tasks_are_scored() -> Outcome {
    let folder = tempfile::tempdir()?;
    let (quiz, writing) = (
        folder.path().join("quiz.jsonl"),
        folder.path().join("writing.jsonl"),
    );
    let lines = [
        json!({"question": "The captain looked at the", "choices": ["sea", "xqzvv"], "answer": 0}),
        json!({"question": "He said that he was", "choices": ["zzkqj", "going"], "answer": "going"}),
        json!({"context": "It was a very", "choices": ["qqvxz", "good"], "answer": 1}),
    ];
    fs::write(&quiz, lines.map(|line| line.to_string()).join("\n"))?;
    let model = prose();
    let prompt = "The captain looked";
    let answer = succeeds(&run(&[
        "generate",
        "--quiet",
        "--temp",
        "0",
        "-m",
        "4",
        "--model",
        path(&model),
        "-p",
        prompt,
    ]));
    let lines = [
        json!({"prompt": prompt, "answer": answer.trim(), "max_tokens": 4}),
        json!({"prompt": prompt, "answer": ["zebra", "quark"], "match": "contains"}),
    ];
    fs::write(&writing, lines.map(|line| line.to_string()).join("\n"))?;
    let arguments = [
        "evaluate",
        "--model",
        path(&model),
        "--task",
        path(&quiz),
        path(&writing),
    ];
    let record = succeeds(&run(&[&arguments[..], &["--json"]].concat()));
    let record: Value = serde_json::from_str(&record)?;
    assert_eq!(record["tasks"][0]["acc"], 1.0, "{record}");
    assert_eq!(record["tasks"][0]["questions"], 3);
    assert_eq!(record["tasks"][1]["exact_match"], 0.5, "{record}");
    let table = succeeds(&run(&[
        &arguments[..],
        &["--limit", "1", "--num-shots", "1"],
    ]
    .concat()));
    assert!(
        table.contains("quiz") && table.contains("acc_norm"),
        "{table}"
    );
    for (line, part) in [
        (
            "{\"question\": \"x\", \"choices\": [\"a\"], \"answer\": 1}",
            "none of its choices",
        ),
        ("{\"question\": \"x\"}", "no `answer`"),
        ("[1]", "not a JSON object"),
        ("{", "not JSON"),
        (
            "{\"prompt\": \"x\", \"answer\": \"y\", \"match\": \"vibes\"}",
            "`vibes`",
        ),
    ] {
        fs::write(&quiz, line)?;
        fails(&run(&arguments), 2, part);
    }
    Ok(())
}

#[test]
fn a_benchmark_reports_each_case() -> Outcome {
    let model = prose();
    let base = [
        "benchmark",
        "--model",
        path(&model),
        "-p",
        "16",
        "40",
        "-g",
        "4",
        "-n",
        "1",
    ];
    let json: Value =
        serde_json::from_str(&succeeds(&run(
            &[&base[..], &["-b", "1", "3", "--json"]].concat()
        )))?;
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    for result in results {
        assert!(result["prompt_tps"].as_f64().unwrap() > 0.0);
        assert!(result["generation_tps"].as_f64().unwrap() > 0.0);
    }
    let table = succeeds(&run(&base));
    assert_eq!(table.lines().count(), 3, "{table}");
    fails(&run(&[&base[..], &["-p", "600"]].concat()[..]), 2, "");
    Ok(())
}

#[test]
fn cached_models_are_listed_and_removed() -> Outcome {
    let cache = tempfile::tempdir()?;
    let repository = cache.path().join("models--someone--tiny");
    fs::create_dir_all(repository.join("refs"))?;
    fs::create_dir_all(repository.join("snapshots/abc"))?;
    fs::create_dir_all(repository.join("blobs"))?;
    fs::write(repository.join("refs/main"), "abc")?;
    fs::write(repository.join("blobs/weights"), vec![0; 1_234_567])?;
    let manage = |arguments: &[&str]| {
        let mut command = program(&[&["manage"], arguments].concat());
        command.env("HF_HUB_CACHE", cache.path()).output().unwrap()
    };
    let list = succeeds(&manage(&["list"]));
    assert!(
        list.starts_with("someone/tiny") && list.contains("1.2 MB") && list.contains("incomplete"),
        "{list}"
    );
    let record: Value = serde_json::from_str(&succeeds(&manage(&["list", "TINY", "--json"])))?;
    assert_eq!(record["models"][0]["revisions"][0]["refs"], json!(["main"]));
    assert_eq!(succeeds(&manage(&["list", "huge"])).lines().count(), 1);
    fails(
        &manage(&["remove", "someone/tiny"]),
        2,
        "nobody is there to confirm",
    );
    fails(
        &manage(&["remove", "someone/else", "--yes"]),
        1,
        "not in the cache",
    );
    fails(&manage(&["remove", "../x", "--yes"]), 1, "not in the cache");
    assert_eq!(
        succeeds(&manage(&["remove", "someone/tiny", "--yes"])),
        "1.2 MB freed\n"
    );
    assert!(!repository.exists());
    Ok(())
}

#[test]
fn models_are_converted_there_and_back() -> Outcome {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let model = prose();
    let text = at("text.txt");
    fs::write(
        &text,
        "The captain looked out over the sea, and the sea was calm. ".repeat(4),
    )?;
    let convert = |from: &Path, to: &Path, more: &[&str]| {
        let base = [
            "convert",
            "--quiet",
            "--json",
            "--model",
            path(from),
            "--mlx-path",
            path(to),
        ];
        run(&[&base[..], more].concat())
    };
    let perplexity = |folder: &Path| -> f64 {
        let output = run(&[
            "perplexity",
            "--json",
            "--model",
            path(folder),
            "--file",
            path(&text),
        ]);
        let record: Value = serde_json::from_str(&succeeds(&output)).unwrap();
        record["perplexity"].as_f64().unwrap()
    };
    let bits = |output: &Output| -> f64 {
        let record: Value = serde_json::from_str(&succeeds(output)).unwrap();
        record["bits_per_weight"].as_f64().unwrap()
    };
    let original = perplexity(&model);
    let eight = convert(&model, &at("8"), &["-q", "--q-bits", "8"]);
    assert!((8.0..9.0).contains(&bits(&eight)));
    assert!((perplexity(&at("8")) / original - 1.0).abs() < 0.05);
    let dense = convert(&at("8"), &at("dense"), &["-d", "--dtype", "float32"]);
    assert!((bits(&dense) - 32.0).abs() < 0.1);
    let apart = perplexity(&at("dense")) / perplexity(&at("8")) - 1.0;
    assert!(apart.abs() < 0.01, "{apart}");
    let three = convert(&model, &at("3"), &["-q", "--q-bits", "3"]);
    let mixed = convert(
        &model,
        &at("mixed"),
        &["-q", "--quant-predicate", "mixed_3_6"],
    );
    assert!(bits(&three) < bits(&mixed) && bits(&mixed) < 6.6);
    let dynamic = convert(
        &model,
        &at("dynamic"),
        &[
            "-q",
            "--q-bits",
            "3",
            "--dynamic",
            "--calibration",
            path(&text),
            "--target-bpw",
            "5",
            "--calibration-tokens",
            "64",
        ],
    );
    assert!(bits(&dynamic) > bits(&three) && bits(&dynamic) < 5.2);
    assert!(perplexity(&at("dynamic")) < perplexity(&at("3")));
    // Quantised as it is loaded, a model is what it is when it was converted.
    let ask = |model: &Path, more: &[&str]| {
        let base = [
            "perplexity",
            "--json",
            "--file",
            path(&text),
            "--model",
            path(model),
        ];
        let record: Value =
            serde_json::from_str(&succeeds(&run(&[&base[..], more].concat()))).unwrap();
        record["perplexity"].as_f64().unwrap()
    };
    let apart = ask(&model, &["--quantize", "8"]) / ask(&at("8"), &[]) - 1.0;
    assert!(apart.abs() < 1e-4, "{apart}");
    // What cannot be made leaves nothing behind.
    fails(&convert(&model, &at("8"), &["-q"]), 2, "exists already");
    fails(
        &convert(&model, &at("new"), &["-q", "--q-bits", "7"]),
        2,
        "option `quantize`",
    );
    fails(
        &convert(&model, &at("new"), &["-q", "--quant-predicate", "mixed"]),
        2,
        "no recipe `mixed`",
    );
    fails(
        &convert(Path::new("no/such/model"), &at("new"), &[]),
        1,
        "no/such/model",
    );
    let names: Vec<String> = fs::read_dir(folder.path())?
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 6, "{names:?}");
    Ok(())
}

#[test]
fn info_says_why_a_model_cannot_be_run() -> Outcome {
    let folder = chat_model();
    let config = folder.path().join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&config)?)?;
    value["model_type"] = json!("abacus");
    fs::write(&config, value.to_string())?;
    let info = ["info", "--json", "--model", path(folder.path())];
    let facts: Value = serde_json::from_str(&succeeds(&run(&info)))?;
    assert_eq!(facts["supported"], false);
    assert_eq!(facts["why"], "unsupported model_type `abacus`");
    assert!(
        facts["bytes"]
            .as_u64()
            .is_some_and(|bytes| bytes > 1_000_000)
    );
    fs::remove_file(folder.path().join("tokenizer.json"))?;
    value["model_type"] = json!("llama");
    fs::write(&config, value.to_string())?;
    fails(&run(&info), 1, "tokenizer.json");
    Ok(())
}

#[test]
fn every_command_shows_examples() {
    for command in [
        "generate",
        "chat",
        "convert",
        "info",
        "download",
        "manage",
        "perplexity",
        "evaluate",
        "benchmark",
    ] {
        let help = succeeds(&run(&[command, "--help"]));
        assert!(help.contains("Examples:\n  mlx-lm "), "{command}: {help}");
    }
}

#[test]
#[cfg(feature = "hub")]
fn a_download_offline_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    let download = |id: &str| {
        program(&["download", id])
            .env("HF_HOME", cache.path())
            .output()
            .unwrap()
    };
    fails(&download("someone/tiny"), 1, "HF_HUB_OFFLINE");
    fails(&download("not an id"), 2, "`not an id`");
}
