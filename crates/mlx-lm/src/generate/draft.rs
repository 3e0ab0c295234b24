//! Where proposals for the next tokens come from.

mod draw;
mod follower;
mod heads;
mod lookup;

use std::fmt;

use mlx_core::Array;

use self::follower::Follower;
use self::heads::Heads;
use super::vocabulary;
use crate::cache::{Cache, LayerCache};
use crate::sample::{Sampler, SamplingOptions};
use crate::{Error, LanguageModel, LoadedModel, Result};

/// Tokens that a drafter processes at a time when it catches up.
const CHUNK: usize = 512;

/// A model's own heads for the tokens after the next one.
///
/// A head takes the hidden state of a position, as
/// [`LanguageModel::hidden`] returns it, and the token that follows, and
/// predicts the token after that.
pub trait MultiToken: fmt::Debug + Send + Sync {
    /// An empty cache for the head. Where its layers cannot be trimmed, the head loses its past
    /// with every proposal.
    fn make_cache(&self) -> Cache;

    /// Hidden states `[1, L, D]` and the tokens after them `[1, L]` to the
    /// head's own hidden states `[1, L, D]`, which may be fed in again for
    /// one token more.
    ///
    /// # Errors
    /// Fails if a shape does not fit.
    fn hidden(
        &self,
        hidden: &Array,
        tokens: &Array,
        cache: &mut [Box<dyn LayerCache>],
    ) -> Result<Array>;

    /// The head's hidden states `[1, L, D]` to logits `[1, L, V]`.
    ///
    /// # Errors
    /// Fails if `hidden` has another width.
    fn logits(&self, hidden: &Array) -> Result<Array>;
}

/// Speculative decoding: a cheap drafter proposes tokens, and the model checks
/// them all in one pass ("Fast Inference from Transformers via Speculative
/// Decoding", 2022).
///
/// The distribution of what is generated stays exactly that of the model alone,
/// by rejection sampling; greedy answers stay the same token for token.
#[derive(Debug, Clone)]
#[must_use]
pub struct Speculation<'m> {
    drafter: Drafter<'m>,
    /// Tokens proposed at a time.
    count: usize,
}

#[derive(Debug, Clone)]
enum Drafter<'m> {
    Model(&'m dyn LanguageModel),
    PromptLookup { longest: usize, shortest: usize },
    OwnHeads,
}

impl<'m> Speculation<'m> {
    /// Drafts by a smaller model with the same vocabulary, `count` at a time.
    ///
    /// Any kind of model will do. One whose cache cannot be trimmed, such as a recurrence, goes back
    /// to a copy of it and reads the tokens that were accepted once more.
    pub fn model(draft: &'m dyn LanguageModel, count: usize) -> Self {
        Self {
            drafter: Drafter::Model(draft),
            count,
        }
    }

    /// The same with a check that both have one vocabulary.
    ///
    /// # Errors
    /// [`Error::Option`] naming a token that is another in the draft model.
    pub fn between(model: &LoadedModel, draft: &'m LoadedModel, count: usize) -> Result<Self> {
        vocabulary::check(model.tokenizer(), draft.tokenizer())?;
        Ok(Self::model(draft.model(), count))
    }

    /// Drafts by what followed the last `shortest` to `longest` tokens where
    /// they occurred before: free, and good at texts that quote their prompt.
    pub fn prompt_lookup(longest: usize, shortest: usize, count: usize) -> Self {
        Self {
            drafter: Drafter::PromptLookup {
                longest: longest.max(1),
                shortest: shortest.max(1),
            },
            count,
        }
    }

    /// Drafts by the model's own heads, see [`LanguageModel::multi_token`], which
    /// [`Loader::own_heads`](crate::Loader::own_heads) loads. A sequence for a model without them is
    /// refused.
    pub fn own_heads(count: usize) -> Self {
        Self {
            drafter: Drafter::OwnHeads,
            count,
        }
    }

    /// Tokens proposed at a time.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// What a sequence has to remember for its drafts.
    pub(super) fn start(
        &self,
        model: &'m dyn LanguageModel,
        sampling: &SamplingOptions,
    ) -> Result<DraftState<'m>> {
        let source = match &self.drafter {
            Drafter::PromptLookup { longest, shortest } => Source::Lookup {
                longest: *longest,
                shortest: *shortest,
            },
            Drafter::Model(draft) => Source::Model(Follower::new(*draft)),
            Drafter::OwnHeads => {
                let heads = model.multi_token().ok_or(Error::Option {
                    option: "speculation",
                    message: "the model has no heads of its own for further tokens, or they were \
                              not loaded"
                        .to_owned(),
                })?;
                Source::Heads(Heads::new(heads))
            }
        };
        // Drafts are drawn as the model would draw them, but by a key of their
        // own and without what looks back.
        let options = SamplingOptions::default()
            .temperature(sampling.temperature)
            .top_p(sampling.top_p)
            .top_k(sampling.top_k)
            .min_p(sampling.min_p)
            .seed(sampling.seed.map(|seed| seed ^ 0x5eed_d2af_7000_0001));
        Ok(DraftState {
            source: Some(source),
            sampler: Some(Sampler::new(&options, &[])?),
            vocab: model.vocab_size(),
        })
    }
}

/// One proposed token.
pub(super) struct Draft {
    pub(super) token: u32,
    /// The log-probabilities `[1, V]` that it was drawn from; `None` if it was
    /// certain.
    pub(super) distribution: Option<Array>,
}

/// What a sequence remembers for its drafts.
#[derive(Default)]
pub(super) struct DraftState<'m> {
    /// `None` in a generator that does not speculate.
    source: Option<Source<'m>>,
    sampler: Option<Sampler>,
    vocab: i32,
}

enum Source<'m> {
    Lookup { longest: usize, shortest: usize },
    Model(Follower<'m>),
    Heads(Heads<'m>),
}

impl DraftState<'_> {
    /// Whether hidden states of the prompt are worth computing.
    pub(super) fn wants_hidden(&self) -> bool {
        matches!(self.source, Some(Source::Heads(_)))
    }

    /// Takes hidden states `[1, L, D]` of the next positions that are certain.
    pub(super) fn see(&mut self, hidden: &Array) {
        if let Some(Source::Heads(heads)) = &mut self.source {
            heads.see(hidden);
        }
    }

    /// Proposes up to `count` tokens after `tokens`.
    pub(super) fn propose(&mut self, tokens: &[u32], count: usize) -> Result<Vec<Draft>> {
        let (Some(source), Some(sampler)) = (&mut self.source, &mut self.sampler) else {
            return Ok(Vec::new());
        };
        if count == 0 {
            return Ok(Vec::new());
        }
        match source {
            Source::Lookup { longest, shortest } => {
                Ok(lookup::looked_up(tokens, *longest, *shortest, count))
            }
            Source::Model(follower) => follower.propose(tokens, count, sampler, self.vocab),
            Source::Heads(heads) => heads.propose(tokens, count, sampler, self.vocab),
        }
    }
}
