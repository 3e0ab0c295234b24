//! SmolLM2-135M-Instruct from its GGUF file, against transformers' reading of the same file.
//! The model is fetched into the cache on first use.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use mlx_lm::cache::CacheOptions;
use mlx_lm::chat::{Message, RenderOptions};
use mlx_lm::{GenerateOptions, LoadedModel, load};
use mlx_sys::vendor;
use serde_json::Value;

use crate::support::{
    Outcome, arrays, fixture, ids, json, relative_difference, row, tokens, values,
};

/// The file, fetched if it is not in the cache yet.
fn file() -> PathBuf {
    let folder = vendor::fetch_model("smollm2-135m-instruct", &mut |_| {}).unwrap();
    let mut files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "gguf")
        })
        .unwrap()
}

fn model() -> &'static LoadedModel {
    static MODEL: OnceLock<LoadedModel> = OnceLock::new();
    MODEL.get_or_init(|| load(file()).unwrap())
}

fn golden(name: &str) -> Value {
    json(fixture("smollm2").join(name))
}

#[test]
fn conversations_render_and_encode_as_in_transformers() -> Outcome {
    let tokenizer = model().tokenizer();
    let chats = golden("chats.json");
    for chat in chats.as_array().ok_or("not a list")? {
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone())?;
        let options =
            RenderOptions::default().add_generation_prompt(chat["add_generation_prompt"] == true);
        let text = tokenizer.apply_chat_template(&messages, &options)?;
        assert_eq!(text, chat["text"].as_str().unwrap_or_default());
        assert_eq!(tokenizer.encode(&text, false)?, ids(&chat["ids"]), "{text}");
    }
    Ok(())
}

#[test]
fn texts_encode_and_decode_as_in_transformers() -> Outcome {
    let tokenizer = model().tokenizer();
    let texts = golden("texts.json");
    for case in texts.as_array().ok_or("not a list")? {
        let text = case["text"].as_str().ok_or("no text")?;
        let encoded = tokenizer.encode(text, false)?;
        assert_eq!(encoded, ids(&case["ids"]), "{text:?}");
        assert_eq!(tokenizer.decode(&encoded, false)?, text);
    }
    Ok(())
}

#[test]
fn logits_are_those_of_the_dequantised_weights() -> Outcome {
    let tolerance: f32 = serde_json::from_value(golden("note.json")["tolerance"].clone())?;
    let golden = arrays(fixture("smollm2/golden.safetensors"));
    let model = model().model();
    let vocab = usize::try_from(model.vocab_size())?;
    for prompt in 0..3 {
        let get = |name: &str| &golden[&format!("{name}_{prompt}")];
        let mut cache = model.make_cache(&CacheOptions::default());
        let logits = values(&model.forward(&row(&tokens(get("prompt"))), &mut cache)?);
        let (positions, top) = (tokens(get("positions")), tokens(get("top_ids")));
        let expected = values(get("top_values"));
        let kept = top.len() / positions.len();
        for (i, position) in positions.iter().enumerate() {
            let start = usize::try_from(*position)? * vocab;
            let part = i * kept..(i + 1) * kept;
            let found: Vec<f32> = top[part.clone()]
                .iter()
                .map(|id| logits[start + *id as usize])
                .collect();
            let gap = relative_difference(&found, &expected[part]);
            assert!(
                gap <= tolerance,
                "prompt {prompt}, position {position}: {gap:.2e}"
            );
        }
        if prompt == 0 {
            let gap =
                relative_difference(&logits[logits.len() - vocab..], &values(&golden["row_0"]));
            assert!(gap <= tolerance, "the last row differs by {gap:.2e}");
        }
    }
    Ok(())
}

#[test]
fn the_capital_of_france_is_answered_with_the_same_tokens() -> Outcome {
    let answer = golden("answer.json");
    let question = answer["question"].as_str().ok_or("no question")?;
    let prompt = model()
        .tokenizer()
        .apply_chat_template(&[Message::user(question)], &RenderOptions::default())?;
    assert_eq!(
        model().tokenizer().encode(&prompt, false)?,
        ids(&answer["prompt"])
    );
    let expected = ids(&answer["tokens"]);
    let before_end = usize::try_from(answer["before_end"].as_u64().ok_or("no end")?)?;
    let options = GenerateOptions::default()
        .max_tokens(expected.len())
        .temperature(Some(0.0));
    let (mut generated, mut written) = (Vec::new(), String::new());
    for segment in model().chat(&[Message::user(question)], &options)? {
        let segment = segment?;
        generated.push(segment.token);
        written.push_str(&segment.text);
    }
    assert_eq!(
        generated,
        expected[..=before_end],
        "the answer and the token that ends it"
    );
    assert_eq!(written, answer["text"].as_str().unwrap_or_default());

    // Past the end of the answer only the bare token loop goes on.
    let prompt = ids(&answer["prompt"]);
    let sampling = Default::default();
    let all = mlx_lm::generate::Tokens::new(model().model(), &prompt, &sampling, &options)?;
    assert_eq!(all.collect::<Result<Vec<u32>, _>>()?, expected);
    Ok(())
}

#[test]
fn a_file_cut_short_is_refused() -> Outcome {
    let whole = fs::read(file())?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.gguf");
    for length in [64, 4096, 1 << 20, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length])?;
        assert!(
            load(&path).is_err(),
            "{length} of {} bytes loaded",
            whole.len()
        );
    }
    Ok(())
}
