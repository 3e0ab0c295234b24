//! From logits to the next token, on the device.
//!
//! The order of the filters is that of Python mlx-lm: penalties, log-softmax,
//! top-p, min-p, top-k, and temperature last, so that the filters see the
//! untempered distribution.

use mlx_core::ops::arithmetic::exp;
use mlx_core::ops::comparison::{greater, greater_equal, less};
use mlx_core::ops::indexing::{put_along_axis, slice, take_along_axis, r#where};
use mlx_core::ops::logical::logical_or;
use mlx_core::ops::misc::{argpartition, argsort, astype};
use mlx_core::ops::random;
use mlx_core::ops::reduction::{ScanOptions, argmax_axis, cumsum, logsumexp_axes, max_axes};
use mlx_core::ops::shape::{concatenate, reshape};
use mlx_core::{Array, Dtype};

use crate::{Error, Result};

/// How the next token is chosen.
///
/// The default is greedy: the most likely token, nothing filtered.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct SamplingOptions {
    /// Divides the log-probabilities before drawing; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the smallest set of tokens whose probability reaches this share
    /// ("The Curious Case of Neural Text Degeneration", 2019); 1 keeps all.
    pub top_p: f32,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps tokens at least this likely relative to the most likely one
    /// ("Turning Up the Heat: Min-p Sampling", 2024); 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens
    /// ("CTRL", 2019); 1 does nothing.
    pub repetition_penalty: f32,
    /// How many recent tokens, the prompt's included, the penalty looks at.
    pub repetition_context: usize,
    /// Seed of this sequence's own random key; `None` takes one from the clock.
    pub seed: Option<u64>,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repetition_context: 20,
            seed: None,
        }
    }
}

impl SamplingOptions {
    /// Sets [`temperature`](Self::temperature).
    pub fn temperature(mut self, value: f32) -> Self {
        self.temperature = value;
        self
    }

    /// Sets [`top_p`](Self::top_p).
    pub fn top_p(mut self, value: f32) -> Self {
        self.top_p = value;
        self
    }

    /// Sets [`top_k`](Self::top_k).
    pub fn top_k(mut self, value: usize) -> Self {
        self.top_k = value;
        self
    }

    /// Sets [`min_p`](Self::min_p).
    pub fn min_p(mut self, value: f32) -> Self {
        self.min_p = value;
        self
    }

    /// Sets [`repetition_penalty`](Self::repetition_penalty).
    pub fn repetition_penalty(mut self, value: f32) -> Self {
        self.repetition_penalty = value;
        self
    }

    /// Sets [`repetition_context`](Self::repetition_context).
    pub fn repetition_context(mut self, value: usize) -> Self {
        self.repetition_context = value;
        self
    }

    /// Sets [`seed`](Self::seed).
    pub fn seed(mut self, value: Option<u64>) -> Self {
        self.seed = value;
        self
    }

    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`Error::Option`] naming the first option out of range.
    pub fn validate(&self) -> Result<()> {
        let check = |option, holds: bool, range: &str, value: f32| {
            if holds {
                Ok(())
            } else {
                Err(Error::Option {
                    option,
                    message: format!("must be {range}, not {value}"),
                })
            }
        };
        let finite = |value: f32, low: f32| value.is_finite() && value >= low;
        check(
            "temperature",
            finite(self.temperature, 0.0),
            "0 or more",
            self.temperature,
        )?;
        check(
            "top_p",
            (0.0..=1.0).contains(&self.top_p),
            "between 0 and 1",
            self.top_p,
        )?;
        check(
            "min_p",
            (0.0..=1.0).contains(&self.min_p),
            "between 0 and 1",
            self.min_p,
        )?;
        let penalty = self.repetition_penalty;
        check(
            "repetition_penalty",
            finite(penalty, f32::MIN_POSITIVE),
            "more than 0",
            penalty,
        )
    }
}

