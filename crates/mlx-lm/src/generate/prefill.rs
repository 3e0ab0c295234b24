//! The prompt's way into the cache.

use std::collections::VecDeque;

use mlx_core::ops::indexing::slice;
use mlx_core::{Array, async_eval, eval, memory};
use mlx_nn::with_planned_length;

use super::request::Request;
use super::sequence::Sequence;
use crate::cache::{self, Cache};
use crate::sample::Choice;
use crate::{Error, Input, LanguageModel, Result};

/// A sequence whose prompt is being processed, a chunk at a time.
pub(super) struct Prefill<'m> {
    pub(super) sequence: Sequence<'m>,
    pub(super) cache: Cache,
    pub(super) done: usize,
    pub(super) begun: bool,
    /// Whether it may go through the model beside others: nothing is known of it
    /// yet, and nothing is wanted on the way.
    pub(super) may_share: bool,
    rest: VecDeque<u32>,
    embeddings: Option<Array>,
    /// Positions of prompt and cache together: some rotations turn by the length of the text, of
    /// which a chunk is only a part.
    length: i32,
    /// Lengths at which to stop and hand out a copy, ascending.
    snapshots: VecDeque<usize>,
    step_size: usize,
}

/// Sequences that are ready to decode: their first tokens are on their way.
pub(super) struct Ready<'m> {
    pub(super) sequences: Vec<Sequence<'m>>,
    /// One row for each.
    pub(super) cache: Cache,
    pub(super) choices: Vec<Choice>,
}

impl<'m> Prefill<'m> {
    pub(super) fn new(mut sequence: Sequence<'m>, request: Request, cache: Cache) -> Result<Self> {
        let held = super::held(&cache);
        sequence.stats.cached_tokens = held;
        let done = match request.cache_precedes {
            true => 0,
            false => held,
        };
        if request.cache_precedes {
            sequence.stats.prompt_tokens += held;
        }
        if done >= request.prompt.len() {
            return Err(Error::Option {
                option: "cache",
                message: format!(
                    "holds {done} tokens, which must be fewer than the prompt's {}",
                    request.prompt.len()
                ),
            });
        }
        if let Some(embeddings) = &request.embeddings {
            let length = embeddings.dim(1)?;
            if usize::try_from(length) != Ok(request.prompt.len()) {
                let message = format!(
                    "are of {length} positions, the prompt has {}",
                    request.prompt.len()
                );
                return Err(Error::Option {
                    option: "embeddings",
                    message,
                });
            }
        }
        let before = if request.cache_precedes { held } else { 0 };
        let length = request.prompt.len().saturating_add(before);
        let mut snapshots: Vec<usize> = request
            .snapshots
            .into_iter()
            .filter(|&length| length > done && length < request.prompt.len())
            .collect();
        snapshots.sort_unstable();
        snapshots.dedup();
        let may_share = done == 0
            && request.prompt.len() <= request.prefill_step_size
            && request.embeddings.is_none()
            && snapshots.is_empty()
            && !sequence.draft.wants_hidden()
            && sequence.limit > 0;
        Ok(Self {
            sequence,
            cache,
            done,
            begun: false,
            may_share,
            rest: request.prompt.into_iter().skip(done).collect(),
            embeddings: request.embeddings,
            length: i32::try_from(length).unwrap_or(i32::MAX),
            snapshots: snapshots.into(),
            step_size: request.prefill_step_size.max(1),
        })
    }

