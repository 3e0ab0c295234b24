//! What the flags of the program do, seen from outside.

use std::fs;
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
        .stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The answer of the small trained model, greedy unless the arguments say otherwise.
#[track_caller]
fn answer(arguments: &[&str]) -> String {
    let model = prose();
    let base = [
        "generate",
        "--quiet",
        "-p",
        "It was the captain who",
        "--model",
        model.to_str().unwrap(),
    ];
    let length = match arguments.contains(&"-m") {
        true => &[][..],
        false => &["-m", "24"],
    };
    succeeds(&run(&[&base[..], length, arguments].concat()))
}

#[track_caller]
fn record(arguments: &[&str]) -> Value {
    serde_json::from_str(&answer(&[&["--json"], arguments].concat())).unwrap()
}

#[test]
fn a_schema_a_pattern_and_a_grammar_bind_the_answer() -> Outcome {
    let folder = tempfile::tempdir()?;
    let schema = json!({
        "type": "object",
        "properties": { "age": { "type": "integer", "minimum": 1, "maximum": 99 } },
        "required": ["age"],
        "additionalProperties": false,
        // The small model would write spaces until no tokens are left.
        "x-guidance": { "whitespace_flexible": false },
    });
    let file = folder.path().join("person.json");
    fs::write(&file, schema.to_string())?;
    for given in [schema.to_string().as_str(), file.to_str().unwrap()] {
        let answer = answer(&["--temp", "0", "--json-schema", given]);
        let found: Value = serde_json::from_str(&answer)?;
        let age = found["age"].as_i64().ok_or("no age")?;
        assert!((1..100).contains(&age), "{answer}");
    }
    let found = answer(&[
        "--temp",
        "1",
        "--seed",
        "3",
        "--regex",
        "(yes|no), [a-z]{3}",
    ]);
    let (word, rest) = found.trim().split_once(", ").ok_or("no comma")?;
    assert!(["yes", "no"].contains(&word) && rest.len() == 3, "{found}");
    let grammar = folder.path().join("sum.lark");
    fs::write(
        &grammar,
        "start: NUMBER \" + \" NUMBER\nNUMBER: /[0-9]{2}/\n",
    )?;
    let found = answer(&["--temp", "0", "--grammar", grammar.to_str().unwrap()]);
    let (a, b) = found.trim().split_once(" + ").ok_or("no sum")?;
    assert!(
        a.parse::<u8>().is_ok() && b.parse::<u8>().is_ok(),
        "{found}"
    );
    // The same with drafts.
    let drafted = answer(&[
        "--temp",
        "0",
        "--prompt-lookup",
        "--grammar",
        grammar.to_str().unwrap(),
    ]);
    assert_eq!(drafted, found);
    Ok(())
}

#[test]
fn drafts_change_no_greedy_answer() {
    let model = prose();
    let plain = record(&["--temp", "0"]);
    let drafted = record(&["--temp", "0", "--draft-model", model.to_str().unwrap()]);
    assert_eq!(drafted["text"], plain["text"]);
    // The model drafts for itself, so that three of four tokens are proposals that hold.
    assert!(drafted["draft_tokens"].as_u64().unwrap() >= 12, "{drafted}");
    assert_eq!(plain["draft_tokens"], 0);
    let looked_up = record(&[
        "--temp",
        "0",
        "--prompt-lookup=2",
        "--num-draft-tokens",
        "4",
    ]);
    assert_eq!(looked_up["text"], plain["text"]);
}

#[test]
fn every_sampler_can_be_reached() {
    let plain = answer(&["--temp", "1", "--seed", "7"]);
    for arguments in [
        &["--top-k", "1"][..],
        &["--top-p", "0.01"],
        &["--min-p", "0.99"],
        &["--typical-p", "0.05"],
        &["--top-n-sigma", "0.01"],
        &["--xtc-probability", "1", "--xtc-threshold", "0.01"],
        &["--mirostat", "1", "--mirostat-tau", "0.5"],
        &[
            "--mirostat",
            "2",
            "--mirostat-tau",
            "0.5",
            "--mirostat-eta",
            "0.2",
        ],
        &[
            "--repetition-penalty",
            "3",
            "--repetition-context-size",
            "50",
        ],
        &["--presence-penalty", "9", "--presence-context-size", "50"],
        &["--frequency-penalty", "9", "--frequency-context-size", "50"],
    ] {
        let given = [&["--temp", "1", "--seed", "7"], arguments].concat();
        assert_ne!(answer(&given), plain, "{arguments:?}");
    }
    // Only the likeliest token is left in each of these. Later tokens have rivals of exactly the same
    // likelihood in bfloat16.
    let greedy = answer(&["--temp", "0", "-m", "4"]);
    for arguments in [["--top-k", "1"], ["--min-p", "1"], ["--top-p", "0.0001"]] {
        let given = [&["--temp", "1", "-m", "4"][..], &arguments].concat();
        assert_eq!(answer(&given), greedy, "{arguments:?}");
    }
    let repeating = ["--temp", "0", "-m", "120", "--ignore-chat-template"];
    let dry = [
        "--dry-multiplier",
        "5",
        "--dry-allowed-length",
        "1",
        "--dry-sequence-breaker",
        "\n",
    ];
    assert_ne!(answer(&[&repeating[..], &dry].concat()), answer(&repeating));
}

