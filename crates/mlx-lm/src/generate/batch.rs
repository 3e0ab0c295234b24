//! The sequences that decode together.

use mlx_core::ops::indexing::{slice, take};
use mlx_core::ops::misc::astype;
use mlx_core::ops::reduction::argmax_axis;
use mlx_core::ops::shape::{concatenate, reshape};
use mlx_core::{Array, Dtype, async_eval};

use super::prefill::Ready;
use super::request::Event;
use super::sequence::Sequence;
use crate::cache::{self, Cache};
use crate::sample::{Choice, ChosenLogprobs};
use crate::{Error, LanguageModel, Result};

/// Sequences in decoding, one row of the cache each, and the tokens that have
/// been chosen for them but not read yet.
#[derive(Default)]
pub(super) struct Batch<'m> {
    pub(super) rows: Vec<Sequence<'m>>,
    pub(super) cache: Cache,
    pub(super) pending: Option<Pending>,
    /// Whether some state is no part of what a token depends on.
    pub(super) has_states: bool,
}

/// Tokens `[B]` on their way, and what is reported with them.
pub(super) struct Pending {
    pub(super) tokens: Array,
    pub(super) logprobs: Vec<Option<ChosenLogprobs>>,
}

impl Pending {
    fn of(choices: Vec<Choice>) -> Result<Self> {
        let tokens = match choices.as_slice() {
            [only] => only.token.clone(),
            _ => {
                let tokens: Vec<&Array> = choices.iter().map(|choice| &choice.token).collect();
                concatenate(&tokens, 0)?
            }
        };
        Ok(Self {
            tokens,
            logprobs: choices.into_iter().map(|choice| choice.logprobs).collect(),
        })
    }

    fn select(&self, rows: &[i32]) -> Result<Self> {
        let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        let indices = Array::from_slice::<i32>(rows, &[count])?;
        let logprobs = rows.iter().map(|&row| {
            let index = usize::try_from(row).ok()?;
            self.logprobs.get(index).cloned().flatten()
        });
        Ok(Self {
            tokens: take(&self.tokens, &indices, 0)?,
            logprobs: logprobs.collect(),
        })
    }
}

impl<'m> Batch<'m> {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds sequences whose prompts are processed.
    pub(super) fn join(&mut self, ready: Ready<'m>) -> Result<()> {
        self.has_states |= cache::has_states(&ready.cache);
        let joining = Pending::of(ready.choices)?;
        if self.rows.is_empty() {
            self.cache = ready.cache;
            self.pending = Some(joining);
        } else {
            self.cache = cache::merge(&[&self.cache, &ready.cache])?;
            self.pending = Some(match self.pending.take() {
                Some(mut pending) => {
                    pending.tokens = concatenate(&[&pending.tokens, &joining.tokens], 0)?;
                    pending.logprobs.extend(joining.logprobs);
                    pending
                }
                None => joining,
            });
        }
        self.rows.extend(ready.sequences);
        Ok(())
    }

    /// Reads the pending tokens, and before that sets the next ones going.
    pub(super) fn step(
        &mut self,
        model: &dyn LanguageModel,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let goes_on = self.rows.iter().any(|row| row.produced() + 1 < row.limit);
        let waits = self.rows.iter().any(Sequence::needs_tokens);
        let mut logits = None;
        if goes_on {
            let input = reshape(&pending.tokens, &[-1, 1])?;
            let found = model.forward(&input, &mut self.cache)?;
            let found = reshape(&found, &[found.dim(0)?, -1])?; // [B, V]
            if waits {
                self.launch(&[&found])?;
                logits = Some(found);
            } else {
                self.pending = Some(self.choose(&found)?);
            }
        }
        let tokens = pending.tokens.to_vec::<u32>()?;
        let gone = self.read(&tokens, &pending.logprobs, events);
        // A sequence that waits for its tokens is chosen for among those that stay.
        self.leave(gone, logits.as_mut(), events)?;
        if let (Some(logits), false) = (logits, self.rows.is_empty()) {
            self.pending = Some(self.choose(&logits)?);
        }
        Ok(())
    }

    /// Sets the computation going without waiting for it.
    fn launch(&self, arrays: &[&Array]) -> Result<()> {
        if !self.has_states {
            return Ok(async_eval(arrays)?);
        }
        // What a convolution remembers is no input of the token, so its graph
        // would grow with every step.
        let state = self.cache.iter().flat_map(|layer| layer.state());
        let all: Vec<&Array> = arrays.iter().copied().chain(state).collect();
        Ok(async_eval(&all)?)
    }

