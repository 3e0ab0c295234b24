//! One answer as token ids.

use std::collections::VecDeque;
use std::fmt;

use super::generator::{Generator, GeneratorOptions};
use super::options::GenerateOptions;
use super::request::{Event, Request};
use crate::sample::SamplingOptions;
use crate::{LanguageModel, Result};

/// Receives how many prompt tokens are processed, and of how many.
pub type PrefillProgress<'a> = Box<dyn FnMut(usize, usize) + 'a>;

/// The token ids that a model produces for a prompt, one at a time, without a
/// tokenizer: nothing but the limit ends them.
pub struct Tokens<'a> {
    generator: Generator<'a>,
    ready: VecDeque<Result<u32>>,
}

impl fmt::Debug for Tokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("generator", &self.generator)
            .finish_non_exhaustive()
    }
}

impl<'a> Tokens<'a> {
    /// Prepares a generation; the model first runs when a token is asked for.
    ///
    /// # Errors
    /// As [`Generator::insert`].
    pub fn new(
        model: &'a dyn LanguageModel,
        prompt: &[u32],
        sampling: &SamplingOptions,
        options: &GenerateOptions,
    ) -> Result<Self> {
        let settings = GeneratorOptions::default().cache(options.cache());
        let mut generator = Generator::new(model).options(settings);
        generator.insert(Request::with(prompt, sampling, options))?;
        Ok(Self {
            generator,
            ready: VecDeque::new(),
        })
    }
}

impl Iterator for Tokens<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.generator.is_idle() {
            match self.generator.step() {
                Ok(events) => {
                    self.ready
                        .extend(events.into_iter().filter_map(|event| match event {
                            Event::Segment { segment, .. } => Some(Ok(segment.token)),
                            Event::Failed { error, .. } => Some(Err(error)),
                            _ => None,
                        }))
                }
                Err(error) => self.ready.push_back(Err(error)),
            }
        }
        self.ready.pop_front()
    }
}