#[test]
fn biases_forbid_tokens_by_text_or_id() {
    let greedy = record(&["--temp", "0", "--logprobs"]);
    let first = &greedy["logprobs"][0];
    let (token, id) = (
        first["token"].as_str().unwrap(),
        first["id"].as_u64().unwrap(),
    );
    let by_id = record(&[
        "--temp",
        "0",
        "--logprobs",
        "--logit-bias",
        &format!("{id}=-inf"),
    ]);
    assert_ne!(by_id["logprobs"][0]["id"], first["id"]);
    let by_text = record(&[
        "--temp",
        "0",
        "--logprobs",
        "--logit-bias",
        &format!("{token}=-inf"),
    ]);
    assert_eq!(by_text["text"], by_id["text"]);
}

#[test]
fn logprobs_are_told_in_json_by_line_and_as_a_table() {
    let whole = record(&["--temp", "0", "--logprobs=3", "-m", "5"]);
    let entries = whole["logprobs"].as_array().unwrap();
    assert_eq!(entries.len(), 5);
    let mut text = String::new();
    for entry in entries {
        let best = &entry["top_logprobs"][0];
        // Greedy takes the likeliest.
        assert_eq!(
            (&best["id"], &best["logprob"]),
            (&entry["id"], &entry["logprob"])
        );
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 3);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0);
        text.push_str(entry["token"].as_str().unwrap());
    }
    assert_eq!(text, whole["text"].as_str().unwrap());

    let lines = answer(&["--temp", "0", "--logprobs=3", "-m", "5", "--json-lines"]);
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[0]["logprobs"], entries[0]);
    assert_eq!(lines[5]["text"], whole["text"]);

    let table = answer(&["--temp", "0", "--logprobs=2", "-m", "5"]);
    let rows: Vec<&str> = table.split_once("\n\n").unwrap().1.lines().collect();
    assert_eq!(rows.len(), 6, "{table}");
    assert!(
        rows[0].starts_with("token") && rows[0].contains("logprob"),
        "{table}"
    );
    let quoted = format!("{:?}", entries[0]["token"].as_str().unwrap());
    assert!(rows[1].starts_with(&quoted), "{table}");
}

#[test]
fn a_packed_cache_takes_effect_behind_its_start() {
    let plain = record(&["--temp", "0", "-m", "40"]);
    let packed = |start: &str| {
        let flags = [
            "--kv-bits",
            "2",
            "--kv-group-size",
            "32",
            "--quantized-kv-start",
            start,
        ];
        record(&[&["--temp", "0", "-m", "40"][..], &flags].concat())
    };
    assert_eq!(packed("5000")["text"], plain["text"]);
    assert_ne!(packed("0")["text"], plain["text"]);
}

