//! Texts to token ids, and rows of them to padded batches.

use mlx_core::ops::indexing::r#where;
use mlx_core::ops::shape::expand_dims;
use mlx_core::{Array, Dtype};
use mlx_nn::Mask;
use tokenizers::{
    PostProcessor, Tokenizer as Backend, TruncationDirection, TruncationParams, TruncationStrategy,
};

use crate::error::READ_TOKENIZER;
use crate::folder::Folder;
use crate::{Error, Result};

/// Texts tokenised at a time: enough to use all cores, few enough that what
/// the tokenizer notes about each token stays small.
const TEXTS_AT_ONCE: usize = 1024;

/// The token ids of one text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    pub(crate) type_ids: Vec<u32>,
}

/// `tokenizer.json`, cutting texts off at the model's length.
#[derive(Debug)]
pub(crate) struct Tokenizer {
    backend: Backend,
    max_length: usize,
    lower_case: bool,
    pad_id: u32,
}

impl Tokenizer {
    /// Reads the tokenizer of a folder. Each text becomes at most `max_length`
    /// tokens, special ones included.
    pub(crate) fn new(folder: &Folder, max_length: usize, lower_case: bool) -> Result<Self> {
        const FILE: &str = "tokenizer.json";
        let bytes = folder.bytes(FILE)?.ok_or_else(|| folder.missing(FILE))?;
        let mut backend = Backend::from_bytes(bytes).map_err(unreadable)?;
        let added = backend
            .get_post_processor()
            .map_or(0, |processor| processor.added_tokens(false));
        if max_length <= added {
            let message =
                format!("max_seq_length {max_length} leaves no room beside {added} special tokens");
            return Err(Error::config(folder.name(FILE), message));
        }
        // The file's own settings come from training and are often shorter.
        let direction = backend
            .get_truncation()
            .map_or(TruncationDirection::Right, |own| own.direction);
        let truncation = TruncationParams {
            direction,
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        let pad_id = backend
            .get_padding()
            .map(|padding| padding.pad_id)
            .or_else(|| backend.token_to_id("[PAD]"))
            .unwrap_or(0);
        backend
            .with_truncation(Some(truncation))
            .map_err(unreadable)?
            .with_padding(None);
        Ok(Self {
            backend,
            max_length,
            lower_case,
            pad_id,
        })
    }

    pub(crate) fn max_length(&self) -> usize {
        self.max_length
    }

    pub(crate) fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Tokenises texts, each preceded by `prompt`.
    pub(crate) fn encode<S: AsRef<str>>(&self, prompt: &str, texts: &[S]) -> Result<Vec<Tokens>> {
        let mut all = Vec::with_capacity(texts.len());
        for texts in texts.chunks(TEXTS_AT_ONCE) {
            let inputs: Vec<String> = texts
                .iter()
                .map(|text| self.input(prompt, text.as_ref()))
                .collect();
            let encodings = self.backend.encode_batch_fast(inputs, true);
            for encoding in encodings.map_err(refused)? {
                all.push(Tokens {
                    ids: encoding.get_ids().to_vec(),
                    type_ids: encoding.get_type_ids().to_vec(),
                });
            }
        }
        Ok(all)
    }

    /// How many tokens at the start of a text are its prompt's.
    pub(crate) fn prompt_length(&self, prompt: &str) -> Result<usize> {
        if prompt.is_empty() {
            return Ok(0);
        }
        let encoding = self.backend.encode_fast(self.input(prompt, ""), true);
        let encoding = encoding.map_err(refused)?;
        // The token that closes a text does not follow the prompt when a text does.
        let closed = encoding.get_special_tokens_mask().last() == Some(&1);
        Ok(encoding.len().saturating_sub(usize::from(closed)))
    }

    fn input(&self, prompt: &str, text: &str) -> String {
        let text = format!("{prompt}{text}");
        if self.lower_case {
            text.to_lowercase()
        } else {
            text
        }
    }
}

fn unreadable(source: tokenizers::Error) -> Error {
    Error::Tokenizer {
        action: READ_TOKENIZER,
        source,
    }
}

fn refused(source: tokenizers::Error) -> Error {
    Error::Tokenizer {
        action: "tokenise a text",
        source,
    }
}

/// Rows of token ids, padded on the right to one length.
///
/// ```
/// use mlx_embed::TokenBatch;
///
/// let batch = TokenBatch::new(&[&[101, 7592, 102], &[101, 102]], 0)?;
/// assert_eq!(batch.input_ids().to_vec::<u32>()?, [101, 7592, 102, 101, 102, 0]);
/// assert_eq!(batch.attention_mask().to_vec::<bool>()?, [true, true, true, true, true, false]);
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TokenBatch {
    input_ids: Array,
    token_type_ids: Array,
    attention_mask: Array,
    width: i32,
    padded: bool,
}

impl TokenBatch {
    /// A batch of single segments: all token types are 0.
    ///
    /// # Errors
    /// [`Error::Core`] if the batch is too large.
    pub fn new(rows: &[&[u32]], pad_id: u32) -> Result<Self> {
        let rows: Vec<Tokens> = rows
            .iter()
            .map(|ids| Tokens {
                ids: ids.to_vec(),
                type_ids: vec![0; ids.len()],
            })
            .collect();
        Self::from_tokens(&rows.iter().collect::<Vec<_>>(), pad_id, 0)
    }