    /// Whether only the last token is left, whose logits are the first that
    /// matter.
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.len() <= 1
    }

    /// Processes a chunk; returns whether a snapshot is due.
    pub(super) fn advance(&mut self, model: &dyn LanguageModel) -> Result<bool> {
        let mut count = self.step_size.min(self.rest.len().saturating_sub(1));
        if let Some(&next) = self.snapshots.front() {
            count = count.min(next - self.done);
        }
        let total = self.sequence.prompt_len;
        // Unless a drafter wants them, the hidden states stay lazy and are never
        // computed; the cache is what counts.
        let hidden = self.run(model, count)?;
        let mut state: Vec<&Array> = self.cache.iter().flat_map(|layer| layer.state()).collect();
        if self.sequence.draft.wants_hidden() {
            state.push(&hidden);
        }
        eval(&state)?;
        self.sequence.draft.see(&hidden);
        if total > self.step_size {
            memory::clear_cache()?;
        }
        let due = self.snapshots.front() == Some(&self.done);
        if due {
            self.snapshots.pop_front();
        }
        Ok(due)
    }

    /// Processes the last token and chooses the first of the answer.
    pub(super) fn finish(mut self, model: &dyn LanguageModel) -> Result<Ready<'m>> {
        let hidden = self.run(model, self.rest.len())?;
        self.sequence.draft.see(&hidden);
        let length = hidden.dim(1)?;
        let hidden = match length {
            1 => hidden,
            _ => slice(&hidden, &[0, length - 1, 0], &[1, length, hidden.dim(2)?])?,
        };
        let logits = model.logits(&hidden)?.reshape(&[1, -1])?;
        let choice = self.sequence.choose(&logits)?;
        async_eval(&[&choice.token])?;
        Ok(Ready {
            sequences: vec![self.sequence],
            cache: self.cache,
            choices: vec![choice],
        })
    }

    fn run(&mut self, model: &dyn LanguageModel, count: usize) -> Result<Array> {
        let chunk: Vec<u32> = self.rest.drain(..count).collect();
        let tokens = row(&chunk)?;
        let embeddings = match &self.embeddings {
            Some(embeddings) => {
                let start = i32::try_from(self.done).unwrap_or(i32::MAX);
                let stop = start + tokens.dim(1)?;
                let width = embeddings.dim(2)?;
                Some(slice(embeddings, &[0, start, 0], &[1, stop, width])?)
            }
            None => None,
        };
        let input = Input {
            tokens: &tokens,
            embeddings: embeddings.as_ref(),
        };
        let cache = &mut self.cache;
        let hidden = with_planned_length(self.length, || model.hidden(input, cache))?;
        self.done += count;
        Ok(hidden)
    }
}

/// How many of the prompts in line can go through the model in one pass of no more positions than
/// a chunk has, the padding of the shorter ones included.
pub(super) fn sharing(waiting: &VecDeque<Prefill<'_>>, room: usize) -> usize {
    let Some(first) = waiting.front() else {
        return 0;
    };
    // A recurrence has no way to step over padding.
    let needs_same_length = cache::has_states(&first.cache);
    let (mut count, mut longest) = (0, 0);
    for prefill in waiting.iter().take(room) {
        let length = prefill.rest.len();
        longest = longest.max(length);
        let fits = prefill.may_share
            && longest.saturating_mul(count + 1) <= first.step_size
            && (!needs_same_length || length == first.rest.len());
        if !fits {
            break;
        }
        count += 1;
    }
    count
}

/// What several whole prompts leave behind: a cache with a row for each, and the logits `[B, V]`
/// after their last tokens.
pub(super) fn together(
    model: &dyn LanguageModel,
    prefills: &[Prefill<'_>],
) -> Result<(Cache, Array)> {
    let lengths = || prefills.iter().map(|prefill| prefill.rest.len());
    let longest = lengths().max().unwrap_or(0);
    let mut padding = Vec::with_capacity(prefills.len());
    let mut tokens = Vec::with_capacity(prefills.len() * longest);
    for prefill in prefills {
        let missing = longest - prefill.rest.len();
        padding.push(i32::try_from(missing).unwrap_or(i32::MAX));
        tokens.extend(std::iter::repeat_n(0, missing));
        tokens.extend(&prefill.rest);
    }
    let empty = prefills.first().map_or(&[][..], |first| &first.cache);
    let mut cache = cache::left_padded(empty, &padding)?;
    let rows = i32::try_from(prefills.len()).unwrap_or(i32::MAX);
    let tokens = row(&tokens)?.reshape(&[rows, -1])?;
    let hidden = model.hidden(Input::tokens(&tokens), &mut cache)?;
    let (length, width) = (hidden.dim(1)?, hidden.dim(2)?);
    let last = slice(&hidden, &[0, length - 1, 0], &[rows, length, width])?;
    let logits = model.logits(&last)?.reshape(&[rows, -1])?;
    Ok((cache, logits))
}

/// Token ids `[1, L]`.
pub(super) fn row(tokens: &[u32]) -> Result<Array> {
    let length = i32::try_from(tokens.len()).map_err(|_| Error::PromptTooLong {
        tokens: tokens.len(),
        limit: 0,
    })?;
    Ok(Array::from_slice::<u32>(tokens, &[1, length])?)
}
