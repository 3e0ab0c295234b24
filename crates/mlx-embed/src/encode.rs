//! Texts to vectors.

mod load;
mod options;

use std::cmp::Reverse;
use std::path::Path;

use mlx_core::ops::indexing::{slice, take};
use mlx_core::ops::shape::concatenate;
use mlx_core::{Array, async_eval, eval};

use crate::dense::Dense;
use crate::similarity::unit_length;
use crate::tokenize::{TokenBatch, Tokenizer, Tokens};
use crate::{Error, Pooling, Registry, Result, Similarity, TextEncoder};

use load::Prompts;
pub use options::EncodeOptions;

/// The prompt that [`Embedder::encode_query`] prefers.
const QUERY_PROMPT: &str = "query";
/// The prompts that [`Embedder::encode_document`] prefers, first come first served.
const DOCUMENT_PROMPTS: [&str; 3] = ["document", "passage", "corpus"];

/// A model that turns texts into vectors: tokenizer, encoder, pooling and what follows.
///
/// ```no_run
/// use mlx_embed::{Embedder, EncodeOptions};
///
/// let model = Embedder::load("models/all-minilm-l6-v2")?;
/// let vectors = model.encode(&["A man eats.", "Someone dines."], EncodeOptions::default())?;
/// assert_eq!(vectors.shape(), [2, model.dimension()]);
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct Embedder {
    encoder: Box<dyn TextEncoder>,
    tokenizer: Tokenizer,
    pooling: Pooling,
    steps: Vec<Step>,
    /// Whether the folder ends in a Normalize module, which is left out of `steps`.
    unit_length: bool,
    prompts: Prompts,
    similarity: Similarity,
    dimension: i32,
}

/// What `modules.json` puts after pooling.
#[derive(Debug)]
enum Step {
    Dense(Box<Dense>),
    Normalize,
}

impl Embedder {
    /// Loads a sentence-transformers folder, a Hugging Face BERT folder, whose
    /// tokens are averaged, or a model `org/name` in the local Hugging Face cache.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], or [`Error::Load`] with the cause.
    pub fn load(model: impl AsRef<Path>) -> Result<Self> {
        Self::load_with(model, &Registry::new())
    }

