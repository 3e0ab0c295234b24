//! SentencePiece BPE with byte fallback, `tokenizer.ggml.model = llama`.
//!
//! Such a file holds scores instead of merges. A merge exists wherever a token is the concatenation
//! of two others, and the better the score of the result, the earlier it is applied.

use std::cmp::Reverse;
use std::collections::HashMap;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{NormalizerWrapper, Tokenizer as Backend};

use super::{GgufVocab, TokenType};
use crate::tokenizer::error::{Result, TextError};

/// The character that stands for a space.
const SPACE: &str = "\u{2581}";

/// The tokenizer, and whether it adds BOS when the file does not say.
pub(super) fn build(vocab: &GgufVocab, unk: Option<&str>) -> Result<(Backend, bool)> {
    let style = Style::of(vocab);
    let tokens: Vec<String> = vocab
        .entries()
        .map(|(_, token, kind)| style.spell(token, kind))
        .collect();
    let ids: Vocab = tokens.iter().cloned().zip(0_u32..).collect();
    let merges = if vocab.merges.is_empty() {
        derive_merges(vocab, &tokens, style)
    } else {
        vocab.merge_pairs(|token| ids.contains_key(token))?
    };
    let mut model = BPE::builder().fuse_unk(true).byte_fallback(true);
    if let Some(unk) = unk {
        model = model.unk_token(unk.to_owned());
    }
    let model = model
        .vocab_and_merges(ids, merges)
        .build()
        .map_err(|error| TextError::format("tokenizer.ggml.tokens", error))?;
    let mut backend = Backend::new(model);
    let prefix = vocab.add_space_prefix.unwrap_or(style != Style::Gemma);
    style
        .configure(&mut backend, prefix)
        .map_err(|error| TextError::format("tokenizer.ggml.model", error))?;
    // Gemma 4's template writes BOS itself, as its reference tokenizer expects.
    Ok((backend, vocab.model != "gemma4"))
}

/// Families that treat spaces in their own way, which no metadata key tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// A space is put before the text, unless it begins with one.
    Llama,
    /// A space is put before each stretch of text between special tokens, whatever it begins with.
    Phi3,
    /// No space is added, and runs of spaces are tokens of their own.
    Gemma,
}

impl Style {
    fn of(vocab: &GgufVocab) -> Self {
        if vocab.model == "gemma4" || vocab.architecture.starts_with("gemma") {
            Self::Gemma
        } else if vocab.architecture == "phi3" {
            Self::Phi3
        } else {
            Self::Llama
        }
    }

    /// Gemma files write runs of spaces as spaces, while normalised text has the stand-in.
    fn spell(self, token: &str, kind: TokenType) -> String {
        let blank =
            kind == TokenType::UserDefined && !token.is_empty() && token.chars().all(|c| c == ' ');
        if blank && self == Self::Gemma {
            SPACE.repeat(token.len())
        } else {
            token.to_owned()
        }
    }

    fn configure(self, backend: &mut Backend, prefix: bool) -> tokenizers::Result<()> {
        let to_space: DecoderWrapper = Replace::new(SPACE, " ")?.into();
        let mut decoders = vec![to_space, ByteFallback::new().into(), Fuse::new().into()];
        let from_space = || Replace::new(" ", SPACE);
        match self {
            Self::Gemma => {
                backend.with_normalizer(Some(from_space()?))?;
                let pattern = SplitPattern::String(" ".to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::MergedWithPrevious, false)?;
                backend.with_pre_tokenizer(Some(split));
            }
            Self::Phi3 if prefix => {
                let steps: Vec<NormalizerWrapper> =
                    vec![Prepend::new(SPACE.to_owned()).into(), from_space()?.into()];
                backend.with_normalizer(Some(Normalizers::new(steps)))?;
            }
            Self::Phi3 | Self::Llama => {
                let scheme = if prefix {
                    PrependScheme::First
                } else {
                    PrependScheme::Never
                };
                backend.with_pre_tokenizer(Some(Metaspace::new('\u{2581}', scheme, false)));
            }
        }
        if prefix && self != Self::Gemma {
            decoders.push(Strip::new(' ', 1, 0).into());
        }
        backend.with_decoder(Some(Decoders::new(decoders)));
        Ok(())
    }
}

