//! Answers that must match a grammar: a JSON schema, a regular expression, or
//! a context-free grammar in Lark's notation.
//!
//! At each token the grammar says which of the vocabulary may follow, and all
//! others are excluded before anything is drawn. The work is done by
//! [llguidance](https://github.com/guidance-ai/llguidance).

mod vocabulary;

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use mlx_core::Array;
use mlx_core::ops::indexing::r#where;
use serde_json::{Value, json};

use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// What an answer must look like.
///
/// ```
/// use mlx_lm::grammar::Grammar;
/// use serde_json::json;
///
/// let person = Grammar::json_schema(json!({
///     "type": "object",
///     "properties": { "name": { "type": "string" }, "age": { "type": "integer" } },
///     "required": ["name", "age"],
/// }));
/// let choice = Grammar::regex("yes|no");
/// # let _ = (person, choice);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Grammar(Source);

#[derive(Debug, Clone, PartialEq)]
enum Source {
    Schema(Value),
    Regex(String),
    Lark(String),
}

impl Grammar {
    /// JSON that is valid by this schema.
    pub const fn json_schema(schema: Value) -> Self {
        Self(Source::Schema(schema))
    }

    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::json_schema(json!({ "type": "object" }))
    }

    /// Text that the whole of a regular expression matches.
    pub fn regex(expression: impl Into<String>) -> Self {
        Self(Source::Regex(expression.into()))
    }

    /// Text that a grammar in Lark's notation derives from its `start`.
    pub fn lark(grammar: impl Into<String>) -> Self {
        Self(Source::Lark(grammar.into()))
    }
}

/// Compiles grammars for one tokenizer.
///
/// Making it looks at the whole vocabulary; keep it for all requests.
#[derive(Clone)]
pub struct GrammarCompiler {
    factory: Arc<ParserFactory>,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    /// Prepares the tokenizer's vocabulary.
    ///
    /// # Errors
    /// [`Error::Grammar`] if its tokens do not stand for bytes.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let environment = vocabulary::environment(tokenizer)?;
        let mut factory =
            ParserFactory::new_simple(&environment).map_err(|error| refused(&error))?;
        factory.quiet();
        Ok(Self {
            factory: Arc::new(factory),
        })
    }

    /// Compiles a grammar.
    ///
    /// # Errors
    /// [`Error::Grammar`] if it is malformed or uses what is not supported.
    pub fn compile(&self, grammar: &Grammar) -> Result<GrammarMatcher> {
        let top = match &grammar.0 {
            Source::Schema(schema) => TopLevelGrammar::from_json_schema(schema.clone()),
            Source::Regex(expression) => TopLevelGrammar::from_regex(expression),
            Source::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let matcher = Matcher::new(self.factory.create_parser(top));
        let mut compiled = GrammarMatcher { matcher };
        compiled.check()?;
        for warning in compiled.matcher.grammar_warnings() {
            tracing::warn!(%warning, "grammar");
        }
        Ok(compiled)
    }
}

/// How far a text has come in its grammar.
pub struct GrammarMatcher {
    matcher: Matcher,
}

impl fmt::Debug for GrammarMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarMatcher")
            .field("stopped", &self.is_stopped())
            .finish_non_exhaustive()
    }
}

impl Clone for GrammarMatcher {
    /// A copy that goes on by itself.
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
        }
    }
}

impl GrammarMatcher {
    /// Logits `[1, V]` with all tokens excluded that may not come next.
    ///
    /// # Errors
    /// [`Error::Grammar`] if the grammar has become too complex to follow.
    pub fn constrain(&mut self, logits: &Array) -> Result<Array> {
        let mask = self.matcher.compute_mask_or_eos();
        let mask = mask.map_err(|error| refused(&error))?;
        let vocab = usize::try_from(logits.dim(-1)?).unwrap_or(0);
        let known = vocab.min(mask.len());
        let mut allowed = vec![false; vocab];
        for (index, place) in allowed.iter_mut().enumerate().take(known) {
            *place = mask.get(index);
        }
        let shape = [1, i32::try_from(vocab).unwrap_or(i32::MAX)];
        let allowed = Array::from_slice::<bool>(&allowed, &shape)?;
        let never = Array::scalar_dtype(f64::NEG_INFINITY, logits.dtype())?;
        Ok(r#where(&allowed, logits, &never)?)
    }

    /// Goes on by a token.
    ///
    /// # Errors
    /// [`Error::Grammar`] if it may not come here.
    pub fn consume(&mut self, token: u32) -> Result<()> {
        let consumed = self.matcher.consume_token(token);
        consumed.map_err(|error| refused(&error))
    }

    /// Whether a token may come next.
    ///
    /// # Errors
    /// [`Error::Grammar`] if the grammar has become too complex to follow.
    pub fn allows(&mut self, token: u32) -> Result<bool> {
        if self.is_stopped() {
            return Ok(false);
        }
        let valid = self.matcher.validate_tokens(&[token]);
        valid
            .map(|count| count == 1)
            .map_err(|error| refused(&error))
    }

    /// Whether the text may end here.
    #[must_use]
    pub fn is_accepting(&mut self) -> bool {
        self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether the text is complete and nothing can follow.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.matcher.is_stopped()
    }

    fn check(&mut self) -> Result<()> {
        match self.matcher.get_error() {
            Some(message) => Err(Error::Grammar { message }),
            None => Ok(()),
        }
    }
}

fn refused(error: &impl fmt::Display) -> Error {
    Error::Grammar {
        message: error.to_string(),
    }
}