    /// Chooses the next token of each row from logits `[B, V]`.
    fn choose(&mut self, logits: &Array) -> Result<Pending> {
        let pending = if self.rows.iter().all(Sequence::is_plain_greedy) {
            Pending {
                tokens: astype(&argmax_axis(logits, -1, false)?, Dtype::Uint32)?,
                logprobs: vec![None; self.rows.len()],
            }
        } else {
            let vocab = logits.dim(1)?;
            let single = self.rows.len() == 1;
            let mut choices = Vec::with_capacity(self.rows.len());
            for (index, sequence) in (0..).zip(&mut self.rows) {
                choices.push(if single {
                    sequence.choose(logits)?
                } else {
                    sequence.choose(&slice(logits, &[index, 0], &[index + 1, vocab])?)?
                });
            }
            Pending::of(choices)?
        };
        let mut arrays = vec![&pending.tokens];
        for logprobs in pending.logprobs.iter().flatten() {
            arrays.push(&logprobs.chosen);
            if let Some((ids, values)) = &logprobs.top {
                arrays.extend([ids, values]);
            }
        }
        self.launch(&arrays)?;
        Ok(pending)
    }

    /// Hands each row its token; returns what happened to those that end.
    pub(super) fn read(
        &mut self,
        tokens: &[u32],
        logprobs: &[Option<ChosenLogprobs>],
        events: &mut Vec<Event>,
    ) -> Vec<Departure> {
        self.read_from(0, tokens, logprobs, events)
    }

    /// The same for the rows from `first` on.
    pub(super) fn read_from(
        &mut self,
        first: usize,
        tokens: &[u32],
        logprobs: &[Option<ChosenLogprobs>],
        events: &mut Vec<Event>,
    ) -> Vec<Departure> {
        let mut gone = Vec::new();
        let pairs = tokens.iter().zip(logprobs);
        let rows = self.rows.iter_mut().enumerate().skip(first);
        for ((row, sequence), (&token, logprobs)) in rows.zip(pairs) {
            let id = sequence.id;
            match sequence.take(token, logprobs.as_ref(), false) {
                Ok(segment) => {
                    let ends = segment.finish_reason.is_some();
                    events.push(Event::Segment { id, segment });
                    if ends {
                        gone.push(Departure { row, error: None });
                    }
                }
                Err(error) => gone.push(Departure {
                    row,
                    error: Some(error),
                }),
            }
        }
        gone
    }

    /// Takes rows out, with an event for each.
    pub(super) fn leave(
        &mut self,
        gone: Vec<Departure>,
        logits: Option<&mut Array>,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut caches = Vec::with_capacity(gone.len());
        for departure in &gone {
            let wanted = self
                .rows
                .get(departure.row)
                .is_some_and(|row| row.keep_cache);
            caches.push(match (wanted, self.rows.len()) {
                (false, _) => None,
                (true, 1) => Some(std::mem::take(&mut self.cache)),
                (true, _) => Some(cache::row(&self.cache, index_of(departure.row))?),
            });
        }
        let leaving: Vec<usize> = gone.iter().map(|departure| departure.row).collect();
        let stays = |row: usize| !leaving.contains(&row);
        let staying: Vec<i32> = (0..self.rows.len())
            .filter(|&row| stays(row))
            .map(index_of)
            .collect();
        match staying.as_slice() {
            [] => {
                self.cache = Cache::new();
                self.pending = None;
                self.has_states = false;
            }
            // One that is alone needs no rows, and decodes faster without.
            [only] => self.cache = cache::row(&self.cache, *only)?,
            _ => self.cache = cache::select(&self.cache, &staying)?,
        }
        if !staying.is_empty() {
            if let Some(pending) = &self.pending {
                self.pending = Some(pending.select(&staying)?);
            }
            if let Some(logits) = logits {
                let count = i32::try_from(staying.len()).unwrap_or(i32::MAX);
                *logits = take(logits, &Array::from_slice::<i32>(&staying, &[count])?, 0)?;
            }
        }
        for (departure, kept) in gone.into_iter().zip(caches) {
            if let Some(sequence) = self.rows.get(departure.row) {
                events.push(departure.event(sequence, kept));
            }
        }
        let mut row = 0..;
        self.rows.retain(|_| row.next().is_none_or(stays));
        Ok(())
    }
}

/// A row that is to leave.
pub(super) struct Departure {
    pub(super) row: usize,
    /// `None` if the sequence is complete.
    pub(super) error: Option<Error>,
}

impl Departure {
    fn event(self, sequence: &Sequence<'_>, cache: Option<Cache>) -> Event {
        let id = sequence.id;
        let Some(error) = self.error else {
            let mut stats = sequence.stats;
            stats.peak_memory = mlx_core::memory::peak_memory().unwrap_or(0);
            let cache = cache.map(|cache| {
                let held = super::held(&cache);
                let tokens = sequence.tokens.iter().take(held).copied().collect();
                (tokens, cache)
            });
            return Event::Finished { id, stats, cache };
        };
        Event::Failed { id, error }
    }
}

fn index_of(row: usize) -> i32 {
    i32::try_from(row).unwrap_or(i32::MAX)
}
