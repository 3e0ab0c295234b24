//! What a caller decides about a generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sample::SamplingOptions;
use crate::{Error, Result};

/// Prompt tokens per prefill chunk: long enough to fill a device, short enough
/// to bound the memory of one pass.
const PREFILL_STEP: usize = 2048;

/// What to generate and when to stop.
///
/// Sampling values left at `None` come from the model's own
/// `generation_config.json`, and are greedy where that is silent.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct GenerateOptions {
    /// Upper limit of generated tokens.
    pub max_tokens: usize,
    /// See [`SamplingOptions::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplingOptions::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingOptions::top_k`].
    pub top_k: Option<usize>,
    /// See [`SamplingOptions::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingOptions::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingOptions::repetition_context`].
    pub repetition_context: Option<usize>,
    /// See [`SamplingOptions::seed`].
    pub seed: Option<u64>,
    /// Text that ends the answer and is not part of it.
    pub stop: Vec<String>,
    /// Limit of positions kept per layer, see
    /// [`CacheOptions::max_kv_size`](crate::cache::CacheOptions::max_kv_size).
    /// With it, prompt and answer may outgrow the model's context.
    pub max_kv_size: Option<i32>,
    /// Prompt tokens per prefill chunk.
    pub prefill_step_size: usize,
    /// Stops the work early.
    pub cancel: CancelFlag,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: None,
            top_p: None,
            top_k: None,
            min_p: None,
            repetition_penalty: None,
            repetition_context: None,
            seed: None,
            stop: Vec::new(),
            max_kv_size: None,
            prefill_step_size: PREFILL_STEP,
            cancel: CancelFlag::new(),
        }
    }
}

macro_rules! setters {
    ($($name:ident: $kind:ty,)+) => {
        impl GenerateOptions {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), ").")]
                pub fn $name(mut self, value: $kind) -> Self {
                    self.$name = value;
                    self
                }
            )+
        }
    };
}

setters! {
    max_tokens: usize,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    repetition_context: Option<usize>,
    seed: Option<u64>,
    stop: Vec<String>,
    max_kv_size: Option<i32>,
    prefill_step_size: usize,
    cancel: CancelFlag,
}

impl GenerateOptions {
    /// The sampling that results over a model's defaults.
    pub fn sampling(&self, defaults: &SamplingOptions) -> SamplingOptions {
        SamplingOptions {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self
                .repetition_penalty
                .unwrap_or(defaults.repetition_penalty),
            repetition_context: self
                .repetition_context
                .unwrap_or(defaults.repetition_context),
            seed: self.seed.or(defaults.seed),
        }
    }
}

/// A flag that another thread or a signal handler raises to stop the work.
#[derive(Debug, Clone, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the work to stop at its next step.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Turns a raised flag into [`Error::Cancelled`].
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }
}
