//! Encoding and decoding equal transformers'.

use mlx_lm::tokenizer::Tokenizer;
use serde_json::Value;

use super::{corpus, golden, ids, prose, sentencepiece, smollm2};

fn check(tokenizer: &Tokenizer, golden: &Value) {
    let corpus = corpus();
    let expected = golden["ids"].as_array().unwrap();
    assert!(corpus.len() >= 500 && corpus.len() == expected.len());
    let frame = golden.get("frame").map(ids).unwrap_or_default();
    for (text, expected) in corpus.iter().zip(expected) {
        let expected = ids(expected);
        assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
        // Where the text begins with BOS already, transformers writes it twice and we do not.
        let begun = !frame.is_empty() && expected.starts_with(&frame);
        let framed = if begun {
            expected
        } else {
            [frame.as_slice(), &expected].concat()
        };
        assert_eq!(
            tokenizer.encode(text, true).unwrap(),
            framed,
            "{text:?} with special tokens"
        );
    }
    for case in golden["decode"].as_array().unwrap() {
        let tokens = ids(&case[0]);
        assert_eq!(
            tokenizer.decode(&tokens, true).unwrap(),
            case[1].as_str().unwrap(),
            "{tokens:?}"
        );
        assert_eq!(
            tokenizer.decode(&tokens, false).unwrap(),
            case[2].as_str().unwrap(),
            "{tokens:?}"
        );
    }
}

#[test]
fn prose_tokenizer_equals_transformers() {
    check(&prose(), &golden("prose-5m.json"));
}

#[test]
fn sentencepiece_from_gguf_equals_transformers() {
    let golden = golden("sentencepiece.json");
    let tokenizer = sentencepiece(&golden);
    assert!(tokenizer.adds_bos());
    assert_eq!(tokenizer.eos_ids(), [2]);
    check(&tokenizer, &golden);
}

#[test]
fn smollm2_from_gguf_equals_transformers() {
    let golden = golden("smollm2.json");
    let tokenizer = smollm2();
    check(&tokenizer, &golden);
    let end = |token: &str| tokenizer.token_to_id(token).unwrap();
    assert_eq!(
        tokenizer.eos_ids(),
        [end("<|im_end|>"), end("<|endoftext|>")]
    );
    assert!(!tokenizer.adds_bos());
}

#[test]
fn bos_is_not_doubled() {
    let golden = golden("sentencepiece.json");
    let tokenizer = sentencepiece(&golden);
    let bos = tokenizer.bos_id().unwrap();
    let count = |text: &str| {
        tokenizer
            .encode(text, true)
            .unwrap()
            .iter()
            .filter(|&&id| id == bos)
            .count()
    };
    assert_eq!(
        [
            count(""),
            count("a"),
            count("<s>a"),
            count("<s><s>a"),
            count("a<s>")
        ],
        [1, 1, 1, 2, 2]
    );
}

#[test]
fn long_prompts_encode() {
    let text = "All that is gold does not glitter. ".repeat(30_000);
    let tokens = prose().encode(&text, true).unwrap();
    assert_eq!(prose().decode(&tokens, true).unwrap(), text);
}
