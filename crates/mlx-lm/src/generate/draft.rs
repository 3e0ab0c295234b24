//! Where proposals for the next tokens come from.

use std::fmt;

use mlx_core::ops::indexing::slice;
use mlx_core::ops::misc::astype;
use mlx_core::ops::random;
use mlx_core::ops::reduction::argmax_axis;
use mlx_core::ops::shape::{PadMode, concatenate, pad};
use mlx_core::{Array, Dtype, eval};

use super::prefill::row;
use super::vocabulary;
use crate::cache::{self, Cache, CacheOptions, LayerCache};
use crate::sample::{Sampler, SamplingOptions};
use crate::{Error, LanguageModel, LoadedModel, Result};

/// Tokens that a draft model processes at a time when it catches up.
const DRAFT_CHUNK: usize = 512;

/// A model's own heads for the tokens after the next one.
///
/// A head takes the hidden state of a position, as
/// [`LanguageModel::hidden`] returns it, and the token that follows, and
/// predicts the token after that.
pub trait MultiToken: fmt::Debug + Send + Sync {
    /// An empty cache for the head, whose layers must be trimmable.
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

    /// Drafts by the model's own heads, see [`LanguageModel::multi_token`].
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
            Drafter::Model(draft) => Source::Model(Follower {
                model: *draft,
                cache: draft.make_cache(&CacheOptions::default()),
                held: Vec::new(),
            }),
            Drafter::OwnHeads => {
                let heads = model.multi_token().ok_or(Error::Option {
                    option: "speculation",
                    message: "this model has no heads for further tokens".to_owned(),
                })?;
                Source::Heads(Heads {
                    cache: heads.make_cache(),
                    heads,
                    hidden: Vec::new(),
                    speculative: 0,
                    vocab: model.vocab_size(),
                })
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
    /// `None` once drafting has become impossible, for example because a
    /// window of the draft model has moved on.
    source: Option<Source<'m>>,
    sampler: Option<Sampler>,
    vocab: i32,
}

enum Source<'m> {
    Lookup { longest: usize, shortest: usize },
    Model(Follower<'m>),
    Heads(Heads<'m>),
}

/// A draft model that follows the sequence.
struct Follower<'m> {
    model: &'m dyn LanguageModel,
    cache: Cache,
    /// The tokens in its cache.
    held: Vec<u32>,
}

/// The model's own heads and what they have not been fed yet.
struct Heads<'m> {
    heads: &'m dyn MultiToken,
    cache: Cache,
    /// Hidden states of positions whose next token may not be known yet.
    hidden: Vec<Array>,
    /// Entries of the cache that stand for tokens that were only proposed.
    speculative: i32,
    vocab: i32,
}

impl DraftState<'_> {
    /// Whether hidden states of the prompt are worth computing.
    pub(super) fn wants_hidden(&self) -> bool {
        matches!(self.source, Some(Source::Heads(_)))
    }

    /// Takes hidden states `[1, L, D]` of the next positions that are certain.
    pub(super) fn see(&mut self, hidden: &Array) {
        if let Some(Source::Heads(heads)) = &mut self.source {
            heads.hidden.push(hidden.clone());
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
                Ok(looked_up(tokens, *longest, *shortest, count))
            }
            Source::Model(follower) => {
                match follower.propose(tokens, count, sampler, self.vocab)? {
                    Some(drafts) => Ok(drafts),
                    None => {
                        self.source = None;
                        Ok(Vec::new())
                    }
                }
            }
            Source::Heads(heads) => heads.propose(tokens, count, sampler),
        }
    }
}

/// What followed the last tokens where they occurred before, latest first.
fn looked_up(tokens: &[u32], longest: usize, shortest: usize, count: usize) -> Vec<Draft> {
    for size in (shortest..=longest).rev() {
        let Some(start) = tokens.len().checked_sub(size) else {
            continue;
        };
        let end = tokens.get(start..).unwrap_or_default();
        let earlier = tokens.get(..tokens.len() - 1).unwrap_or_default();
        let found = earlier.windows(size).rposition(|window| window == end);
        if let Some(at) = found {
            let next = tokens.get(at + size..).unwrap_or_default();
            let certain = |&token| Draft {
                token,
                distribution: None,
            };
            return next.iter().take(count).map(certain).collect();
        }
    }
    Vec::new()
}

/// A token drawn from logits `[1, V]`, and what it was drawn from.
fn draw(sampler: &mut Sampler, logits: &Array) -> Result<(Array, Option<Array>)> {
    if sampler.is_greedy() {
        let token = argmax_axis(logits, -1, false)?;
        return Ok((astype(&token, Dtype::Uint32)?, None));
    }
    let distribution = sampler.distribution(logits)?;
    let key = sampler.next_key()?;
    let token = random::categorical(&distribution, -1, key.as_ref())?;
    Ok((astype(&token, Dtype::Uint32)?, Some(distribution)))
}

/// Reads drawn tokens back.
fn drafts(drawn: Vec<(Array, Option<Array>)>) -> Result<Vec<Draft>> {
    let tokens: Vec<&Array> = drawn.iter().map(|(token, _)| token).collect();
    eval(&tokens)?;
    let read = |(token, distribution): (Array, _)| -> Result<Draft> {
        Ok(Draft {
            token: token.item::<u32>()?,
            distribution,
        })
    };
    drawn.into_iter().map(read).collect()
}