/// The small trained model with a chat template.
fn chat_model() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(prose()).unwrap().flatten() {
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>\n{% endfor %}\
        {% if add_generation_prompt %}<assistant>{% endif %}";
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

fn cache_prompt(model: &Path, file: &Path, more: &[&str]) -> Output {
    let base = [
        "cache-prompt",
        "--quiet",
        "--model",
        model.to_str().unwrap(),
        "--prompt-cache-file",
        file.to_str().unwrap(),
    ];
    run(&[&base[..], more].concat())
}

#[test]
fn a_cached_prompt_is_continued_as_the_whole_one() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("cache.safetensors");
    let chat = chat_model();
    for model in [prose().as_path(), chat.path()] {
        succeeds(&cache_prompt(
            model,
            &file,
            &["--prompt", "It was the captain"],
        ));
        let model = model.to_str().unwrap();
        let common = ["generate", "--json", "--temp", "0", "-m", "12"];
        let whole = ["--prompt", "It was the captain who", "--model", model];
        let rest = [
            "--prompt",
            " who",
            "--prompt-cache-file",
            file.to_str().unwrap(),
        ];
        let whole: Value = serde_json::from_str(&succeeds(&run(&[&common[..], &whole].concat())))?;
        let rest: Value = serde_json::from_str(&succeeds(&run(&[&common[..], &rest].concat())))?;
        assert_eq!(rest["text"], whole["text"], "{model}");
        assert_eq!(rest["prompt_tokens"], whole["prompt_tokens"]);
        assert!(rest["cached_tokens"].as_u64().unwrap() > 3, "{rest}");
        assert_eq!(whole["cached_tokens"], 0);
    }
    Ok(())
}

#[test]
fn a_prompt_cache_is_written_whole_or_not_at_all() -> Outcome {
    let scratch = tempfile::tempdir()?;
    let file = scratch.path().join("cache.safetensors");
    fs::write(&file, "what was there before")?;
    // Longer than the context.
    let long = "one more word and ".repeat(600);
    let output = cache_prompt(&prose(), &file, &["--prompt", &long]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert_eq!(fs::read(&file)?, b"what was there before");
    assert_eq!(fs::read_dir(scratch.path())?.count(), 1);
    let shown = succeeds(&cache_prompt(
        &prose(),
        &file,
        &["--prompt", "It was", "--json"],
    ));
    let shown: Value = serde_json::from_str(&shown)?;
    assert_eq!(shown["bytes"].as_u64(), Some(fs::metadata(&file)?.len()));
    assert_eq!(fs::read_dir(scratch.path())?.count(), 1);
    Ok(())
}

#[test]
fn the_memory_of_a_model_is_told_before_it_is_loaded() -> Outcome {
    let model = prose();
    let info = |more: &[&str]| -> Result<Value, serde_json::Error> {
        let base = ["info", "--json", "--model", model.to_str().unwrap()];
        serde_json::from_str(&succeeds(&run(&[&base[..], more].concat())))
    };
    let facts = info(&[])?;
    let number = |facts: &Value, key: &str| facts[key].as_u64().unwrap();
    assert_eq!(facts["memory_weights"], facts["bytes"]);
    // 6 layers of 4 heads, keys and values of 32 numbers of 2 bytes.
    assert_eq!(
        facts["memory_cache_per_1k_tokens"],
        6 * 512 * 2 * 4 * 32 * 2
    );
    let parts = ["memory_weights", "memory_cache", "memory_workspace"];
    let sum: u64 = parts.iter().map(|key| number(&facts, key)).sum();
    assert_eq!(number(&facts, "memory_needed"), sum);
    assert_eq!(facts["fits"], true);
    let small = info(&["--memory-limit", "5MB"])?;
    assert_eq!(
        (&small["fits"], &small["supported"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(small["memory_available"], 5_000_000);
    assert!(small["why"].as_str().unwrap().contains("not enough memory"));
    let packed = info(&[
        "--kv-bits",
        "4",
        "--kv-group-size",
        "32",
        "--quantized-kv-start",
        "0",
    ])?;
    assert!(number(&packed, "memory_cache") < number(&facts, "memory_cache") / 2);
    // What was said to be needed is what a run needs, give or take.
    let prompt = "one more word and ".repeat(90);
    let ran = succeeds(&run(&[
        "generate",
        "--json",
        "-m",
        "4",
        "-p",
        &prompt,
        "--model",
        model.to_str().unwrap(),
    ]));
    let ran: Value = serde_json::from_str(&ran)?;
    let (needed, peak) = (
        number(&facts, "memory_needed"),
        number(&ran, "peak_memory_bytes"),
    );
    assert!(
        peak < 2 * needed && needed < 2 * peak,
        "{needed} estimated, {peak} used"
    );
    Ok(())
}

#[test]
fn every_command_shows_examples() {
    let listed = succeeds(&run(&["--help"]));
    let commands = listed
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help");
    let mut count = 0;
    for command in commands {
        let help = succeeds(&run(&[command, "--help"]));
        let example = format!("  mlx-lm {command}");
        assert!(
            help.contains("Examples:") && help.contains(&example),
            "{command}: {help}"
        );
        count += 1;
    }
    assert!(count >= 9, "{listed}");
}
