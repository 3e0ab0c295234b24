//! The bytes behind each token of a vocabulary.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{ApproximateTokEnv, INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie};
use serde_json::Value;

use crate::detokenize::byte_spelling;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// How a vocabulary spells bytes.
enum Spelling {
    /// A printable character for each byte.
    ByteLevel(HashMap<char, u8>),
    /// `▁` for a space and `<0xAB>` for a byte.
    Fallback,
}

/// What llguidance has to know of a tokenizer.
pub(super) fn environment(tokenizer: &Tokenizer) -> Result<TokEnv> {
    let decoder = tokenizer.decoder_json();
    let spelling = if mentions(&decoder, "ByteLevel") {
        let pairs = byte_spelling().into_iter().zip(0..=u8::MAX);
        Spelling::ByteLevel(pairs.collect())
    } else if mentions(&decoder, "ByteFallback") || mentions(&decoder, "Metaspace") {
        Spelling::Fallback
    } else {
        return Err(Error::Grammar {
            message: "this tokenizer's tokens do not stand for bytes".to_owned(),
        });
    };
    let mut words: Vec<Vec<u8>> = Vec::new();
    for (token, id) in tokenizer.vocab() {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        // No vocabulary is that large; a file that says so is damaged.
        if index >= 1 << 24 {
            let message = format!("token id {id} is out of range");
            return Err(Error::Grammar { message });
        }
        if index >= words.len() {
            words.resize(index + 1, Vec::new());
        }
        if let Some(word) = words.get_mut(index) {
            *word = match tokenizer.is_special(id) {
                true => marked(token.as_bytes()),
                false => bytes_of(&token, &spelling),
            };
        }
    }
    let eos = tokenizer.eos_ids();
    let size = u32::try_from(words.len()).unwrap_or(u32::MAX);
    let info = TokRxInfo::new(size, eos.first().copied().unwrap_or(INVALID_TOKEN));
    let mut trie = TokTrie::from(&info, &words);
    if eos.len() > 1 {
        trie = trie.with_eos_tokens(eos);
    }
    Ok(Arc::new(ApproximateTokEnv::new(trie)))
}

/// Special tokens are told apart from text that is spelt alike.
fn marked(word: &[u8]) -> Vec<u8> {
    let marker = [TokTrie::SPECIAL_TOKEN_MARKER];
    marker.iter().chain(word).copied().collect()
}

fn bytes_of(token: &str, spelling: &Spelling) -> Vec<u8> {
    match spelling {
        // Added tokens are spelt as they are.
        Spelling::ByteLevel(bytes) => {
            let spelt: Option<Vec<u8>> = token.chars().map(|c| bytes.get(&c).copied()).collect();
            spelt.unwrap_or_else(|| token.as_bytes().to_vec())
        }
        Spelling::Fallback => match byte_token(token) {
            Some(byte) => vec![byte],
            None => token.replace('▁', " ").into_bytes(),
        },
    }
}

fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

/// Whether a decoder of this type stands somewhere in the description.
fn mentions(decoder: &Value, kind: &str) -> bool {
    match decoder {
        Value::Object(fields) => {
            fields.get("type").and_then(Value::as_str) == Some(kind)
                || fields.values().any(|value| mentions(value, kind))
        }
        Value::Array(items) => items.iter().any(|item| mentions(item, kind)),
        _ => false,
    }
}