    /// As [`load`](Self::load), choosing among the architectures of `registry`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_with(model: impl AsRef<Path>, registry: &Registry) -> Result<Self> {
        load::load(model.as_ref(), registry)
    }

    /// Encodes texts: float32 `[N, D]`, evaluated, in the order of the texts.
    ///
    /// Longer texts are cut off at [`max_seq_length`](Self::max_seq_length) tokens. Texts of
    /// similar length share a batch, so that the vectors do not depend on the
    /// order, and on the company only within rounding.
    ///
    /// # Errors
    /// [`Error::UnknownPrompt`] or [`Error::Option`] if an option does not fit the model,
    /// [`Error::Tokenizer`] if a text is refused, [`Error::Cancelled`] if the flag was raised.
    pub fn encode<S: AsRef<str>>(&self, texts: &[S], options: EncodeOptions) -> Result<Array> {
        let EncodeOptions {
            batch_size,
            prompt,
            prompt_name,
            truncate_dim,
            normalize,
            cancel,
        } = options;
        let prompt = match prompt {
            Some(prompt) => prompt,
            None => self.prompts.text(prompt_name.as_deref())?.to_owned(),
        };
        let dimension = self.output_dimension(truncate_dim)?;
        if batch_size == 0 {
            return Err(Error::Option {
                option: "batch_size",
                message: "must be 1 or more".to_owned(),
            });
        }
        let skip = match self.pooling.includes_prompt() {
            true => 0,
            false => self.tokenizer.prompt_length(&prompt)?,
        };

        let tokens = self.tokenizer.encode(&prompt, texts)?;
        let mut sorted: Vec<(usize, Tokens)> = tokens.into_iter().enumerate().collect();
        // The longest first: what does not fit into memory fails at once.
        sorted.sort_by_key(|(_, tokens)| Reverse(tokens.ids.len()));

        let mut parts: Vec<Array> = Vec::new();
        for batch in sorted.chunks(batch_size) {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let rows: Vec<&Tokens> = batch.iter().map(|(_, tokens)| tokens).collect();
            let vectors = self.vectors(&rows, skip, dimension, normalize)?;
            // The device works on this batch while the next one is prepared.
            async_eval(&[&vectors])?;
            if let Some(previous) = parts.last() {
                eval(&[previous])?;
            }
            parts.push(vectors);
        }
        if parts.is_empty() {
            return Ok(Array::zeros::<f32>(&[0, dimension])?);
        }
        let mut places: Vec<(usize, u32)> = sorted.iter().map(|(text, _)| *text).zip(0..).collect();
        places.sort_unstable();
        let places: Vec<u32> = places.into_iter().map(|(_, place)| place).collect();
        let vectors = concatenate(&parts.iter().collect::<Vec<_>>(), 0)?;
        let vectors = take(&vectors, &Array::try_from(places)?, 0)?;
        vectors.eval()?;
        Ok(vectors)
    }

    /// [`encode`](Self::encode) for questions: with the prompt `query` if the model has one and
    /// no other is chosen.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_query<S: AsRef<str>>(
        &self,
        texts: &[S],
        options: EncodeOptions,
    ) -> Result<Array> {
        self.encode(texts, self.preferring(&[QUERY_PROMPT], options))
    }

    /// [`encode`](Self::encode) for what questions are answered from: with the prompt `document`,
    /// `passage` or `corpus` if the model has one and no other is chosen.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_document<S: AsRef<str>>(
        &self,
        texts: &[S],
        options: EncodeOptions,
    ) -> Result<Array> {
        self.encode(texts, self.preferring(&DOCUMENT_PROMPTS, options))
    }

    fn preferring(&self, names: &[&str], mut options: EncodeOptions) -> EncodeOptions {
        if options.prompt.is_none() && options.prompt_name.is_none() {
            let found = names.iter().find(|name| self.prompts.contains(name));
            options.prompt_name = found.map(|&name| name.to_owned());
        }
        options
    }

    fn vectors(
        &self,
        rows: &[&Tokens],
        skip: usize,
        dimension: i32,
        normalize: Option<bool>,
    ) -> Result<Array> {
        let (batch, pooled) = TokenBatch::for_pooling(rows, self.tokenizer.pad_id(), skip)?;
        let hidden = self.encoder.forward(&batch)?; // [B, L, hidden]
        let mut x = self.pooling.forward(&hidden, &pooled)?; // [B, D]
        for step in &self.steps {
            x = match step {
                Step::Dense(dense) => dense.forward(&x)?,
                Step::Normalize => unit_length(&x)?,
            };
        }
        if dimension != self.dimension {
            x = slice(&x, &[0, 0], &[x.dim(0)?, dimension])?;
        }
        match normalize.unwrap_or(self.unit_length) {
            true => unit_length(&x),
            false => Ok(x),
        }
    }

    fn output_dimension(&self, truncate_dim: Option<i32>) -> Result<i32> {
        let all = self.dimension;
        match truncate_dim {
            None => Ok(all),
            Some(dim) if (1..=all).contains(&dim) => Ok(dim),
            Some(dim) => Err(Error::Option {
                option: "truncate_dim",
                message: format!("{dim} is not within 1 to {all}, the model's dimension"),
            }),
        }
    }

    /// The token ids of one text, special tokens included, as the encoder sees them without a
    /// prompt.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] if the text is refused.
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>> {
        let tokens = self.tokenizer.encode("", &[text])?;
        Ok(tokens.into_iter().flat_map(|tokens| tokens.ids).collect())
    }

    /// The length `D` of a vector.
    #[must_use]
    pub fn dimension(&self) -> i32 {
        self.dimension
    }

    /// How many tokens of a text count, special ones included.
    #[must_use]
    pub fn max_seq_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// Names and texts of the model's prompts, sorted by name.
    pub fn prompts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.prompts.iter()
    }

    /// The name of the prompt that applies if none is chosen.
    #[must_use]
    pub fn default_prompt_name(&self) -> Option<&str> {
        self.prompts.default_name()
    }

    /// The score that the model was trained for.
    #[must_use]
    pub fn similarity(&self) -> Similarity {
        self.similarity
    }

    /// How token vectors become one.
    pub fn pooling(&self) -> &Pooling {
        &self.pooling
    }

    /// The encoder itself.
    #[must_use]
    pub fn encoder(&self) -> &dyn TextEncoder {
        self.encoder.as_ref()
    }
}
