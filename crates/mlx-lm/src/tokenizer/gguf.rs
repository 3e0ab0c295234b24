//! Tokenizers from the metadata of a GGUF file.

mod byte_level;
mod pre;
mod sentencepiece;

pub(super) use pre::PreTokenizer;

use std::collections::BTreeMap;

use tokenizers::{AddedToken, Tokenizer as Backend};

use super::error::{Result, TextError};
use super::special::SpecialTokens;

/// Names of tokens that end an answer in published chat models. Files name one EOS only, while
/// models write several.
const END_TOKENS: [&str; 12] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "[EOT]",
    "<end_of_utterance>",
];

/// What a GGUF file's metadata says about its tokenizer: the keys `tokenizer.*`, by their last part.
///
/// The struct is plain so that any reader can fill it. Absent keys are `None` or empty.
#[derive(Debug, Clone, Default)]
pub struct GgufVocab {
    /// `general.architecture`; a few families need their own normalisation.
    pub architecture: String,
    /// `tokenizer.ggml.model`: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE), …
    pub model: String,
    /// `tokenizer.ggml.pre`: how byte-level vocabularies split text first.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`, in id order.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.scores`, as long as `tokens`, or empty.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.token_type`, as long as `tokens`, or empty.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`, each two tokens with a space between.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id` and `eom_token_id`: further ends of an answer.
    pub more_eos: Vec<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// `tokenizer.chat_template.<name>`: further templates by name.
    pub named_chat_templates: BTreeMap<String, String>,
}

impl GgufVocab {
    pub(super) fn chat_templates(&self) -> BTreeMap<String, String> {
        let mut templates = self.named_chat_templates.clone();
        if let Some(source) = &self.chat_template {
            templates.insert("default".to_owned(), source.clone());
        }
        templates
    }

    fn kind(&self, index: usize) -> TokenType {
        match self.token_types.get(index) {
            Some(2) => TokenType::Unknown,
            Some(3) => TokenType::Control,
            Some(4) => TokenType::UserDefined,
            Some(5) => TokenType::Unused,
            Some(6) => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }

    /// Every token with its id and type.
    fn entries(&self) -> impl Iterator<Item = (u32, &str, TokenType)> {
        (0_u32..)
            .zip(self.tokens.iter().enumerate())
            .map(|(id, (index, token))| (id, token.as_str(), self.kind(index)))
    }

    fn validate(&self) -> Result<()> {
        if self.tokens.is_empty() {
            return Err(TextError::format(
                "tokenizer.ggml.tokens",
                "the vocabulary is missing or empty",
            ));
        }
        if u32::try_from(self.tokens.len()).is_err() {
            return Err(TextError::format(
                "tokenizer.ggml.tokens",
                "more tokens than ids",
            ));
        }
        for (key, length) in [
            ("scores", self.scores.len()),
            ("token_type", self.token_types.len()),
        ] {
            if length != 0 && length != self.tokens.len() {
                return Err(TextError::format(
                    format!("tokenizer.ggml.{key}"),
                    format!("{length} entries for {} tokens", self.tokens.len()),
                ));
            }
        }
        Ok(())
    }

    fn token(&self, key: &str, id: Option<u32>) -> Result<Option<String>> {
        let Some(id) = id else { return Ok(None) };
        let token = usize::try_from(id)
            .ok()
            .and_then(|index| self.tokens.get(index));
        token.cloned().map(Some).ok_or_else(|| {
            TextError::format(
                format!("tokenizer.ggml.{key}"),
                format!("token {id} of {}", self.tokens.len()),
            )
        })
    }

    fn special_tokens(&self) -> Result<SpecialTokens> {
        Ok(SpecialTokens {
            bos: self.token("bos_token_id", self.bos)?,
            eos: self.token("eos_token_id", self.eos)?,
            unk: self.token("unknown_token_id", self.unk)?,
            pad: self.token("padding_token_id", self.pad)?,
            ..SpecialTokens::default()
        })
    }

    fn end_ids(&self) -> Vec<u32> {
        let by_name = self
            .entries()
            .filter(|(_, token, kind)| *kind == TokenType::Control && END_TOKENS.contains(token))
            .map(|(id, _, _)| id);
        self.more_eos.iter().copied().chain(by_name).collect()
    }

    /// Tokens of one type, to be matched whole before anything else looks at the text.
    fn added_tokens(&self, wanted: TokenType) -> impl Iterator<Item = AddedToken> {
        self.entries()
            .filter(move |(_, token, kind)| *kind == wanted && !token.is_empty())
            .map(move |(_, token, _)| {
                AddedToken::from(token, wanted == TokenType::Control).normalized(false)
            })
    }

    /// Merges as pairs, without those that name a token that does not exist.
    fn merge_pairs(&self, exists: impl Fn(&str) -> bool) -> Result<Vec<(String, String)>> {
        let mut merges = Vec::with_capacity(self.merges.len());
        for merge in &self.merges {
            // The first part may itself be a space.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let split = merge
                .get(first..)
                .and_then(|rest| rest.find(' '))
                .map(|at| at + first);
            let pair = split.and_then(|at| Some((merge.get(..at)?, merge.get(at + 1..)?)));
            let Some((left, right)) = pair.filter(|(_, right)| !right.is_empty()) else {
                return Err(TextError::format(
                    "tokenizer.ggml.merges",
                    format!("`{merge}` is not a pair"),
                ));
            };
            if exists(left) && exists(right) && exists(&format!("{left}{right}")) {
                merges.push((left.to_owned(), right.to_owned()));
            } else {
                tracing::warn!(merge, "skipped a merge of tokens that the vocabulary lacks");
            }
        }
        Ok(merges)
    }
}

/// `token_type` of a vocabulary entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// What [`build`] hands over.
pub(super) struct Parts {
    pub(super) backend: Backend,
    pub(super) special: SpecialTokens,
    pub(super) add_bos: bool,
    pub(super) add_eos: bool,
    pub(super) end_ids: Vec<u32>,
}

pub(super) fn build(vocab: &GgufVocab) -> Result<Parts> {
    vocab.validate()?;
    let special = vocab.special_tokens()?;
    let (mut backend, add_bos) = match vocab.model.as_str() {
        "gpt2" => byte_level::build(vocab)?,
        "llama" | "gemma4" => sentencepiece::build(vocab, special.unk.as_deref())?,
        name => {
            return Err(TextError::Unsupported {
                what: "tokenizer.ggml.model",
                name: name.to_owned(),
            });
        }
    };
    // A token that the vocabulary spells otherwise is found there, and must not get a new id here.
    let exists = |token: &AddedToken| backend.token_to_id(&token.content).is_some();
    let control: Vec<_> = vocab
        .added_tokens(TokenType::Control)
        .filter(exists)
        .collect();
    let user_defined: Vec<_> = vocab
        .added_tokens(TokenType::UserDefined)
        .filter(exists)
        .collect();
    let fail = |error: tokenizers::Error| TextError::format("tokenizer.ggml.tokens", error);
    backend.add_special_tokens(control).map_err(fail)?;
    backend.add_tokens(user_defined).map_err(fail)?;
    Ok(Parts {
        backend,
        special,
        add_bos: vocab.add_bos.unwrap_or(add_bos),
        add_eos: vocab.add_eos.unwrap_or(false),
        end_ids: vocab.end_ids(),
    })
}
