//! Files of tiktoken: each line a token in base64 and its rank.
//!
//! The file does not say how text is split before merging; that depends on the family, which the
//! file's name and the folder's `tokenizer_config.json` tell.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer as Backend;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::unicode::NFC;

use super::error::{Result, TextError};
use super::gguf::PreTokenizer;
use crate::detokenize::byte_spelling;

/// What the first Qwen models add to their file, in order.
pub(super) const QWEN_SPECIAL: &[(&str, &str)] = &[
    ("eos", "<|endoftext|>"),
    ("", "<|im_start|>"),
    ("", "<|im_end|>"),
];

/// The file of a folder, and the name of how its family splits text.
pub(super) fn find(folder: &Path) -> Option<(PathBuf, &'static str)> {
    let known = [
        ("qwen.tiktoken", "qwen2"),
        ("tiktoken.model", "kimi-k2"),
        ("o200k_base.tiktoken", "gpt-4o"),
        ("cl100k_base.tiktoken", "llama-bpe"),
        ("llama3.tiktoken", "llama-bpe"),
    ];
    known
        .into_iter()
        .map(|(name, pre)| (folder.join(name), pre))
        .find(|(path, _)| path.is_file())
}

pub(super) fn read(path: &Path, pre: &str) -> Result<Backend> {
    let text = std::fs::read_to_string(path).map_err(|source| TextError::Io {
        path: path.to_owned(),
        source,
    })?;
    let what = path.display().to_string();
    let bad = |message: String| TextError::format(what.as_str(), message);
    let ranks = parse(&text).map_err(bad)?;
    let spelling = byte_spelling();
    let spell = |bytes: &[u8]| -> String {
        bytes
            .iter()
            .filter_map(|&byte| spelling.get(usize::from(byte)))
            .collect()
    };
    let vocab: Vocab = ranks
        .iter()
        .map(|(bytes, &rank)| (spell(bytes), rank))
        .collect();
    let mut order: Vec<(&Vec<u8>, u32)> = ranks
        .iter()
        .filter(|(bytes, _)| bytes.len() > 1)
        .map(|(bytes, &rank)| (bytes, rank))
        .collect();
    order.sort_by_key(|&(_, rank)| rank);
    let merges: Merges = order
        .into_iter()
        .filter_map(|(bytes, rank)| {
            let (left, right) = last_merge(bytes, rank, &ranks)?;
            Some((spell(left), spell(right)))
        })
        .collect();
    let pre = PreTokenizer::find(Some(pre))?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        // Tiktoken takes a piece that is a token as it is.
        .ignore_merges(true)
        .build()
        .map_err(|error| bad(error.to_string()))?;
    let mut backend = Backend::new(model);
    if pre.nfc {
        backend
            .with_normalizer(Some(NFC))
            .map_err(|error| bad(error.to_string()))?;
    }
    backend.with_pre_tokenizer(Some(pre.build()?));
    backend.with_decoder(Some(ByteLevel::default()));
    Ok(backend)
}

fn parse(text: &str) -> Result<HashMap<Vec<u8>, u32>, String> {
    let mut ranks = HashMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() {
            continue;
        }
        let entry = text
            .split_once(' ')
            .and_then(|(token, rank)| Some((decode(token)?, rank.trim().parse::<u32>().ok()?)));
        let (token, rank) =
            entry.ok_or_else(|| format!("line {line} is not a token and a rank"))?;
        if token.is_empty() || ranks.insert(token, rank).is_some() {
            return Err(format!("line {line} repeats a token, or has none"));
        }
    }
    for byte in 0..=u8::MAX {
        if !ranks.contains_key(&vec![byte]) {
            return Err(format!("the byte {byte} is no token"));
        }
    }
    Ok(ranks)
}

/// The two parts that a token is made of: what merging its bytes gives when only earlier tokens
/// exist. `None` if those do not lead to it.
fn last_merge<'t>(
    token: &'t [u8],
    rank: u32,
    ranks: &HashMap<Vec<u8>, u32>,
) -> Option<(&'t [u8], &'t [u8])> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    while ends.len() > 3 {
        let merged = |at: usize| {
            let part = token.get(*ends.get(at)?..*ends.get(at + 2)?)?;
            let found = *ranks.get(part)?;
            (found < rank).then_some((found, at))
        };
        let (_, at) = (0..ends.len() - 2).filter_map(merged).min()?;
        ends.remove(at + 1);
    }
    token.split_at_checked(*ends.get(1)?)
}

/// Base64 with its usual alphabet.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xFF).ok()?);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(decode("IHRoZQ=="), Some(b" the".to_vec()));
        assert_eq!(decode("/+8="), Some(vec![0xFF, 0xEF]));
        assert_eq!(decode("a b"), None);
    }

    #[test]
    fn bad_files_are_explained() {
        for (text, part) in [
            ("IQ==", "line 1"),
            ("IQ== x", "line 1"),
            ("IQ== 0\nIQ== 1", "line 2"),
            ("IQ== 0", "byte 0"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
