//! Drafts by a smaller model.

use mlx_core::{Array, eval};

use super::draw::{Drawn, last};
use super::{CHUNK, Draft};
use crate::cache::{self, Cache, CacheOptions};
use crate::generate::prefill::row;
use crate::sample::Sampler;
use crate::{Input, LanguageModel, Result};

/// A draft model that follows the sequence.
pub(super) struct Follower<'m> {
    model: &'m dyn LanguageModel,
    cache: Cache,
    /// The tokens in its cache.
    held: Vec<u32>,
    /// The cache as it was before the last drafts, and how many tokens it held: a way back for
    /// caches that cannot be trimmed, as those of recurrences and of windows that have moved on.
    certain: Option<(Cache, usize)>,
    keeps_certain: bool,
}

impl<'m> Follower<'m> {
    pub(super) fn new(model: &'m dyn LanguageModel) -> Self {
        let cache = model.make_cache(&CacheOptions::default());
        let keeps_certain = !cache.iter().all(|layer| layer.is_trimmable());
        Self {
            model,
            cache,
            held: Vec::new(),
            certain: None,
            keeps_certain,
        }
    }

    pub(super) fn propose(
        &mut self,
        tokens: &[u32],
        count: usize,
        sampler: &mut Sampler,
        vocab: i32,
    ) -> Result<Vec<Draft>> {
        self.go_back(tokens);
        let new = tokens.get(self.held.len()..).unwrap_or_default();
        let mut hidden = None;
        for chunk in new.chunks(CHUNK) {
            // What an earlier chunk leaves in the cache; its hidden states are never computed.
            if hidden.is_some() {
                let state: Vec<&Array> = self.cache.iter().flat_map(|l| l.state()).collect();
                eval(&state)?;
            }
            hidden = Some(self.hidden(&row(chunk)?)?);
        }
        self.held.extend_from_slice(new);
        if self.keeps_certain {
            self.certain = Some((self.cache.clone(), self.held.len()));
        }
        let mut drawn = Drawn::new(sampler, vocab);
        while let Some(found) = hidden.take() {
            let input = drawn.draw(&self.model.logits(&last(&found)?)?)?;
            if drawn.len() < count {
                hidden = Some(self.hidden(&input)?);
            }
        }
        let drafts = drawn.read()?;
        let fed = drafts.len().saturating_sub(1);
        self.held
            .extend(drafts.iter().take(fed).map(|draft| draft.token));
        Ok(drafts)
    }

    /// Forgets what is held beyond the beginning of `tokens`, of which at least the last has to be
    /// fed, to have logits.
    fn go_back(&mut self, tokens: &[u32]) {
        let pairs = self.held.iter().zip(tokens);
        let agreed = pairs.take_while(|(held, token)| held == token).count();
        let agreed = agreed.min(tokens.len().saturating_sub(1));
        let surplus = i32::try_from(self.held.len() - agreed).unwrap_or(i32::MAX);
        if surplus == 0 || cache::trim(&mut self.cache, surplus) {
            self.held.truncate(agreed);
            return;
        }
        self.keeps_certain = true;
        match self.certain.take() {
            Some((cache, length)) if length <= agreed => {
                self.cache = cache;
                self.held.truncate(length);
            }
            // The first time that a window is in the way, all is read again.
            _ => {
                self.cache = self.model.make_cache(&CacheOptions::default());
                self.held.clear();
            }
        }
    }

    fn hidden(&mut self, tokens: &Array) -> Result<Array> {
        self.model.hidden(Input::tokens(tokens), &mut self.cache)
    }
}
