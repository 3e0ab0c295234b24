//! What a caller decides about the choice of tokens.

use crate::{Error, Result};

/// How the next token is chosen.
///
/// The default is greedy: the most likely token, nothing filtered.
///
/// ```
/// use mlx_lm::sample::{Mirostat, SamplingOptions};
///
/// let careful = SamplingOptions::default().temperature(0.7).min_p(0.05);
/// let steady = SamplingOptions::default().temperature(1.0).mirostat(Some(Mirostat::v2(5.0, 0.1)));
/// assert!(careful.validate().is_ok() && steady.validate().is_ok());
/// ```
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
    /// Keeps tokens whose surprise is nearest to the expected one, up to this
    /// share of probability ("Locally Typical Sampling", 2022); 1 keeps all.
    pub typical_p: f32,
    /// Keeps tokens whose logit is within this many standard deviations of the
    /// largest ("Top-nσ: Not All Logits Are You Need", 2024); 0 keeps all.
    pub top_n_sigma: f32,
    /// How likely it is, at each token, that the most likely candidates but the
    /// last of them are excluded ("exclude top choices"); 0 never does.
    pub xtc_probability: f32,
    /// How likely a token must be to count as such a candidate, 0 to 0.5.
    pub xtc_threshold: f32,
    /// Tokens that are never so excluded; a line break and the end of the text
    /// belong here.
    pub xtc_spared: Vec<u32>,
    /// The least number of tokens that min-p and typical-p leave.
    pub min_tokens_to_keep: usize,
    /// Added to the logits of single tokens; `-inf` forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Divides positive and multiplies negative logits of recent tokens
    /// ("CTRL", 2019); 1 does nothing.
    pub repetition_penalty: f32,
    /// How many recent tokens, the prompt's included, the penalty looks at.
    pub repetition_context: usize,
    /// Subtracted from the logits of recent tokens.
    pub presence_penalty: f32,
    /// How many recent tokens this penalty looks at.
    pub presence_context: usize,
    /// Subtracted from the logits of recent tokens once for each occurrence.
    pub frequency_penalty: f32,
    /// How many recent tokens this penalty looks at.
    pub frequency_context: usize,
    /// Makes it less likely that a sequence of tokens is repeated.
    pub dry: Option<Dry>,
    /// Holds the surprise at a level; takes the place of all filters.
    pub mirostat: Option<Mirostat>,
    /// Reports each token's log-probability, and that many of the likeliest
    /// alternatives; `None` reports nothing.
    pub logprobs: Option<usize>,
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
            typical_p: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            xtc_spared: Vec::new(),
            min_tokens_to_keep: 1,
            logit_bias: Vec::new(),
            repetition_penalty: 1.0,
            repetition_context: 20,
            presence_penalty: 0.0,
            presence_context: 20,
            frequency_penalty: 0.0,
            frequency_context: 20,
            dry: None,
            mirostat: None,
            logprobs: None,
            seed: None,
        }
    }
}

macro_rules! setters {
    ($($name:ident: $kind:ty,)+) => {
        impl SamplingOptions {
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
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    typical_p: f32,
    top_n_sigma: f32,
    xtc_probability: f32,
    xtc_threshold: f32,
    xtc_spared: Vec<u32>,
    min_tokens_to_keep: usize,
    logit_bias: Vec<(u32, f32)>,
    repetition_penalty: f32,
    repetition_context: usize,
    presence_penalty: f32,
    presence_context: usize,
    frequency_penalty: f32,
    frequency_context: usize,
    dry: Option<Dry>,
    mirostat: Option<Mirostat>,
    logprobs: Option<usize>,
    seed: Option<u64>,
}

impl SamplingOptions {
    /// Checks every value against its range.
    ///
    /// # Errors
    /// [`Error::Option`] naming the first option out of range.
    pub fn validate(&self) -> Result<()> {
        at_least("temperature", self.temperature, 0.0)?;
        share("top_p", self.top_p)?;
        share("min_p", self.min_p)?;
        share("typical_p", self.typical_p)?;
        at_least("top_n_sigma", self.top_n_sigma, 0.0)?;
        share("xtc_probability", self.xtc_probability)?;
        let threshold = self.xtc_threshold;
        let fits = (0.0..=0.5).contains(&threshold);
        check("xtc_threshold", fits, "between 0 and 0.5", threshold)?;
        let penalty = self.repetition_penalty;
        let fits = penalty.is_finite() && penalty >= f32::MIN_POSITIVE;
        check("repetition_penalty", fits, "more than 0", penalty)?;
        finite("presence_penalty", self.presence_penalty)?;
        finite("frequency_penalty", self.frequency_penalty)?;
        for &(_, bias) in &self.logit_bias {
            let fits = bias.is_finite() || bias == f32::NEG_INFINITY;
            check("logit_bias", fits, "a number or -inf", bias)?;
        }
        if let Some(dry) = &self.dry {
            at_least("dry_multiplier", dry.multiplier, 0.0)?;
            at_least("dry_base", dry.base, 1.0)?;
        }
        if let Some(mirostat) = self.mirostat {
            at_least("mirostat_tau", mirostat.tau, 0.0)?;
            at_least("mirostat_eta", mirostat.eta, 0.0)?;
        }
        Ok(())
    }

    /// Whether nothing is drawn and nothing depends on earlier tokens: the
    /// most likely token, and no more.
    pub(crate) fn is_plain_greedy(&self) -> bool {
        self.temperature == 0.0
            && self.logit_bias.is_empty()
            && self.window() == 0
            && self.dry.is_none()
            && self.logprobs.is_none()
    }

    pub(super) fn penalises_repetition(&self) -> bool {
        self.repetition_penalty != 1.0 && self.repetition_context > 0
    }

    pub(super) fn penalises_presence(&self) -> bool {
        self.presence_penalty != 0.0 && self.presence_context > 0
    }

    pub(super) fn penalises_frequency(&self) -> bool {
        self.frequency_penalty != 0.0 && self.frequency_context > 0
    }

    /// How many recent tokens the penalties need.
    pub(super) fn window(&self) -> usize {
        let mut window = 0;
        if self.penalises_repetition() {
            window = window.max(self.repetition_context);
        }
        if self.penalises_presence() {
            window = window.max(self.presence_context);
        }
        if self.penalises_frequency() {
            window = window.max(self.frequency_context);
        }
        window
    }
}

fn check(option: &'static str, holds: bool, range: &str, value: f32) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Option {
        option,
        message: format!("must be {range}, not {value}"),
    })
}