/// Every pair of tokens whose concatenation is a token, best first.
fn derive_merges(vocab: &GgufVocab, tokens: &[String], style: Style) -> Merges {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let mut found: Vec<Merge<'_>> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        if matches!(
            vocab.kind(id),
            TokenType::Control | TokenType::Unknown | TokenType::Byte
        ) {
            continue;
        }
        // Gemma files do not keep the scores of the original: there, runs of blanks, which are
        // user-defined, come first, and then the vocabulary in its order.
        let (score, order) = match style {
            Style::Gemma if vocab.kind(id) == TokenType::UserDefined => (0.0, 0),
            Style::Gemma => (0.0, id),
            _ => (vocab.scores.get(id).copied().unwrap_or(0.0), 0),
        };
        let begin = found.len();
        let length = token.chars().count();
        for (chars, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left_id), Some(&right_id)) = (ids.get(left), ids.get(right)) {
                found.push(Merge {
                    score,
                    order,
                    lengths: (chars, length - chars),
                    ids: (left_id, right_id),
                    pair: (left, right),
                });
            }
        }
        if let Some(new) = found.get_mut(begin..) {
            new.sort_by_key(|merge| merge.ids);
        }
    }
    // The sort is stable: equals stay in the order of the vocabulary.
    found.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then(a.order.cmp(&b.order))
            .then(Reverse(a.lengths).cmp(&Reverse(b.lengths)))
    });
    found
        .into_iter()
        .map(|merge| (merge.pair.0.to_owned(), merge.pair.1.to_owned()))
        .collect()
}

struct Merge<'a> {
    score: f32,
    order: usize,
    lengths: (usize, usize),
    ids: (usize, usize),
    pair: (&'a str, &'a str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab(tokens: &[&str]) -> GgufVocab {
        let bytes = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>"));
        let tokens: Vec<String> = ["<unk>", "<s>"]
            .into_iter()
            .map(str::to_owned)
            .chain(bytes)
            .chain(tokens.iter().map(|&token| token.to_owned()))
            .collect();
        let mut token_types = vec![1; tokens.len()];
        token_types[..2].copy_from_slice(&[2, 3]);
        token_types[2..258].fill(6);
        GgufVocab {
            model: "llama".to_owned(),
            scores: (0_u16..)
                .take(tokens.len())
                .map(|id| -f32::from(id))
                .collect(),
            token_types,
            tokens,
            bos: Some(1),
            unk: Some(0),
            ..GgufVocab::default()
        }
    }

    #[test]
    fn better_scores_merge_first() {
        // `bc` scores better than `ab`, so "abc" is a + bc.
        let vocab = vocab(&["▁", "a", "b", "c", "bc", "ab", "▁a"]);
        let tokenizer = crate::tokenizer::Tokenizer::from_gguf(&vocab).unwrap();
        let ids = tokenizer.encode("abc", true).unwrap();
        let tokens: Vec<_> = ids
            .iter()
            .map(|&id| tokenizer.id_to_token(id).unwrap())
            .collect();
        assert_eq!(tokens, ["<s>", "▁a", "bc"]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "abc");
    }

    #[test]
    fn characters_outside_the_vocabulary_become_bytes() {
        let vocab = vocab(&["▁", "a"]);
        let tokenizer = crate::tokenizer::Tokenizer::from_gguf(&vocab).unwrap();
        let ids = tokenizer.encode("é", false).unwrap();
        let tokens: Vec<_> = ids
            .iter()
            .map(|&id| tokenizer.id_to_token(id).unwrap())
            .collect();
        assert_eq!(tokens, ["▁", "<0xC3>", "<0xA9>"]);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "é");
    }

    #[test]
    fn the_prefix_space_can_be_switched_off() {
        let mut vocab = vocab(&["▁", "a"]);
        vocab.add_space_prefix = Some(false);
        let tokenizer = crate::tokenizer::Tokenizer::from_gguf(&vocab).unwrap();
        let ids = tokenizer.encode(" a", false).unwrap();
        assert_eq!(ids.len(), 2);
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), " a");
    }
}
