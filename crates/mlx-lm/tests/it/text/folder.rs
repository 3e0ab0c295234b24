//! Tokenizers of Hugging Face folders and GGUF metadata, good and bad.

use std::fs;

use mlx_lm::chat::{Message, RenderOptions};
use mlx_lm::tokenizer::{GgufVocab, TextError, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tokenizer of three letters with a configuration of choice.
fn folder(config: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "<s>": 3, "</s>": 4, "ab": 5}, "merges": ["a b"]},
    });
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(
        folder.path().join("tokenizer_config.json"),
        config.to_string(),
    )
    .unwrap();
    folder
}

#[test]
fn flags_decide_about_bos_and_eos() {
    let tokens = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    for (bos, eos, expected) in [
        (true, false, vec![3, 0]),
        (true, true, vec![3, 0, 4]),
        (false, false, vec![0]),
    ] {
        let mut config = tokens.clone();
        config["add_bos_token"] = bos.into();
        config["add_eos_token"] = eos.into();
        let tokenizer = Tokenizer::from_folder(folder(&config).path()).unwrap();
        assert_eq!(tokenizer.encode("a", true).unwrap(), expected);
        assert_eq!(tokenizer.encode("a", false).unwrap(), [0]);
        assert_eq!(
            (tokenizer.adds_bos(), tokenizer.eos_ids()),
            (bos, [4].as_slice())
        );
    }
}

#[test]
fn prompts_are_not_truncated() {
    let tokenizer = Tokenizer::from_folder(folder(&json!({})).path()).unwrap();
    assert_eq!(tokenizer.encode("cabc", true).unwrap(), [2, 5, 2]);
}

#[test]
fn special_tokens_of_the_configuration_are_matched_whole() {
    let config = json!({
        "eos_token": "</s>", "additional_special_tokens": ["<x>"],
        "added_tokens_decoder": {"6": {"content": "<y>", "special": false}},
    });
    let tokenizer = Tokenizer::from_folder(folder(&config).path()).unwrap();
    let tokens = tokenizer.encode("<y>a</s><x>", false).unwrap();
    assert_eq!(tokens, [6, 0, 4, 7]);
    assert_eq!(tokenizer.decode(&tokens, true).unwrap(), "<y>a");
    assert_eq!(tokenizer.decode(&tokens, false).unwrap(), "<y>a</s><x>");
    assert!(tokenizer.is_special(7) && !tokenizer.is_special(6));
}

#[test]
fn several_templates_are_chosen_by_name_and_by_tools() {
    let named =
        |name: &str| json!({"name": name, "template": format!("{name}{{{{ eos_token }}}}")});
    let config = json!({"eos_token": "</s>", "chat_template": [named("default"), named("tool_use"), named("rag")]});
    let folder = folder(&config);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let render =
        |options: RenderOptions| tokenizer.apply_chat_template(&[Message::user("x")], &options);
    assert_eq!(render(RenderOptions::default()).unwrap(), "default</s>");
    assert_eq!(
        render(RenderOptions::default().tools([json!({})])).unwrap(),
        "tool_use</s>"
    );
    assert_eq!(
        render(RenderOptions::default().template("rag")).unwrap(),
        "rag</s>"
    );
    let error = render(RenderOptions::default().template("x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no chat template `x`; the model has default, rag, tool_use"
    );
}

#[test]
fn a_model_without_template_says_so() {
    let tokenizer = Tokenizer::from_folder(folder(&json!({})).path()).unwrap();
    let error = tokenizer
        .apply_chat_template(&[Message::user("x")], &RenderOptions::default())
        .unwrap_err();
    assert_eq!(error.to_string(), "the model has no chat template");
}

#[test]
fn bad_folders_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(empty.path()).unwrap_err();
    assert!(
        matches!(&error, TextError::MissingTokenizer { folder } if folder == empty.path()),
        "{error}"
    );
    for text in [
        "",
        "{",
        "[]",
        "\u{feff}{}",
        "{\"model\": 1}",
        // The merged token is longer than any in the vocabulary.
        r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}"#,
    ] {
        fs::write(empty.path().join("tokenizer.json"), text).unwrap();
        let error = Tokenizer::from_folder(empty.path()).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
    }
}

#[test]
fn lying_gguf_metadata_is_refused() {
    let good = GgufVocab {
        model: "gpt2".to_owned(),
        tokens: ["a", "b", "ab"].map(str::to_owned).to_vec(),
        merges: vec!["a b".to_owned()],
        ..GgufVocab::default()
    };
    assert_eq!(
        Tokenizer::from_gguf(&good)
            .unwrap()
            .encode("ab", true)
            .unwrap(),
        [2]
    );
    let bad = [
        (
            GgufVocab {
                tokens: Vec::new(),
                ..good.clone()
            },
            "tokenizer.ggml.tokens: the vocabulary is missing or empty",
        ),
        (
            GgufVocab {
                scores: vec![0.0],
                ..good.clone()
            },
            "tokenizer.ggml.scores: 1 entries for 3 tokens",
        ),
        (
            GgufVocab {
                token_types: vec![1; 9],
                ..good.clone()
            },
            "tokenizer.ggml.token_type: 9 entries for 3 tokens",
        ),
        (
            GgufVocab {
                bos: Some(3),
                ..good.clone()
            },
            "tokenizer.ggml.bos_token_id: token 3 of 3",
        ),
        (
            GgufVocab {
                merges: vec!["ab".to_owned()],
                ..good.clone()
            },
            "tokenizer.ggml.merges: `ab` is not a pair",
        ),
        (
            GgufVocab {
                model: "rwkv".to_owned(),
                ..good.clone()
            },
            "unsupported tokenizer.ggml.model `rwkv`",
        ),
        (
            GgufVocab {
                pre: Some("new".to_owned()),
                ..good.clone()
            },
            "unsupported tokenizer.ggml.pre `new`",
        ),
    ];
    for (vocab, message) in bad {
        assert_eq!(
            Tokenizer::from_gguf(&vocab).unwrap_err().to_string(),
            message
        );
    }
    // A merge of tokens that do not exist cannot happen, so the others still serve.
    let odd = GgufVocab {
        merges: vec!["b a".to_owned(), "a b".to_owned()],
        ..good
    };
    assert_eq!(
        Tokenizer::from_gguf(&odd)
            .unwrap()
            .encode("ab", true)
            .unwrap(),
        [2]
    );
}
