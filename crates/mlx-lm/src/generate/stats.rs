//! What a generation tells besides its text.

use std::fmt;
use std::time::Duration;

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended its answer, or a stop string appeared.
    Stop,
    /// The token limit or the end of the model's context was reached.
    Length,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
        })
    }
}

/// Counts and times of a generation so far.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Those of them that a cache knew already.
    pub cached_tokens: usize,
    /// From the start until the first token was there.
    pub prompt_time: Duration,
    /// Tokens generated, the end-of-text token included.
    pub generation_tokens: usize,
    /// From the first token to the latest.
    pub generation_time: Duration,
    /// The most memory that arrays have used in this process, in bytes.
    pub peak_memory: usize,
    /// Why it ended, once it has.
    pub finish_reason: Option<FinishReason>,
}

impl Stats {
    /// Prompt tokens processed per second; those that a cache knew do not count.
    #[must_use]
    pub fn prompt_tps(&self) -> f64 {
        let processed = self.prompt_tokens.saturating_sub(self.cached_tokens);
        rate(processed, self.prompt_time)
    }

    /// Generated tokens per second, the first one, which the prompt's time
    /// covers, left out.
    #[must_use]
    pub fn generation_tps(&self) -> f64 {
        rate(
            self.generation_tokens.saturating_sub(1),
            self.generation_time,
        )
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if seconds > 0.0 {
        f64::from(count) / seconds
    } else {
        0.0
    }
}
