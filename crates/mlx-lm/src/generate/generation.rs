//! One answer.

use std::collections::VecDeque;
use std::fmt;

use mlx_core::memory;

use super::generator::{Generator, GeneratorOptions};
use super::options::GenerateOptions;
use super::request::{Event, Request, Segment};
use super::stats::{FinishReason, Stats};
use super::tokens::PrefillProgress;
use crate::cache::Cache;
use crate::sample::SamplingOptions;
use crate::tokenizer::Tokenizer;
use crate::{LanguageModel, Result};

/// The text that a model writes for a prompt, as an iterator of segments.
///
/// Work begins with the first call of `next`; after an error or the last
/// segment the iterator is finished.
#[must_use]
pub struct Generation<'a> {
    generator: Generator<'a>,
    events: VecDeque<Event>,
    progress: Option<PrefillProgress<'a>>,
    stats: Stats,
    cache: Option<(Vec<u32>, Cache)>,
    finished: bool,
}

impl fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("generator", &self.generator)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl<'a> Generation<'a> {
    /// Prepares a generation from token ids.
    ///
    /// `sampling` is final, see [`GenerateOptions::sampling`].
    ///
    /// # Errors
    /// As [`Generator::insert`].
    pub fn new(
        model: &'a dyn LanguageModel,
        tokenizer: &'a Tokenizer,
        prompt: &[u32],
        sampling: &SamplingOptions,
        options: &GenerateOptions,
    ) -> Result<Self> {
        let generator = Generator::new(model)
            .tokenizer(tokenizer)
            .options(GeneratorOptions::default().cache(options.cache()));
        Self::of(generator, Request::with(prompt, sampling, options))
    }

    /// Runs a single request on a generator of its own.
    ///
    /// # Errors
    /// As [`Generator::insert`].
    pub fn of(mut generator: Generator<'a>, request: Request) -> Result<Self> {
        let stats = Stats {
            prompt_tokens: request.prompt.len(),
            ..Stats::default()
        };
        generator.insert(request)?;
        Ok(Self {
            generator,
            events: VecDeque::new(),
            progress: None,
            stats,
            cache: None,
            finished: false,
        })
    }

    /// Calls `progress` after each chunk of the prompt.
    pub fn on_prefill(mut self, progress: impl FnMut(usize, usize) + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Counts and times so far; complete once the iterator is finished.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            peak_memory: memory::peak_memory().unwrap_or(0),
            ..self.stats
        }
    }

    /// The whole answer as one string.
    ///
    /// # Errors
    /// The first error of the iteration.
    pub fn text(&mut self) -> Result<String> {
        self.map(|segment| segment.map(|segment| segment.text))
            .collect()
    }

    /// What [`Request::keep_cache`] asked for, once the iterator is finished:
    /// the cache, and the tokens that it holds.
    #[must_use]
    pub fn into_cache(self) -> Option<(Vec<u32>, Cache)> {
        self.cache
    }

    fn handle(&mut self, event: Event) -> Option<Result<Segment>> {
        match event {
            Event::Prefill { done, total, .. } => {
                if let Some(progress) = &mut self.progress {
                    progress(done, total);
                }
                None
            }
            Event::Segment { segment, .. } => Some(Ok(segment)),
            Event::Failed { error, .. } => {
                self.finished = true;
                Some(Err(error))
            }
            Event::Finished { cache, .. } => {
                self.finished = true;
                self.cache = cache;
                None
            }
            Event::Snapshot { .. } => None,
        }
    }

    /// Takes counts and times over before the segment goes out.
    fn refresh(&mut self) {
        if let Some(stats) = self.generator.stats() {
            self.stats = stats;
        }
        for event in &self.events {
            if let Event::Finished { stats, .. } = event {
                self.stats = *stats;
            }
        }
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            while let Some(event) = self.events.pop_front() {
                if let Some(segment) = self.handle(event) {
                    // The end is told with the last segment.
                    if let Some(Event::Finished { .. }) = self.events.front()
                        && let Some(last) = self.events.pop_front()
                    {
                        drop(self.handle(last));
                    }
                    return Some(segment);
                }
            }
            if self.finished || self.generator.is_idle() {
                if self.stats.finish_reason.is_none() && self.stats.generation_tokens == 0 {
                    self.stats.finish_reason = Some(FinishReason::Length);
                }
                return None;
            }
            match self.generator.step() {
                Ok(events) => {
                    self.events.extend(events);
                    self.refresh();
                }
                Err(error) => {
                    self.finished = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
