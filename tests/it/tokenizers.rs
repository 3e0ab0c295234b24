//! Tokenizers and chat templates of published models, against digests of what transformers makes
//! of the same strings. The tokenizers are fetched into the cache on first use.

use std::collections::BTreeMap;
use std::io::{Write as _, stderr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use mlx_lm::chat::{ChatTemplate, Message, RenderOptions};
use mlx_lm::tokenizer::{TextError, Tokenizer};
use mlx_sys::vendor;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::support::{fixture, json};

const VERSION: &str = "3.7.2";

/// The generator of tests/parity/text_published.py.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn shared() -> &'static Value {
    static SHARED: OnceLock<Value> = OnceLock::new();
    SHARED.get_or_init(|| json(fixture("text/real/pieces.json")))
}

fn texts() -> Vec<String> {
    let pieces: Vec<String> = serde_json::from_value(shared()["pieces"].clone()).unwrap();
    let mut chance = Chance(20);
    let mut text = || {
        let mut text = String::new();
        for _ in 0..1 + chance.below(24) {
            match chance.below(10) {
                0..7 => text += &pieces[chance.below(pieces.len())],
                7..9 => text.push(char::from(u8::try_from(32 + chance.below(95)).unwrap())),
                _ => {
                    let code = u32::try_from(chance.below(0x2FFFF)).unwrap();
                    text.push(char::from_u32(code).unwrap_or('?'));
                }
            }
        }
        text
    };
    (0..2000).map(|_| text()).collect()
}

fn digest(lines: &[String]) -> String {
    let digest = Sha256::digest(lines.join("\0").as_bytes());
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Compares block by block, and shows the inputs of the first that differs.
fn compare(what: &str, found: &[String], golden: &Value) {
    let golden: Vec<String> = serde_json::from_value(golden.clone()).unwrap();
    assert_eq!(golden.len(), found.len().div_ceil(50), "{what}");
    for (n, (block, expected)) in found.chunks(50).zip(&golden).enumerate() {
        assert_eq!(digest(block), *expected, "{what}: block {n}: {block:?}");
    }
}

/// The folder of a published tokenizer, fetched if it is not in the cache; `None` where that
/// cannot be done, because the packages come through `npm`, which not every machine has. The
/// tokenizers of the repository are compared everywhere.
fn folder(name: &str) -> Option<PathBuf> {
    let folder = vendor::cache_dir()
        .unwrap()
        .join("tokenizers")
        .join(format!("{name}-{VERSION}"));
    if !folder.join("tokenizer_config.json").is_file() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let fetched = Command::new(cargo)
            .args(["xtask", "tokenizers", name])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        if !fetched.is_ok_and(|status| status.success()) {
            left_out(name);
            return None;
        }
    }
    Some(folder)
}

/// Says that a tokenizer could not be compared, which nobody should take for a success; where
/// everything has to be there, it is a failure.
fn left_out(name: &str) {
    let message = format!(
        "the published tokenizer `{name}` was NOT compared: \
         `cargo xtask tokenizers {name}` could not fetch it, which takes `npm` and a network"
    );
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{message}");
    // Not by a macro, whose output tests that succeed keep to themselves.
    let _unheard = writeln!(stderr(), "{message}");
}

fn joined(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

/// Streamed one token at a time.
fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip: bool) -> String {
    let mut stream = match skip {
        true => tokenizer.detokenizer(),
        false => tokenizer.detokenizer_with_special(),
    };
    let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text += &stream.finish().unwrap();
    text
}

