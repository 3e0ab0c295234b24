//! What goes into a generator and what comes out.

use std::fmt;

use mlx_core::Array;

use super::options::{CancelFlag, GenerateOptions};
use super::stats::{FinishReason, Stats};
use crate::cache::Cache;
use crate::grammar::Grammar;
use crate::sample::SamplingOptions;
use crate::{Error, Result};

/// Names a sequence of a [`Generator`](super::Generator); never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub(super) u64);

/// Changes logits before a token is chosen from them.
///
/// It sees every token of the sequence so far, prompt and answer, so the next
/// step cannot be prepared before the present one is known: a sequence with a
/// processor of this kind waits for each token.
pub trait LogitsProcessor: Send {
    /// Logits `[1, V]` to logits `[1, V]`.
    ///
    /// # Errors
    /// Whatever goes wrong ends this sequence, and no other.
    fn process(&mut self, tokens: &[u32], logits: &Array) -> Result<Array>;
}

/// One sequence to be generated.
#[must_use]
pub struct Request {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// How tokens are chosen; final, see [`GenerateOptions::sampling`].
    pub sampling: SamplingOptions,
    /// Upper limit of generated tokens.
    pub max_tokens: usize,
    /// Text that ends the answer and is not part of it.
    pub stop: Vec<String>,
    /// What the answer must look like.
    pub grammar: Option<Grammar>,
    /// Further changes of logits, in order, before those of `sampling`.
    pub processors: Vec<Box<dyn LogitsProcessor>>,
    /// Prompt tokens per prefill chunk.
    pub prefill_step_size: usize,
    /// What to use in place of the prompt's own embeddings, `[1, L, D]`.
    pub embeddings: Option<Array>,
    /// What is known of the beginning of the prompt: a cache of as many of its
    /// tokens as [`offset`](crate::cache::LayerCache::offset) says, at least
    /// one fewer than there are.
    pub cache: Option<Cache>,
    /// Whether the cache holds what precedes the prompt instead, tokens that
    /// nobody knows any more. It then cannot be handed out again.
    pub cache_precedes: bool,
    /// Lengths of the prompt at which a copy of the cache is handed out, and
    /// kept in the generator's prefix store if it has one.
    pub snapshots: Vec<usize>,
    /// Whether the cache is handed out at the end.
    pub keep_cache: bool,
    /// Stops this sequence early.
    pub cancel: CancelFlag,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt.len())
            .field("sampling", &self.sampling)
            .field("max_tokens", &self.max_tokens)
            .field("stop", &self.stop)
            .field("grammar", &self.grammar)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// A greedy request with default limits.
    pub fn new(prompt: impl Into<Vec<u32>>) -> Self {
        let options = GenerateOptions::default();
        Self::with(prompt, &SamplingOptions::default(), &options)
    }

    /// A request by the options of a single generation.
    pub fn with(
        prompt: impl Into<Vec<u32>>,
        sampling: &SamplingOptions,
        options: &GenerateOptions,
    ) -> Self {
        Self {
            prompt: prompt.into(),
            sampling: sampling.clone(),
            max_tokens: options.max_tokens,
            stop: options.stop.clone(),
            grammar: options.grammar.clone(),
            processors: Vec::new(),
            prefill_step_size: options.prefill_step_size,
            embeddings: None,
            cache: None,
            cache_precedes: false,
            snapshots: Vec::new(),
            keep_cache: false,
            cancel: options.cancel.clone(),
        }
    }

    /// Sets [`max_tokens`](Self::max_tokens).
    pub fn max_tokens(mut self, count: usize) -> Self {
        self.max_tokens = count;
        self
    }

    /// Sets [`sampling`](Self::sampling).
    pub fn sampling(mut self, sampling: SamplingOptions) -> Self {
        self.sampling = sampling;
        self
    }

    /// Sets [`grammar`](Self::grammar).
    pub fn grammar(mut self, grammar: Option<Grammar>) -> Self {
        self.grammar = grammar;
        self
    }
}

/// One generated token and the text that became certain with it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Segment {
    /// New text; empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// The token's id.
    pub token: u32,
    /// The token's log-probability, where
    /// [`SamplingOptions::logprobs`] asks for it.
    pub logprob: Option<f32>,
    /// The likeliest tokens with their log-probabilities, best first.
    pub top_logprobs: Vec<(u32, f32)>,
    /// Whether a drafter proposed the token.
    pub from_draft: bool,
    /// Set on the last segment.
    pub finish_reason: Option<FinishReason>,
}

/// What happened to a sequence.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A chunk of the prompt was processed.
    Prefill {
        /// Whose.
        id: SequenceId,
        /// Prompt tokens processed.
        done: usize,
        /// Prompt tokens in all.
        total: usize,
    },
    /// The cache as it was after so many tokens of the prompt.
    Snapshot {
        /// Whose.
        id: SequenceId,
        /// The tokens that the cache holds.
        tokens: Vec<u32>,
        /// The cache.
        cache: Cache,
    },
    /// A token came.
    Segment {
        /// Whose.
        id: SequenceId,
        /// The token and its text.
        segment: Segment,
    },
    /// The sequence is complete and has left.
    Finished {
        /// Whose.
        id: SequenceId,
        /// Counts and times.
        stats: Stats,
        /// If it was asked for: the cache, and the tokens that it holds.
        cache: Option<(Vec<u32>, Cache)>,
    },
    /// The sequence has left because of an error of its own.
    Failed {
        /// Whose.
        id: SequenceId,
        /// What went wrong.
        error: Error,
    },
}

impl Event {
    /// The sequence that it is about.
    #[must_use]
    pub fn id(&self) -> SequenceId {
        match self {
            Self::Prefill { id, .. }
            | Self::Snapshot { id, .. }
            | Self::Segment { id, .. }
            | Self::Finished { id, .. }
            | Self::Failed { id, .. } => *id,
        }
    }
}
