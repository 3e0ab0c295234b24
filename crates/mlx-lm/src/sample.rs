//! From logits to the next token, on the device.
//!
//! The order is that of Python mlx-lm, with what it lacks put in its place:
//! logit bias, penalties, DRY; then log-softmax, top-nσ, top-p, min-p, typical-p,
//! XTC, top-k; and temperature last, so that the filters see the untempered
//! distribution. Mirostat replaces the filters, and sees the tempered one.

mod filters;
mod mirostat;
mod options;
mod penalties;

use mlx_core::ops::indexing::{slice, take_along_axis};
use mlx_core::ops::misc::{argpartition, astype};
use mlx_core::ops::random;
use mlx_core::ops::reduction::{argmax_axis, logsumexp_axes};
use mlx_core::ops::shape::{concatenate, reshape};
use mlx_core::{Array, Dtype};

use crate::Result;
use mirostat::Feedback;

pub use options::{Dry, Mirostat, MirostatVersion, SamplingOptions};

/// Draws the tokens of one sequence.
///
/// It owns its random key and its window of recent tokens, both on the device:
/// two samplers never influence each other, and nothing is read back.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    key: Option<Array>,
    recent: Option<Array>,
    /// All tokens, where a penalty needs them on the host.
    history: Vec<u32>,
    feedback: Option<Feedback>,
}

/// A token as it was chosen.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// `[1]`, `uint32`.
    pub(crate) token: Array,
    pub(crate) logprobs: Option<ChosenLogprobs>,
}

