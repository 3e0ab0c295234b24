//! Drafts by the model's own heads.

use mlx_core::ops::indexing::slice;
use mlx_core::ops::shape::concatenate;
use mlx_core::{Array, eval};

use super::draw::{Drawn, last};
use super::{CHUNK, Draft, MultiToken};
use crate::Result;
use crate::cache::{self, Cache};
use crate::generate::prefill::row;
use crate::sample::Sampler;

/// The model's own heads and what they have not been fed yet.
pub(super) struct Heads<'m> {
    heads: &'m dyn MultiToken,
    cache: Cache,
    /// Hidden states of positions whose next token may not be known yet.
    seen: Vec<Array>,
    /// Entries of the cache that stand for tokens that were only proposed.
    speculative: i32,
}

impl<'m> Heads<'m> {
    pub(super) fn new(heads: &'m dyn MultiToken) -> Self {
        Self {
            cache: heads.make_cache(),
            heads,
            seen: Vec::new(),
            speculative: 0,
        }
    }

    /// Takes hidden states of the next positions that are certain.
    pub(super) fn see(&mut self, hidden: &Array) {
        self.seen.push(hidden.clone());
    }

    pub(super) fn propose(
        &mut self,
        tokens: &[u32],
        count: usize,
        sampler: &mut Sampler,
        vocab: i32,
    ) -> Result<Vec<Draft>> {
        if self.seen.is_empty() {
            return Ok(Vec::new());
        }
        if self.speculative > 0 && !cache::trim(&mut self.cache, self.speculative) {
            // Without its past a head guesses worse, but what it proposes is checked anyway.
            self.cache = self.heads.make_cache();
        }
        self.speculative = 0;
        let mut hidden = self.catch_up(tokens)?;
        let mut drawn = Drawn::new(sampler, vocab);
        loop {
            let input = drawn.draw(&self.heads.logits(&hidden)?)?;
            if drawn.len() >= count {
                break;
            }
            hidden = self.heads.hidden(&hidden, &input, &mut self.cache)?;
            self.speculative += 1;
        }
        drawn.read()
    }

    /// Feeds what has been seen with the tokens that follow, and returns the head's own hidden state
    /// `[1, 1, D]` at the end.
    fn catch_up(&mut self, tokens: &[u32]) -> Result<Array> {
        let seen = concatenate(&self.seen.iter().collect::<Vec<_>>(), 1)?;
        self.seen.clear();
        // The last hidden state belongs to the position before the last token.
        let (length, width) = (seen.dim(1)?, seen.dim(2)?);
        let first = tokens.len() - tokens.len().min(usize::try_from(length).unwrap_or(0));
        let following = tokens.get(first..).unwrap_or_default();
        let mut found: Option<Array> = None;
        let mut start = 0;
        for chunk in following.chunks(CHUNK) {
            if let Some(found) = &found {
                let state = self.cache.iter().flat_map(|layer| layer.state());
                eval(&state.chain([found]).collect::<Vec<_>>())?;
            }
            let input = row(chunk)?;
            let stop = start + input.dim(1)?;
            let hidden = slice(&seen, &[0, start, 0], &[1, stop, width])?;
            start = stop;
            found = Some(self.heads.hidden(&hidden, &input, &mut self.cache)?);
        }
        match found {
            Some(found) => last(&found),
            None => last(&seen),
        }
    }
}