impl Follower<'_> {
    /// Drafts, or `None` if the cache cannot go back to what is certain.
    fn propose(
        &mut self,
        tokens: &[u32],
        count: usize,
        sampler: &mut Sampler,
        vocab: i32,
    ) -> Result<Option<Vec<Draft>>> {
        let pairs = self.held.iter().zip(tokens);
        let agreed = pairs.take_while(|(held, token)| held == token).count();
        // At least one token has to be fed, to have logits.
        let agreed = agreed.min(tokens.len().saturating_sub(1));
        let surplus = i32::try_from(self.held.len() - agreed).unwrap_or(i32::MAX);
        if surplus > 0 && !cache::trim(&mut self.cache, surplus) {
            return Ok(None);
        }
        self.held.truncate(agreed);
        let mut logits = None;
        let new = tokens.get(agreed..).unwrap_or_default();
        let last_chunk = new.len().saturating_sub(1) / DRAFT_CHUNK;
        for (index, chunk) in new.chunks(DRAFT_CHUNK).enumerate() {
            let input = row(chunk)?;
            let hidden = self
                .model
                .hidden(crate::Input::tokens(&input), &mut self.cache)?;
            if index == last_chunk {
                logits = Some(self.last_logits(&hidden, vocab)?);
            } else {
                let state: Vec<&Array> = self.cache.iter().flat_map(|l| l.state()).collect();
                eval(&state)?;
            }
        }
        self.held.extend_from_slice(new);
        let mut drawn = Vec::with_capacity(count);
        while let Some(found) = logits.take() {
            let (token, distribution) = draw(sampler, &found)?;
            let distribution = match distribution {
                Some(distribution) => Some(widened(&distribution, vocab)?),
                None => None,
            };
            let input = token.reshape(&[1, 1])?;
            drawn.push((token, distribution));
            if drawn.len() < count {
                let hidden = self
                    .model
                    .hidden(crate::Input::tokens(&input), &mut self.cache)?;
                logits = Some(self.last_logits(&hidden, vocab)?);
            }
        }
        let drafts = drafts(drawn)?;
        let fed = drafts.len().saturating_sub(1);
        self.held
            .extend(drafts.iter().take(fed).map(|draft| draft.token));
        Ok(Some(drafts))
    }

    /// Logits `[1, V]` of the last position, of tokens that the model knows.
    fn last_logits(&self, hidden: &Array, vocab: i32) -> Result<Array> {
        let (length, width) = (hidden.dim(1)?, hidden.dim(2)?);
        let last = slice(hidden, &[0, length - 1, 0], &[1, length, width])?;
        let logits = self.model.logits(&last)?.reshape(&[1, -1])?;
        let known = logits.dim(1)?.min(vocab);
        Ok(slice(&logits, &[0, 0], &[1, known])?)
    }
}

/// A distribution over fewer tokens as one over `vocab`.
fn widened(distribution: &Array, vocab: i32) -> Result<Array> {
    let missing = vocab - distribution.dim(1)?;
    if missing <= 0 {
        return Ok(distribution.clone());
    }
    let never = Array::scalar(f32::NEG_INFINITY)?;
    Ok(pad(
        distribution,
        &[(0, 0), (0, missing)],
        &never,
        PadMode::Constant,
    )?)
}

impl Heads<'_> {
    fn propose(
        &mut self,
        tokens: &[u32],
        count: usize,
        sampler: &mut Sampler,
    ) -> Result<Vec<Draft>> {
        if self.speculative > 0 {
            if !cache::trim(&mut self.cache, self.speculative) {
                return Err(Error::Option {
                    option: "cache",
                    message: "of the heads for further tokens cannot be trimmed".to_owned(),
                });
            }
            self.speculative = 0;
        }
        let seen: Vec<&Array> = self.hidden.iter().collect();
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let hidden = concatenate(&seen, 1)?;
        self.hidden.clear();
        // The last hidden state belongs to the position before the last token.
        let length = usize::try_from(hidden.dim(1)?).unwrap_or(0);
        let start = tokens.len().saturating_sub(length);
        let mut input = row(tokens.get(start..).unwrap_or_default())?;
        let mut hidden = hidden;
        let mut drawn = Vec::with_capacity(count);
        loop {
            let found = self.heads.hidden(&hidden, &input, &mut self.cache)?;
            let (length, width) = (found.dim(1)?, found.dim(2)?);
            hidden = slice(&found, &[0, length - 1, 0], &[1, length, width])?;
            let logits = self.heads.logits(&hidden)?.reshape(&[1, -1])?;
            let known = logits.dim(1)?.min(self.vocab);
            let logits = slice(&logits, &[0, 0], &[1, known])?;
            let (token, distribution) = draw(sampler, &logits)?;
            let distribution = match distribution {
                Some(distribution) => Some(widened(&distribution, self.vocab)?),
                None => None,
            };
            input = token.reshape(&[1, 1])?;
            drawn.push((token, distribution));
            if drawn.len() >= count {
                break;
            }
            self.speculative += 1;
        }
        drafts(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::looked_up;

    #[test]
    fn the_longest_and_latest_match_is_continued() {
        let found = |tokens: &[u32]| -> Vec<u32> {
            let drafts = looked_up(tokens, 3, 1, 2);
            drafts.iter().map(|draft| draft.token).collect()
        };
        assert_eq!(found(&[1, 2, 3, 4, 9, 2, 3, 8, 7, 1, 2, 3]), [4, 9]);
        assert_eq!(found(&[5, 1, 5, 2, 5]), [2, 5]);
        assert_eq!(found(&[7, 7]), [7]);
        assert!(found(&[1, 2, 3]).is_empty());
        assert!(found(&[]).is_empty());
    }
}