/// What is reported of the distribution that a token was chosen from.
#[derive(Debug, Clone)]
pub(crate) struct ChosenLogprobs {
    /// Of the token itself, `[1, 1]`.
    pub(crate) chosen: Array,
    /// The likeliest tokens and their log-probabilities, `[1, N]`, in no order.
    pub(crate) top: Option<(Array, Array)>,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) if an option is out of range.
    pub fn new(options: &SamplingOptions, prompt: &[u32]) -> Result<Self> {
        options.validate()?;
        let draws = options.temperature > 0.0;
        let key = if draws {
            Some(random::key(options.seed.unwrap_or_else(clock_seed))?)
        } else {
            None
        };
        let window = options.window();
        let recent = if window > 0 {
            let start = prompt.len().saturating_sub(window);
            let newest = prompt.get(start..).unwrap_or_default();
            let length = i32::try_from(newest.len()).unwrap_or(i32::MAX);
            Some(Array::from_slice::<u32>(newest, &[1, length])?)
        } else {
            None
        };
        let feedback = match options.mirostat {
            Some(mirostat) if draws => Some(Feedback::new(mirostat)?),
            _ => None,
        };
        Ok(Self {
            options: options.clone(),
            key,
            recent,
            history: match options.dry {
                Some(_) => prompt.to_vec(),
                None => Vec::new(),
            },
            feedback,
        })
    }

    /// Chooses a token from logits `[1, V]`, as an array `[1]` of `uint32`.
    ///
    /// Lazy: evaluating the result runs the model. Only DRY, which compares
    /// whole sequences, reads the token back at once.
    ///
    /// # Errors
    /// Fails if the logits do not have that shape.
    pub fn sample(&mut self, logits: &Array) -> Result<Array> {
        let token = self.choose(logits)?.token;
        if self.needs_tokens() {
            self.observe(token.item::<u32>()?);
        }
        Ok(token)
    }

    /// [`sample`](Self::sample) with log-probabilities; the caller passes the
    /// token to [`observe`](Self::observe) once it is known.
    pub(crate) fn choose(&mut self, logits: &Array) -> Result<Choice> {
        if self.options.is_plain_greedy() {
            let token = astype(&argmax_axis(logits, -1, false)?, Dtype::Uint32)?;
            return Ok(Choice {
                token,
                logprobs: None,
            });
        }
        let logits = self.processed(logits)?;
        let (token, distribution) = if self.is_greedy() {
            (argmax_axis(&logits, -1, false)?, None)
        } else {
            let distribution = self.distribution(&logits)?;
            let token = random::categorical(&distribution, -1, self.next_key()?.as_ref())?;
            (token, Some(distribution))
        };
        let token = astype(&token, Dtype::Uint32)?;
        let logprobs = self.report(&logits, &token)?;
        self.advance(&token, distribution.as_ref())?;
        Ok(Choice { token, logprobs })
    }

    /// Whether the most likely token is always taken.
    pub(crate) fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0
    }

    /// Whether a choice is the largest logit and nothing else.
    pub(crate) fn is_plain_greedy(&self) -> bool {
        self.options.is_plain_greedy()
    }

    /// Whether the next choice depends on the last token's number.
    pub(crate) fn needs_tokens(&self) -> bool {
        self.options.dry.is_some()
    }

    /// Learns a token's number, for penalties that work on the host.
    pub(crate) fn observe(&mut self, token: u32) {
        if self.needs_tokens() {
            self.history.push(token);
        }
    }

    /// Goes back to the tokens on the host that another sampler knows.
    pub(crate) fn forget_drafts(&mut self, known: &Self) {
        self.history.clone_from(&known.history);
    }

    /// Logits after bias and penalties.
    pub(crate) fn processed(&self, logits: &Array) -> Result<Array> {
        let logits = penalties::penalise(&self.options, logits, self.recent.as_ref())?;
        match &self.options.dry {
            Some(dry) => penalties::dry(dry, &self.history, &logits),
            None => Ok(logits),
        }
    }

    /// The log-probabilities `[1, V]` that a token is drawn from, given
    /// [`processed`](Self::processed) logits: filtered, tempered, normalised.
    pub(crate) fn distribution(&mut self, logits: &Array) -> Result<Array> {
        // Sums over a whole vocabulary need more digits than a half type has.
        let logits = astype(logits, Dtype::Float32)?;
        let cooled = 1.0 / self.options.temperature;
        if let Some(feedback) = &self.feedback {
            return feedback.limit(&normalised(&(logits * cooled)?)?);
        }
        let mut kept = normalised(&logits)?;
        let options = &self.options;
        if options.top_n_sigma > 0.0 {
            kept = normalised(&filters::top_n_sigma(&kept, options.top_n_sigma)?)?;
        }
        if options.top_p > 0.0 && options.top_p < 1.0 {
            kept = filters::top_p(&kept, options.top_p)?;
        }
        if options.min_p > 0.0 {
            kept = filters::min_p(&kept, options.min_p, options.min_tokens_to_keep)?;
        }
        if options.typical_p < 1.0 {
            let share = options.typical_p;
            kept = filters::typical_p(&normalised(&kept)?, share, options.min_tokens_to_keep)?;
        }
        if options.xtc_probability > 0.0 {
            let (probability, threshold) = (options.xtc_probability, options.xtc_threshold);
            let spared = options.xtc_spared.clone();
            if let Some(key) = self.next_key()? {
                kept = filters::xtc(&normalised(&kept)?, probability, threshold, &spared, &key)?;
            }
        }
        kept = filters::top_k(&kept, self.options.top_k)?;
        normalised(&(kept * cooled)?)
    }

    /// Each draw has its own key, so that a token depends on the seed and its
    /// position only.
    pub(crate) fn next_key(&mut self) -> Result<Option<Array>> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let (next, now) = random::split(key)?;
        self.key = Some(next);
        Ok(Some(now))
    }

    /// What was asked for about a token chosen from processed logits.
    pub(crate) fn report(&self, logits: &Array, token: &Array) -> Result<Option<ChosenLogprobs>> {
        let Some(count) = self.options.logprobs else {
            return Ok(None);
        };
        let logprobs = normalised(&astype(logits, Dtype::Float32)?)?;
        let chosen = take_along_axis(&logprobs, &reshape(token, &[1, 1])?, -1)?;
        let vocab = logprobs.dim(-1)?;
        let count = i32::try_from(count).unwrap_or(i32::MAX).min(vocab);
        let top = if count > 0 {
            let order = argpartition(&logprobs, vocab - count, -1)?;
            let ids = slice(&order, &[0, vocab - count], &[1, vocab])?;
            let values = take_along_axis(&logprobs, &ids, -1)?;
            Some((astype(&ids, Dtype::Uint32)?, values))
        } else {
            None
        };
        Ok(Some(ChosenLogprobs { chosen, top }))
    }

    /// Takes note of a token `[1]`, and of what it was drawn from.
    pub(crate) fn advance(&mut self, token: &Array, distribution: Option<&Array>) -> Result<()> {
        if let (Some(feedback), Some(distribution)) = (&mut self.feedback, distribution) {
            feedback.observe(distribution, token)?;
        }
        let Some(recent) = &self.recent else {
            return Ok(());
        };
        let all = concatenate(&[recent, &reshape(token, &[1, 1])?], 1)?;
        let length = all.dim(1)?;
        let window = i32::try_from(self.options.window()).unwrap_or(i32::MAX);
        self.recent = Some(if length > window {
            slice(&all, &[0, length - window], &[1, length])?
        } else {
            all
        });
        Ok(())
    }
}

/// Log-probabilities that sum to one.
fn normalised(logits: &Array) -> Result<Array> {
    Ok((logits - logsumexp_axes(logits, &[-1], true)?)?)
}

/// A seed that differs between runs; it need not be unpredictable.
fn clock_seed() -> u64 {
    let elapsed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    elapsed.as_secs().rotate_left(32)
        ^ u64::from(elapsed.subsec_nanos())
        ^ u64::from(std::process::id()).rotate_left(17)
}