fn check(name: &str) {
    let Some(folder) = folder(name) else {
        return;
    };
    let golden = json(fixture("text/real").join(format!("{name}.json")));
    let tokenizer = Tokenizer::from_folder(folder).unwrap();
    assert_eq!(Value::from(tokenizer.vocab_size()), golden["size"]);
    let texts = texts();
    let (mut plain, mut framed, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for text in &texts {
        let ids = tokenizer.encode(text, false).unwrap();
        let whole = tokenizer.decode(&ids, false).unwrap();
        assert_eq!(streamed(&tokenizer, &ids, false), whole, "{name}: {text:?}");
        plain.push(joined(&ids));
        back.push(whole);
        let mut ids = tokenizer.encode(text, true).unwrap();
        // We never double a BOS that the text brings along; transformers does.
        let bos = tokenizer.bos_id();
        if tokenizer.adds_bos() && tokenizer.encode(text, false).unwrap().first().copied() == bos {
            ids.insert(0, bos.unwrap());
        }
        framed.push(joined(&ids));
    }
    compare(&format!("{name}: ids"), &plain, &golden["ids"]);
    compare(&format!("{name}: framed"), &framed, &golden["framed"]);
    compare(&format!("{name}: back"), &back, &golden["back"]);
    let mut chance = Chance(21);
    let mut decoded = Vec::new();
    for _ in 0..300 {
        let length = 1 + chance.below(30);
        let ids: Vec<u32> = (0..length)
            .map(|_| u32::try_from(chance.below(tokenizer.vocab_size())).unwrap())
            .collect();
        for skip in [false, true] {
            let whole = tokenizer.decode(&ids, skip).unwrap();
            assert_eq!(streamed(&tokenizer, &ids, skip), whole, "{name}: {ids:?}");
            decoded.push(whole);
        }
    }
    compare(&format!("{name}: decoded"), &decoded, &golden["decoded"]);
    rendered(name, &tokenizer, &golden["rendered"]);
}

fn rendered(name: &str, tokenizer: &Tokenizer, golden: &Value) {
    let chats = shared()["conversations"].as_array().unwrap();
    let golden = golden.as_array().unwrap();
    assert_eq!(chats.len(), golden.len());
    let given = shared()["templates"][name].as_str();
    for (n, (chat, expected)) in chats.iter().zip(golden).enumerate() {
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let options: Map<String, Value> = serde_json::from_value(chat["options"].clone()).unwrap();
        // Noon of the day that the goldens were made for, wherever the test runs.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_348_800);
        let mut render = RenderOptions::default().now(now);
        if let Some(tools) = chat.get("tools").and_then(Value::as_array) {
            render = render.tools(tools.clone());
        }
        for (key, value) in options {
            render = match key.as_str() {
                "add_generation_prompt" => render.add_generation_prompt(value == true),
                _ => render.variable(key, value),
            };
        }
        let result = match given.filter(|_| tokenizer.chat_templates().is_empty()) {
            Some(source) => ChatTemplate::new(source)
                .unwrap()
                .with_special_tokens(tokenizer.special_tokens())
                .render(&messages, &render),
            None => tokenizer.apply_chat_template(&messages, &render),
        };
        let found = match &result {
            Ok(prompt) => digest(std::slice::from_ref(prompt)),
            Err(TextError::Refused { .. } | TextError::Template { .. }) => "refused".to_owned(),
            Err(error) => panic!("{name}: conversation {n}: {error}"),
        };
        assert_eq!(expected, &found, "{name}: conversation {n}: {result:?}");
    }
}

#[test]
fn qwen3() {
    check("qwen3");
}

#[test]
fn llama3() {
    check("llama3_1");
}

#[test]
fn gemma3() {
    check("gemma3");
}

#[test]
fn gpt_oss() {
    check("gptoss");
}

#[test]
fn mistral_nemo() {
    check("mistral_nemo");
}

#[test]
fn deepseek_v3() {
    check("deepseek_v3");
}

#[test]
fn hostile_strings_are_hostile() {
    let texts = texts();
    assert_eq!(texts.len(), 2000);
    let kinds: BTreeMap<&str, usize> = ["\0", "<|im_end|>", "\u{200d}", "\r\n", "漢"]
        .into_iter()
        .map(|part| {
            (
                part,
                texts.iter().filter(|text| text.contains(part)).count(),
            )
        })
        .collect();
    assert!(
        kinds["\0"] > 50 && kinds["<|im_end|>"] > 50 && kinds["\u{200d}"] > 50,
        "{kinds:?}"
    );
}

/// The ranks of a published vocabulary as a file of tiktoken give the same tokens as its
/// `tokenizer.json`.
#[test]
fn a_tiktoken_file_of_a_published_vocabulary() {
    let Some(folder) = folder("llama3_1") else {
        return;
    };
    let published = Tokenizer::from_folder(&folder).unwrap();
    let file = json(folder.join("tokenizer.json"));
    let byte_of = byte_of();
    let mut lines: Vec<(u64, String)> = Vec::new();
    for (token, id) in file["model"]["vocab"].as_object().unwrap() {
        let bytes: Vec<u8> = token.chars().map(|c| byte_of[&c]).collect();
        lines.push((id.as_u64().unwrap(), base64(&bytes)));
    }
    lines.sort();
    let text: String = lines
        .iter()
        .map(|(rank, token)| format!("{token} {rank}\n"))
        .collect();
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("llama3.tiktoken"), text).unwrap();
    std::fs::copy(
        folder.join("tokenizer_config.json"),
        scratch.path().join("tokenizer_config.json"),
    )
    .unwrap();
    let tokenizer = Tokenizer::from_folder(scratch.path()).unwrap();
    assert_eq!(tokenizer.vocab_size(), published.vocab_size());
    for text in texts() {
        let expected = published.encode(&text, false).unwrap();
        assert_eq!(
            tokenizer.encode(&text, false).unwrap(),
            expected,
            "{text:?}"
        );
        assert_eq!(
            tokenizer.decode(&expected, false).unwrap(),
            published.decode(&expected, false).unwrap()
        );
    }
}

/// The characters by which byte-level vocabularies spell bytes.
fn byte_of() -> BTreeMap<char, u8> {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256_u32;
    (0..=255_u8)
        .map(|byte| match plain(byte) {
            true => (char::from(byte), byte),
            false => {
                next += 1;
                (char::from_u32(next - 1).unwrap(), byte)
            }
        })
        .collect()
}

fn base64(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for block in bytes.chunks(3) {
        let mut bits = [0; 3];
        bits[..block.len()].copy_from_slice(block);
        let bits = u32::from_be_bytes([0, bits[0], bits[1], bits[2]]);
        for place in 0..4 {
            if place > block.len() {
                text.push('=');
            } else {
                let index = (bits >> (18 - 6 * place)) & 63;
                text.push(char::from(alphabet[usize::try_from(index).unwrap()]));
            }
        }
    }
    text
}