fn at_least(option: &'static str, value: f32, low: f32) -> Result<()> {
    let range = format!("{low} or more");
    check(option, value.is_finite() && value >= low, &range, value)
}

fn share(option: &'static str, value: f32) -> Result<()> {
    check(
        option,
        (0.0..=1.0).contains(&value),
        "between 0 and 1",
        value,
    )
}

fn finite(option: &'static str, value: f32) -> Result<()> {
    check(option, value.is_finite(), "a finite number", value)
}

/// "Don't repeat yourself": a token that would continue a repetition of
/// `n ≥ allowed_length` tokens loses `multiplier · base^(n - allowed_length)`
/// from its logit.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct Dry {
    /// The loss at the shortest repetition that counts; 0 turns it off.
    pub multiplier: f32,
    /// How the loss grows with each further token.
    pub base: f32,
    /// Repetitions shorter than this are free.
    pub allowed_length: usize,
    /// How many recent tokens are searched; 0 searches all.
    pub range: usize,
    /// Tokens across which no repetition is seen, such as line breaks.
    pub breakers: Vec<u32>,
}

impl Dry {
    /// The customary base of 1.75 and allowed length of 2, over all tokens.
    pub fn new(multiplier: f32) -> Self {
        Self {
            multiplier,
            base: 1.75,
            allowed_length: 2,
            range: 0,
            breakers: Vec::new(),
        }
    }

    /// Sets [`base`](Self::base).
    pub fn base(mut self, base: f32) -> Self {
        self.base = base;
        self
    }

    /// Sets [`allowed_length`](Self::allowed_length).
    pub fn allowed_length(mut self, length: usize) -> Self {
        self.allowed_length = length;
        self
    }

    /// Sets [`range`](Self::range).
    pub fn range(mut self, tokens: usize) -> Self {
        self.range = tokens;
        self
    }

    /// Sets [`breakers`](Self::breakers).
    pub fn breakers(mut self, tokens: Vec<u32>) -> Self {
        self.breakers = tokens;
        self
    }
}

/// Feedback that keeps the surprise of the drawn tokens near a target
/// ("Mirostat: A Neural Text Decoding Algorithm that Directly Controls
/// Perplexity", 2020).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct Mirostat {
    /// 1 estimates a top-k from the shape of the distribution, 2 cuts by
    /// surprise.
    pub version: MirostatVersion,
    /// The surprise aimed at, in bits.
    pub tau: f32,
    /// How fast the limit follows.
    pub eta: f32,
}

/// Which of the two algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirostatVersion {
    /// Top-k from an estimate of the distribution's exponent.
    V1,
    /// Tokens of more surprise than the limit are left out.
    V2,
}

impl Mirostat {
    /// The first version.
    pub const fn v1(tau: f32, eta: f32) -> Self {
        Self {
            version: MirostatVersion::V1,
            tau,
            eta,
        }
    }

    /// The second version.
    pub const fn v2(tau: f32, eta: f32) -> Self {
        Self {
            version: MirostatVersion::V2,
            tau,
            eta,
        }
    }
}
