//! From a prompt to a stream of text.

mod options;
mod stats;
mod tokens;

use std::fmt;
use std::time::Instant;

use mlx_core::memory;

use crate::detokenize::Detokenizer;
use crate::sample::SamplingOptions;
use crate::stop::StopStrings;
use crate::tokenizer::Tokenizer;
use crate::{LanguageModel, Result};

pub use options::{CancelFlag, GenerateOptions};
pub use stats::{FinishReason, Stats};
pub use tokens::{PrefillProgress, Tokens};

/// The text that a model writes for a prompt, as an iterator of segments.
///
/// Work begins with the first call of `next`; after an error or the last
/// segment the iterator is finished.
pub struct Generation<'a> {
    tokens: Tokens<'a>,
    detokenizer: Detokenizer<'a>,
    tokenizer: &'a Tokenizer,
    stop: StopStrings,
    started: Option<Instant>,
    first_token: Option<Instant>,
    stats: Stats,
}

impl fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("tokens", &self.tokens)
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
    /// As [`Tokens::new`].
    pub fn new(
        model: &'a dyn LanguageModel,
        tokenizer: &'a Tokenizer,
        prompt: &[u32],
        sampling: &SamplingOptions,
        options: &GenerateOptions,
    ) -> Result<Self> {
        Ok(Self {
            tokens: Tokens::new(model, prompt, sampling, options)?,
            detokenizer: tokenizer.detokenizer(),
            tokenizer,
            stop: StopStrings::new(&options.stop),
            started: None,
            first_token: None,
            stats: Stats {
                prompt_tokens: prompt.len(),
                ..Stats::default()
            },
        })
    }

    /// Calls `progress` after each chunk of the prompt.
    #[must_use]
    pub fn on_prefill(mut self, progress: impl FnMut(usize, usize) + 'a) -> Self {
        self.tokens.progress = Some(Box::new(progress));
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

    fn clock(&mut self, token_at: Instant) {
        self.stats.generation_tokens += 1;
        let started = self.started.unwrap_or(token_at);
        let first = *self.first_token.get_or_insert(token_at);
        self.stats.prompt_time = first - started;
        self.stats.generation_time = token_at - first;
    }

    fn segment(&mut self, token: u32) -> Result<Segment> {
        if self.tokenizer.is_eos(token) {
            return self.finish(token, FinishReason::Stop);
        }
        let text = self.detokenizer.push(token)?;
        let (text, stopped) = self.stop.push(&text);
        if stopped {
            self.stats.finish_reason = Some(FinishReason::Stop);
            return Ok(Segment {
                text,
                token,
                finish_reason: self.stats.finish_reason,
            });
        }
        if self.stats.generation_tokens >= self.tokens.limit {
            let mut last = self.finish(token, FinishReason::Length)?;
            last.text.insert_str(0, &text);
            return Ok(last);
        }
        Ok(Segment {
            text,
            token,
            finish_reason: None,
        })
    }

    /// The last segment: whatever the detokenizer and the stop matcher held back.
    fn finish(&mut self, token: u32, reason: FinishReason) -> Result<Segment> {
        let rest = self.detokenizer.finish()?;
        let (mut text, stopped) = self.stop.push(&rest);
        let reason = if stopped { FinishReason::Stop } else { reason };
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        self.stats.finish_reason = Some(reason);
        Ok(Segment {
            text,
            token,
            finish_reason: Some(reason),
        })
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<Segment>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.stats.finish_reason.is_some() {
            return None;
        }
        self.started.get_or_insert_with(Instant::now);
        let Some(token) = self.tokens.next() else {
            // Either nothing was to be generated, or an error ended the tokens.
            if self.stats.generation_tokens == 0 {
                self.stats.finish_reason = Some(FinishReason::Length);
            }
            return None;
        };
        let segment = match token {
            Ok(token) => {
                self.clock(Instant::now());
                self.segment(token)
            }
            Err(error) => Err(error),
        };
        if segment.is_err() {
            self.tokens.limit = 0;
        }
        Some(segment)
    }
}

/// One generated token and the text that became certain with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// New text; empty while a character or a possible stop string is incomplete.
    pub text: String,
    /// The token's id.
    pub token: u32,
    /// Set on the last segment.
    pub finish_reason: Option<FinishReason>,
}
