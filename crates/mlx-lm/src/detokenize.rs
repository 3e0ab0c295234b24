//! Tokens to text while they arrive.

mod plan;
mod stage;

use std::fmt;

use tokenizers::Tokenizer as Backend;

pub(crate) use plan::DecodePlan;
pub(crate) use stage::byte_spelling;

use crate::tokenizer::Result;
use stage::Stage;

/// Decodes tokens one by one, in time linear in their number.
///
/// The segments that [`push`](Self::push) and [`finish`](Self::finish) return, put together, are
/// exactly what [`Tokenizer::decode`](crate::tokenizer::Tokenizer::decode) makes of all tokens at
/// once. A segment never ends inside a character: bytes wait until they are one, or until it is
/// certain that they are none and U+FFFD stands for them.
#[must_use]
pub struct Detokenizer<'a> {
    backend: &'a Backend,
    plan: &'a DecodePlan,
    stages: Vec<Stage<'a>>,
    skip_special: bool,
    /// Special tokens that are shown all the same.
    shown: Vec<u32>,
}

impl<'a> Detokenizer<'a> {
    pub(crate) fn new(backend: &'a Backend, plan: &'a DecodePlan, skip_special: bool) -> Self {
        Self {
            backend,
            plan,
            stages: plan.start(),
            skip_special,
            shown: Vec::new(),
        }
    }

    /// Shows these special tokens as text, whatever happens to the others.
    pub(crate) fn show(mut self, tokens: Vec<u32>) -> Self {
        self.shown = tokens;
        self
    }

    /// Takes the next token and returns the text that is now certain, often none.
    ///
    /// # Errors
    /// [`TextError::Tokenize`](crate::tokenizer::TextError::Tokenize) if the decoder fails.
    pub fn push(&mut self, token: u32) -> Result<String> {
        let mut text = String::new();
        if self.skip_special && self.plan.is_special(token) && !self.shown.contains(&token) {
            return Ok(text);
        }
        if let Some(piece) = self.backend.id_to_token(token) {
            stage::feed(&mut self.stages, piece, &mut text)?;
        }
        Ok(text)
    }

    /// Ends the text: returns what was held back, and starts afresh.
    ///
    /// # Errors
    /// [`TextError::Tokenize`](crate::tokenizer::TextError::Tokenize) if the decoder fails.
    pub fn finish(&mut self) -> Result<String> {
        let mut text = String::new();
        let mut stages = std::mem::replace(&mut self.stages, self.plan.start());
        stage::flush(&mut stages, &mut text)?;
        Ok(text)
    }
}

impl fmt::Debug for Detokenizer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Detokenizer")
            .field("stages", &self.stages)
            .field("skip_special", &self.skip_special)
            .finish_non_exhaustive()
    }
}
