//! What a caller decides about a generation.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cache::{CacheOptions, KvQuantization};
use crate::grammar::Grammar;
use crate::sample::{Dry, Mirostat, SamplingOptions};
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
    /// See [`SamplingOptions::typical_p`].
    pub typical_p: Option<f32>,
    /// See [`SamplingOptions::top_n_sigma`].
    pub top_n_sigma: Option<f32>,
    /// See [`SamplingOptions::xtc_probability`].
    pub xtc_probability: Option<f32>,
    /// See [`SamplingOptions::xtc_threshold`].
    pub xtc_threshold: Option<f32>,
    /// See [`SamplingOptions::xtc_spared`].
    pub xtc_spared: Option<Vec<u32>>,
    /// See [`SamplingOptions::min_tokens_to_keep`].
    pub min_tokens_to_keep: Option<usize>,
    /// See [`SamplingOptions::logit_bias`].
    pub logit_bias: Option<Vec<(u32, f32)>>,
    /// See [`SamplingOptions::presence_penalty`].
    pub presence_penalty: Option<f32>,
    /// See [`SamplingOptions::presence_context`].
    pub presence_context: Option<usize>,
    /// See [`SamplingOptions::frequency_penalty`].
    pub frequency_penalty: Option<f32>,
    /// See [`SamplingOptions::frequency_context`].
    pub frequency_context: Option<usize>,
    /// See [`SamplingOptions::dry`].
    pub dry: Option<Dry>,
    /// See [`SamplingOptions::mirostat`].
    pub mirostat: Option<Mirostat>,
    /// See [`SamplingOptions::logprobs`].
    pub logprobs: Option<usize>,
    /// See [`SamplingOptions::seed`].
    pub seed: Option<u64>,
    /// Text that ends the answer and is not part of it.
    pub stop: Vec<String>,
    /// Limit of positions kept per layer, see
    /// [`CacheOptions::max_kv_size`](crate::cache::CacheOptions::max_kv_size).
    /// With it, prompt and answer may outgrow the model's context.
    pub max_kv_size: Option<i32>,
    /// Packs the keys and values that are remembered.
    pub kv_quantization: Option<KvQuantization>,
    /// What the answer must look like.
    pub grammar: Option<Grammar>,
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
            typical_p: None,
            top_n_sigma: None,
            xtc_probability: None,
            xtc_threshold: None,
            xtc_spared: None,
            min_tokens_to_keep: None,
            logit_bias: None,
            presence_penalty: None,
            presence_context: None,
            frequency_penalty: None,
            frequency_context: None,
            dry: None,
            mirostat: None,
            logprobs: None,
            seed: None,
            stop: Vec::new(),
            max_kv_size: None,
            kv_quantization: None,
            grammar: None,
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
    typical_p: Option<f32>,
    top_n_sigma: Option<f32>,
    xtc_probability: Option<f32>,
    xtc_threshold: Option<f32>,
    xtc_spared: Option<Vec<u32>>,
    min_tokens_to_keep: Option<usize>,
    logit_bias: Option<Vec<(u32, f32)>>,
    presence_penalty: Option<f32>,
    presence_context: Option<usize>,
    frequency_penalty: Option<f32>,
    frequency_context: Option<usize>,
    dry: Option<Dry>,
    mirostat: Option<Mirostat>,
    logprobs: Option<usize>,
    seed: Option<u64>,
    stop: Vec<String>,
    max_kv_size: Option<i32>,
    kv_quantization: Option<KvQuantization>,
    grammar: Option<Grammar>,
    prefill_step_size: usize,
    cancel: CancelFlag,
}

impl GenerateOptions {
    /// The sampling that results over a model's defaults.
    pub fn sampling(&self, defaults: &SamplingOptions) -> SamplingOptions {
        let mut sampling = defaults.clone();
        macro_rules! given {
            ($($name:ident),+) => {
                $(if let Some(value) = &self.$name {
                    sampling.$name = value.clone();
                })+
            };
        }
        given!(temperature, top_p, top_k, min_p, typical_p, top_n_sigma);
        given!(
            xtc_probability,
            xtc_threshold,
            xtc_spared,
            min_tokens_to_keep,
            logit_bias
        );
        given!(repetition_penalty, repetition_context);
        given!(
            presence_penalty,
            presence_context,
            frequency_penalty,
            frequency_context
        );
        sampling.dry = self.dry.clone().or(sampling.dry);
        sampling.mirostat = self.mirostat.or(sampling.mirostat);
        sampling.logprobs = self.logprobs.or(sampling.logprobs);
        sampling.seed = self.seed.or(sampling.seed);
        sampling
    }

    /// How caches are made for these options.
    pub fn cache(&self) -> CacheOptions {
        CacheOptions::default()
            .max_kv_size(self.max_kv_size)
            .quantization(self.kv_quantization)
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
