//! SentencePiece's `tokenizer.model`, for folders without a `tokenizer.json`.
//!
//! The file is a protocol buffer of the message `ModelProto`; only what encoding needs is read.

use std::path::Path;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::precompiled::Precompiled;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Prepend, Replace, Sequence as Normalizers};
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer as Backend};

use super::error::{Result, TextError};
use super::special::SpecialTokens;

/// The character that stands for a space.
const SPACE: &str = "\u{2581}";

/// What the file holds.
#[derive(Debug)]
pub(super) struct SentencePiece {
    pub(super) backend: Backend,
    pub(super) special: SpecialTokens,
}

pub(super) fn read(path: &Path) -> Result<SentencePiece> {
    let bytes = std::fs::read(path).map_err(|source| TextError::Io {
        path: path.to_owned(),
        source,
    })?;
    let what = path.display().to_string();
    let model = Model::parse(&bytes)
        .ok_or_else(|| TextError::format(what.as_str(), "not a SentencePiece model, or cut off"))?;
    model
        .build()
        .map_err(|message| TextError::format(what, message))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

#[derive(Debug)]
struct Piece {
    text: String,
    score: f32,
    kind: Kind,
}

/// `ModelProto`, with the defaults of its definition.
#[derive(Debug)]
struct Model {
    pieces: Vec<Piece>,
    /// 1 unigram, 2 BPE, 3 words, 4 characters.
    model_type: u64,
    byte_fallback: bool,
    unk_id: i64,
    bos_id: i64,
    eos_id: i64,
    pad_id: i64,
    charsmap: Vec<u8>,
    add_dummy_prefix: bool,
    remove_extra_whitespaces: bool,
    escape_whitespaces: bool,
    treat_whitespace_as_suffix: bool,
}

impl Model {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut model = Self {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            pad_id: -1,
            charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            treat_whitespace_as_suffix: false,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(Piece::parse(piece)?),
                (2, Value::Bytes(spec)) => model.trainer(spec)?,
                (3, Value::Bytes(spec)) => model.normalizer(spec)?,
                _ => {}
            }
        }
        (!model.pieces.is_empty()).then_some(model)
    }

    fn trainer(&mut self, spec: &[u8]) -> Option<()> {
        for field in Fields(spec) {
            match field? {
                (3, Value::Number(number)) => self.model_type = number,
                (24, Value::Number(flag)) => self.treat_whitespace_as_suffix = flag != 0,
                (35, Value::Number(flag)) => self.byte_fallback = flag != 0,
                (40, Value::Number(id)) => self.unk_id = signed(id),
                (41, Value::Number(id)) => self.bos_id = signed(id),
                (42, Value::Number(id)) => self.eos_id = signed(id),
                (43, Value::Number(id)) => self.pad_id = signed(id),
                _ => {}
            }
        }
        Some(())
    }

    fn normalizer(&mut self, spec: &[u8]) -> Option<()> {
        for field in Fields(spec) {
            match field? {
                (2, Value::Bytes(map)) => self.charsmap = map.to_vec(),
                (3, Value::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Value::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Value::Number(flag)) => self.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Some(())
    }

    fn build(&self) -> Result<SentencePiece, String> {
        if self.treat_whitespace_as_suffix || !self.escape_whitespaces {
            return Err("its treatment of spaces is not supported".to_owned());
        }
        let mut backend = Backend::new(match self.model_type {
            1 => self.unigram()?,
            2 => self.bpe()?,
            _ => return Err("models of words and of characters are not supported".to_owned()),
        });
        let text = |error: tokenizers::Error| error.to_string();
        let steps = self.normalizers()?;
        backend
            .with_normalizer(Some(Normalizers::new(steps)))
            .map_err(text)?;
        let to_space: DecoderWrapper = Replace::new(SPACE, " ").map_err(text)?.into();
        let mut decoders = vec![to_space, ByteFallback::new().into(), Fuse::new().into()];
        // Text that cannot have begun with a space is given back without any.
        let leading = match (self.remove_extra_whitespaces, self.add_dummy_prefix) {
            (true, _) => 1 << 16,
            (false, added) => usize::from(added),
        };
        if leading > 0 {
            decoders.push(Strip::new(' ', leading, 0).into());
        }
        backend.with_decoder(Some(Decoders::new(decoders)));
        let tokens = |kind: Kind, special: bool| {
            let pieces = self.pieces.iter().filter(move |piece| piece.kind == kind);
            pieces.map(move |piece| {
                AddedToken::from(piece.text.as_str(), special).normalized(!special)
            })
        };
        backend
            .add_special_tokens(tokens(Kind::Control, true))
            .map_err(text)?;
        backend
            .add_tokens(tokens(Kind::UserDefined, false))
            .map_err(text)?;
        let name = |id: i64| {
            let piece = self.pieces.get(usize::try_from(id).ok()?)?;
            Some(piece.text.clone())
        };
        Ok(SentencePiece {
            backend,
            special: SpecialTokens {
                bos: name(self.bos_id),
                eos: name(self.eos_id),
                unk: name(self.unk_id),
                pad: name(self.pad_id),
                ..SpecialTokens::default()
            },
        })
    }

    fn normalizers(&self) -> Result<Vec<NormalizerWrapper>, String> {
        let text = |error: tokenizers::Error| error.to_string();
        let mut steps: Vec<NormalizerWrapper> = Vec::new();
        if !self.charsmap.is_empty() {
            let map = Precompiled::from(&self.charsmap);
            let map = map.map_err(|_| "its table of characters is damaged".to_owned())?;
            steps.push(map.into());
        }
        let replace = |pattern: &str, by: &str| {
            let pattern = ReplacePattern::Regex(pattern.to_owned());
            Replace::new(pattern, by).map_err(text)
        };
        if self.remove_extra_whitespaces {
            // Only spaces count: other blanks are what they are.
            steps.push(replace(r"\A +", "")?.into());
            steps.push(replace(" {2,}", " ")?.into());
        }
        steps.push(replace(" ", SPACE)?.into());
        if self.add_dummy_prefix {
            steps.push(Prepend::new(SPACE.to_owned()).into());
        }
        if self.remove_extra_whitespaces {
            // At the end, the stand-in of a space is taken for one.
            steps.push(replace(r"▁+\z", "")?.into());
        }
        Ok(steps)
    }

    fn unknown(&self) -> Option<usize> {
        usize::try_from(self.unk_id)
            .ok()
            .filter(|&id| id < self.pieces.len())
    }

    fn unigram(&self) -> Result<ModelWrapper, String> {
        let vocab = self.pieces.iter().map(|piece| {
            let score = match piece.kind {
                // What may not be produced from text loses to everything else.
                Kind::Control | Kind::Unused | Kind::Byte => -1e9,
                _ => f64::from(piece.score),
            };
            (piece.text.clone(), score)
        });
        Unigram::from(vocab.collect(), self.unknown(), self.byte_fallback)
            .map(ModelWrapper::from)
            .map_err(|error| error.to_string())
    }

    fn bpe(&self) -> Result<ModelWrapper, String> {
        let ids: Vocab = self
            .pieces
            .iter()
            .map(|piece| piece.text.clone())
            .zip(0_u32..)
            .collect();
        let mut builder = BPE::builder()
            .fuse_unk(true)
            .byte_fallback(self.byte_fallback)
            .vocab_and_merges(ids, self.merges());
        if let Some(unknown) = self.unknown().and_then(|id| self.pieces.get(id)) {
            builder = builder.unk_token(unknown.text.clone());
        }
        builder
            .build()
            .map(ModelWrapper::from)
            .map_err(|error| error.to_string())
    }

    /// Every pair of pieces whose concatenation is a piece, the best score of the result first.
    fn merges(&self) -> Merges {
        let usable = |piece: &Piece| matches!(piece.kind, Kind::Normal | Kind::UserDefined);
        let known: std::collections::HashMap<&str, f32> = self
            .pieces
            .iter()
            .filter(|piece| usable(piece))
            .map(|piece| (piece.text.as_str(), piece.score))
            .collect();
        let mut found: Vec<(f32, usize, (&str, &str))> = Vec::new();
        for (id, piece) in self.pieces.iter().enumerate() {
            if piece.kind != Kind::Normal {
                continue;
            }
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if known.contains_key(left) && known.contains_key(right) {
                    found.push((piece.score, id, (left, right)));
                }
            }
        }
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found
            .into_iter()
            .map(|(_, _, (left, right))| (left.to_owned(), right.to_owned()))
            .collect()
    }
}

impl Piece {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut piece = Self {
            text: String::new(),
            score: 0.0,
            kind: Kind::Normal,
        };
        for field in Fields(bytes) {
            match field? {
                (1, Value::Bytes(text)) => piece.text = std::str::from_utf8(text).ok()?.to_owned(),
                (2, Value::Float(score)) => piece.score = score,
                (3, Value::Number(kind)) => {
                    piece.kind = match kind {
                        1 => Kind::Normal,
                        2 => Kind::Unknown,
                        3 => Kind::Control,
                        4 => Kind::UserDefined,
                        5 => Kind::Unused,
                        6 => Kind::Byte,
                        _ => return None,
                    }
                }
                _ => {}
            }
        }
        Some(piece)
    }
}

/// Negative numbers are written in two's complement.
fn signed(number: u64) -> i64 {
    i64::from_le_bytes(number.to_le_bytes())
}

enum Value<'a> {
    Number(u64),
    Float(f32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message; `None` where it is malformed, which ends it.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7F).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Other
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Float(f32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}