    /// The batch of these rows; pooling is to ignore the first `skip` tokens of each, which the
    /// second value, a mask `[B, L]`, says.
    pub(crate) fn for_pooling(rows: &[&Tokens], pad_id: u32, skip: usize) -> Result<(Self, Array)> {
        let batch = Self::from_tokens(rows, pad_id, 0)?;
        let pooled = match skip {
            0 => batch.attention_mask.clone(),
            _ => Self::from_tokens(rows, pad_id, skip)?.attention_mask,
        };
        Ok((batch, pooled))
    }

    fn from_tokens(rows: &[&Tokens], pad_id: u32, skip: usize) -> Result<Self> {
        // A text may have no token at all where the tokenizer adds none.
        let width = rows
            .iter()
            .map(|row| row.ids.len())
            .max()
            .unwrap_or(0)
            .max(1);
        let shape = [rows.len(), width];
        let padded = |values: &mut dyn Iterator<Item = (&[u32], u32)>| -> Result<Array> {
            let mut data = Vec::with_capacity(rows.len().saturating_mul(width));
            for (row, fill) in values {
                data.extend_from_slice(row);
                data.extend(std::iter::repeat_n(fill, width.saturating_sub(row.len())));
            }
            Ok(Array::from_vec(data, &shape[..])?)
        };
        let mut mask = Vec::with_capacity(rows.len().saturating_mul(width));
        for row in rows {
            mask.extend((0..width).map(|position| (skip..row.ids.len()).contains(&position)));
        }
        Ok(Self {
            input_ids: padded(&mut rows.iter().map(|row| (row.ids.as_slice(), pad_id)))?,
            token_type_ids: padded(&mut rows.iter().map(|row| (row.type_ids.as_slice(), 0)))?,
            padded: mask.contains(&false),
            attention_mask: Array::from_vec(mask, &shape[..])?,
            width: i32::try_from(width).unwrap_or(i32::MAX),
        })
    }

    /// The ids, uint32 `[B, L]`.
    pub fn input_ids(&self) -> &Array {
        &self.input_ids
    }

    /// Which segment each token belongs to, uint32 `[B, L]`.
    pub fn token_type_ids(&self) -> &Array {
        &self.token_type_ids
    }

    /// Which tokens are no padding, bool `[B, L]`.
    pub fn attention_mask(&self) -> &Array {
        &self.attention_mask
    }

    /// The length `L` of all rows.
    #[must_use]
    pub fn width(&self) -> i32 {
        self.width
    }

    /// The mask for attention: what to add to scores of this dtype, `[B, 1, 1, L]`, or nothing
    /// where there is no padding.
    ///
    /// Padding is pushed far down but not to −∞, so that a row without tokens
    /// stays finite.
    ///
    /// # Errors
    /// [`Error::Core`] if the dtype is not floating point.
    pub fn attention_bias(&self, dtype: Dtype) -> Result<Mask> {
        if !self.padded {
            return Ok(Mask::None);
        }
        let low = if dtype == Dtype::Float16 { -3e4 } else { -1e9 };
        let (low, zero) = (
            Array::scalar_dtype(low, dtype)?,
            Array::scalar_dtype(0.0, dtype)?,
        );
        let bias = r#where(&self.attention_mask, &zero, &low)?;
        Ok(Mask::Array(expand_dims(&bias, &[1, 2])?))
    }
}
