//! The decode loop.

use std::collections::VecDeque;
use std::fmt;

use mlx_core::ops::shape::reshape;
use mlx_core::{Array, async_eval, eval, memory};

use super::options::{CancelFlag, GenerateOptions};
use crate::cache::{Cache, CacheOptions};
use crate::sample::{Sampler, SamplingOptions};
use crate::{Error, Input, LanguageModel, Result};

/// Freed buffers go back to the system after this many tokens.
const CLEAR_CACHE_EVERY: usize = 256;

/// Receives how many prompt tokens are processed, and of how many.
pub type PrefillProgress<'a> = Box<dyn FnMut(usize, usize) + 'a>;

/// The token ids that a model produces for a prompt, one at a time.
///
/// While a caller handles a token, the device already computes the next: its
/// graph is built from the array that holds the present one, before that is
/// read back.
pub struct Tokens<'a> {
    model: &'a dyn LanguageModel,
    cache: Cache,
    sampler: Sampler,
    prompt: VecDeque<u32>,
    prefill_step_size: usize,
    cancel: CancelFlag,
    pub(super) progress: Option<PrefillProgress<'a>>,
    next: Option<Array>,
    produced: usize,
    pub(super) limit: usize,
}

impl fmt::Debug for Tokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("produced", &self.produced)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl<'a> Tokens<'a> {
    /// Prepares a generation; the model first runs when a token is asked for.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], or [`Error::Option`]
    /// if a value is out of range.
    pub fn new(
        model: &'a dyn LanguageModel,
        prompt: &[u32],
        sampling: &SamplingOptions,
        options: &GenerateOptions,
    ) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if options.max_kv_size.is_some_and(|size| size < 1) {
            return Err(Error::Option {
                option: "max_kv_size",
                message: "must be 1 or more".to_owned(),
            });
        }
        let mut limit = options.max_tokens;
        let context = model
            .max_position_embeddings()
            .and_then(|size| usize::try_from(size).ok());
        if let (Some(context), None) = (context, options.max_kv_size) {
            let room = context.checked_sub(prompt.len()).filter(|&room| room > 0);
            let room = room.ok_or(Error::PromptTooLong {
                tokens: prompt.len(),
                limit: context,
            })?;
            limit = limit.min(room);
        }
        Ok(Self {
            model,
            cache: model.make_cache(&CacheOptions::default().max_kv_size(options.max_kv_size)),
            sampler: Sampler::new(sampling, prompt)?,
            prompt: prompt.iter().copied().collect(),
            prefill_step_size: options.prefill_step_size.max(1),
            cancel: options.cancel.clone(),
            progress: None,
            next: None,
            produced: 0,
            limit,
        })
    }

    /// The cache as it is now: it holds the prompt, every token handed out and,
    /// as long as the generation goes on, the one being computed.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Runs all of the prompt but its last token, whose logits are the first
    /// that matter.
    fn prefill(&mut self) -> Result<Array> {
        let total = self.prompt.len();
        self.report(0, total);
        while self.prompt.len() > 1 {
            self.cancel.check()?;
            let count = self.prefill_step_size.min(self.prompt.len() - 1);
            let chunk: Vec<u32> = self.prompt.drain(..count).collect();
            // The hidden states stay lazy and are never computed; the cache is what counts.
            let tokens = row(&chunk)?;
            drop(self.model.hidden(Input::tokens(&tokens), &mut self.cache)?);
            let state: Vec<&Array> = self.cache.iter().flat_map(|layer| layer.state()).collect();
            eval(&state)?;
            if total > self.prefill_step_size {
                memory::clear_cache()?;
            }
            self.report(total - self.prompt.len(), total);
        }
        self.cancel.check()?;
        let last: Vec<u32> = self.prompt.drain(..).collect();
        let token = self.step(&row(&last)?)?;
        async_eval(&[&token])?;
        self.report(total, total);
        Ok(token)
    }

    fn report(&mut self, done: usize, total: usize) {
        if let Some(progress) = &mut self.progress {
            progress(done, total);
        }
    }

    /// The graph of one step: a token `[1, 1]` in, the next token `[1]` out.
    fn step(&mut self, tokens: &Array) -> Result<Array> {
        let logits = self.model.forward(tokens, &mut self.cache)?;
        self.sampler.sample(&reshape(&logits, &[1, -1])?)
    }

    fn advance(&mut self) -> Result<u32> {
        self.cancel.check()?;
        let now = match self.next.take() {
            Some(token) => token,
            None => self.prefill()?,
        };
        self.produced += 1;
        if self.produced < self.limit {
            let next = self.step(&reshape(&now, &[1, 1])?)?;
            async_eval(&[&next])?;
            self.next = Some(next);
        }
        if self.produced.is_multiple_of(CLEAR_CACHE_EVERY) {
            memory::clear_cache()?;
        }
        Ok(now.item::<u32>()?)
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.produced >= self.limit {
            return None;
        }
        let token = self.advance();
        if token.is_err() {
            self.limit = 0;
        }
        Some(token)
    }
}

fn row(tokens: &[u32]) -> Result<Array> {
    let length = i32::try_from(tokens.len()).map_err(|_| Error::PromptTooLong {
        tokens: tokens.len(),
        limit: 0,
    })?;
    Ok(Array::from_slice::<u32>(tokens, &[1, length])?)
}