/// Draws the tokens of one sequence.
///
/// It owns its random key and its window of recent tokens, both on the device:
/// two samplers never influence each other, and nothing is read back.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplingOptions,
    key: Option<Array>,
    recent: Option<Array>,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    ///
    /// # Errors
    /// [`Error::Option`] if an option is out of range.
    pub fn new(options: &SamplingOptions, prompt: &[u32]) -> Result<Self> {
        options.validate()?;
        let key = if options.temperature > 0.0 {
            Some(random::key(options.seed.unwrap_or_else(clock_seed))?)
        } else {
            None
        };
        let penalised = options.repetition_penalty != 1.0 && options.repetition_context > 0;
        let recent = if penalised {
            let start = prompt.len().saturating_sub(options.repetition_context);
            let window = prompt.get(start..).unwrap_or_default();
            let length = i32::try_from(window.len()).unwrap_or(i32::MAX);
            Some(Array::from_slice::<u32>(window, &[1, length])?)
        } else {
            None
        };
        Ok(Self {
            options: options.clone(),
            key,
            recent,
        })
    }

    /// Chooses a token from logits `[1, V]`, as an array `[1]` of `uint32`.
    ///
    /// Lazy: evaluating the result runs the model.
    ///
    /// # Errors
    /// Fails if the logits do not have that shape.
    pub fn sample(&mut self, logits: &Array) -> Result<Array> {
        let logits = self.penalise(logits)?;
        let logprobs = (&logits - logsumexp_axes(&logits, &[-1], true)?)?;
        let token = if self.options.temperature > 0.0 {
            self.draw(&logprobs)?
        } else {
            argmax_axis(&logprobs, -1, false)?
        };
        let token = astype(&token, Dtype::Uint32)?;
        self.remember(&token)?;
        Ok(token)
    }

    fn penalise(&self, logits: &Array) -> Result<Array> {
        let Some(recent) = self.recent.as_ref().filter(|recent| recent.size() > 0) else {
            return Ok(logits.clone());
        };
        let penalty = self.options.repetition_penalty;
        let selected = take_along_axis(logits, recent, -1)?;
        let negative = less(&selected, &Array::scalar(0.0_f32)?)?;
        let selected = r#where(&negative, &(&selected * penalty)?, &(&selected / penalty)?)?;
        Ok(put_along_axis(logits, recent, &selected, -1)?)
    }

    fn draw(&mut self, logprobs: &Array) -> Result<Array> {
        // Sums over a whole vocabulary need more digits than a half type has.
        let logprobs = &astype(logprobs, Dtype::Float32)?;
        let options = &self.options;
        let vocab = logprobs.dim(-1)?;
        let never = Array::scalar(f32::NEG_INFINITY)?;
        let mut candidates = logprobs.clone();
        let mut ids = None;
        if options.top_p > 0.0 && options.top_p < 1.0 {
            let order = argsort(logprobs, -1)?;
            let sorted = take_along_axis(logprobs, &order, -1)?;
            let below = cumsum(&exp(&sorted)?, -1, ScanOptions::default())?;
            let kept = greater(&below, &Array::scalar(1.0 - options.top_p)?)?;
            // Rounding must not filter out the most likely token too.
            let best = slice(&sorted, &[0, vocab - 1], &[1, vocab])?;
            let kept = logical_or(&kept, &greater_equal(&sorted, &best)?)?;
            candidates = r#where(&kept, &sorted, &never)?;
            ids = Some(order);
        }
        if options.min_p > 0.0 {
            let floor = (max_axes(&candidates, &[-1], true)? + options.min_p.ln())?;
            candidates = r#where(&less(&candidates, &floor)?, &never, &candidates)?;
        }
        let top_k = i32::try_from(options.top_k).unwrap_or(i32::MAX);
        if top_k > 0 && top_k < vocab {
            let tail = |array: &Array| slice(array, &[0, vocab - top_k], &[1, vocab]);
            ids = Some(match ids {
                Some(order) => {
                    candidates = tail(&candidates)?;
                    tail(&order)?
                }
                None => {
                    let best = tail(&argpartition(&candidates, vocab - top_k, -1)?)?;
                    candidates = take_along_axis(&candidates, &best, -1)?;
                    best
                }
            });
        }
        let tempered = (&candidates * (1.0 / options.temperature))?;
        let choice = random::categorical(&tempered, -1, self.next_key()?.as_ref())?;
        match ids {
            None => Ok(choice),
            Some(ids) => Ok(reshape(
                &take_along_axis(&ids, &reshape(&choice, &[1, 1])?, -1)?,
                &[1],
            )?),
        }
    }

    /// Each draw has its own key, so that a token depends on the seed and its
    /// position only.
    fn next_key(&mut self) -> Result<Option<Array>> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let (next, now) = random::split(key)?;
        self.key = Some(next);
        Ok(Some(now))
    }

    fn remember(&mut self, token: &Array) -> Result<()> {
        let Some(recent) = &self.recent else {
            return Ok(());
        };
        let all = concatenate(&[recent, &reshape(token, &[1, 1])?], 1)?;
        let length = all.dim(1)?;
        let context = i32::try_from(self.options.repetition_context).unwrap_or(i32::MAX);
        self.recent = Some(if length > context {
            slice(&all, &[0, length - context], &[1, length])?
        } else {
            all
        });
        Ok(())
    }
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
