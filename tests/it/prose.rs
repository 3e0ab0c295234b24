//! prose-5m, a model with trained weights, against Python mlx-lm.

use mlx_lm::{GenerateOptions, load};

use crate::support::{Outcome, fixture, ids, json, program, text};

#[test]
fn ten_prompts_continue_as_in_python() -> Outcome {
    let model = load(fixture("prose-5m"))?;
    let golden = json(fixture("prose-5m/golden.json"));
    let cases = golden.as_array().ok_or("not a list")?;
    assert_eq!(cases.len(), 10);
    for case in cases {
        let prompt = case["prompt"].as_str().ok_or("no prompt")?;
        let encoded = model.tokenizer().encode(prompt, true)?;
        assert_eq!(encoded, ids(&case["ids"]), "{prompt}");
        let expected = ids(&case["tokens"]);
        let options = GenerateOptions::default()
            .max_tokens(expected.len())
            .temperature(Some(0.0));
        let (mut generated, mut written) = (Vec::new(), String::new());
        for segment in model.generate(prompt, &options)? {
            let segment = segment?;
            generated.push(segment.token);
            written.push_str(&segment.text);
        }
        assert_eq!(generated, expected, "{prompt}");
        assert_eq!(
            written,
            case["text"].as_str().unwrap_or_default(),
            "{prompt}"
        );
    }
    Ok(())
}

#[test]
fn the_program_writes_the_same_text() -> Outcome {
    let golden = json(fixture("prose-5m/golden.json"));
    let case = &golden[4];
    let output = program("mlx-lm")
        .args(["generate", "--temp", "0", "--max-tokens", "64", "--prompt"])
        .arg(case["prompt"].as_str().ok_or("no prompt")?)
        .arg("--model")
        .arg(fixture("prose-5m"))
        .output()?;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout).trim_end(),
        case["text"].as_str().unwrap_or_default().trim_end()
    );
    Ok(())
}
