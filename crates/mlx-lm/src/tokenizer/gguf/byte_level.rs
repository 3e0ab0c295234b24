//! Byte-level BPE, `tokenizer.ggml.model = gpt2`.

use std::collections::HashSet;

use tokenizers::Tokenizer as Backend;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;

use super::pre::PreTokenizer;
use super::{GgufVocab, TokenType};
use crate::detokenize::byte_spelling;
use crate::tokenizer::error::{Result, TextError};

/// The tokenizer, and whether it adds BOS when the file does not say.
pub(super) fn build(vocab: &GgufVocab) -> Result<(Backend, bool)> {
    let pre = PreTokenizer::find(vocab.pre.as_deref())?;
    let spelling = byte_spelling();
    let alphabet: HashSet<char> = spelling.iter().copied().collect();
    let ids: Vocab = vocab
        .entries()
        .map(|(id, token, kind)| {
            let verbatim = matches!(
                kind,
                TokenType::Control | TokenType::UserDefined | TokenType::Unused
            ) || token.chars().all(|character| alphabet.contains(&character));
            let token = if verbatim {
                token.to_owned()
            } else {
                spell(token, &spelling)
            };
            (token, id)
        })
        .collect();
    let merges = vocab.merge_pairs(|token| ids.contains_key(token))?;
    let model = BPE::builder()
        .vocab_and_merges(ids, merges)
        .ignore_merges(pre.ignore_merges)
        .build()
        .map_err(|error| TextError::format("tokenizer.ggml.merges", error))?;
    let mut backend = Backend::new(model);
    if pre.nfc {
        backend
            .with_normalizer(Some(NFC))
            .map_err(|error| TextError::format("tokenizer.ggml.pre", error))?;
    }
    backend.with_pre_tokenizer(Some(pre.build()?));
    backend.with_decoder(Some(ByteLevel::default()));
    Ok((backend, pre.add_bos))
}

fn spell(token: &str, spelling: &[char]) -> String {
    token
        .bytes()
        .filter_map(|byte| spelling.get(usize::from(byte)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spelt_as_gpt2_does() {
        let spelling = byte_spelling();
        assert_eq!(spell(" a\n", &spelling), "ĠaĊ");
        assert_eq!(spell("é", &spelling), "Ã©");
        assert_eq!(spelling.iter().collect::<HashSet<_>>().len(), 256);
    }
}
