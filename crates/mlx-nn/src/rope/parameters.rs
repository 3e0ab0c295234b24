//! The rotary settings of a model configuration, in all places where they are written.

use serde::Deserialize;

use crate::{Error, Result};

/// Rotary position settings, as in `rope_scaling` or `rope_parameters` of `config.json`.
///
/// Fields carry the names of the configuration; which of them count depends on the
/// [kind](RopeKind). Unknown keys are ignored, an unknown kind is an error when a
/// [`Rope`](crate::Rope) is built.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RopeParameters {
    /// The kind; see [`kind`](Self::kind).
    pub rope_type: Option<String>,
    /// The kind under its older name, which takes precedence.
    pub r#type: Option<String>,
    /// The base of the wavelengths.
    pub rope_theta: Option<f32>,
    /// By how much the context is extended.
    pub factor: Option<f32>,
    /// The part of each head's features that is rotated.
    pub partial_rotary_factor: Option<f32>,
    /// The context length of pretraining.
    pub original_max_position_embeddings: Option<i32>,
    /// llama3: wavelengths above the original context divided by this are scaled in full.
    pub low_freq_factor: Option<f32>,
    /// llama3: wavelengths below the original context divided by this are kept.
    pub high_freq_factor: Option<f32>,
    /// yarn: rotations above which a feature is kept.
    pub beta_fast: Option<f32>,
    /// yarn: rotations below which a feature is scaled in full.
    pub beta_slow: Option<f32>,
    /// yarn: how strongly the rotated features are amplified.
    pub mscale: Option<f32>,
    /// yarn: how much of that moves to the attention scale; see
    /// [`attention_scale`](Self::attention_scale).
    pub mscale_all_dim: Option<f32>,
    /// yarn: whether the range of partly scaled features is widened to whole features.
    pub truncate: Option<bool>,
    /// yarn, longrope: the amplification itself, instead of one computed from `factor`.
    pub attention_factor: Option<f32>,
    /// longrope: the factor of each wavelength up to the original context.
    pub short_factor: Option<Factors>,
    /// longrope: the factor of each wavelength beyond the original context.
    pub long_factor: Option<Factors>,
    /// longrope: the amplification up to the original context.
    pub short_mscale: Option<f32>,
    /// longrope: the amplification beyond the original context.
    pub long_mscale: Option<f32>,
    /// By how much queries grow with the logarithm of their position beyond the original context,
    /// which the attention does, not the rotation.
    pub llama_4_scaling_beta: Option<f32>,
    /// mrope: how the rotated features are shared out among time, height and width.
    pub mrope_section: Option<Vec<i32>>,
    /// mrope: whether those features are interleaved, which makes no difference to text alone.
    pub mrope_interleaved: Option<bool>,
}

/// One factor for all wavelengths, or one for each.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Factors {
    /// The same for all.
    One(f32),
    /// One for each pair of rotated features.
    Each(Vec<f32>),
}

/// The ways to stretch rotary positions over a longer context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RopeKind {
    /// Not at all.
    Default,
    /// Positions are divided by `factor`.
    Linear,
    /// The base grows with the sequence once it exceeds the context ("NTK-aware").
    Dynamic,
    /// Long wavelengths are scaled, short ones kept, those between blended.
    Llama3,
    /// "YaRN: Efficient Context Window Extension of Large Language Models" (2023), and the
    /// variants of DeepSeek and TeleChat.
    Yarn,
    /// A factor for each wavelength, from "LongRoPE: Extending LLM Context Window Beyond 2 Million
    /// Tokens" (2024).
    LongRope,
    /// Wavelengths are spread over the whole head although only a part of it is rotated.
    Proportional,
    /// Multimodal sections, which for text alone are the default.
    Mrope,
}

impl RopeParameters {
    /// Brings together what a configuration says: `rope_parameters` where present, else
    /// `rope_scaling`, with `rope_theta` from beside them if they do not state it.
    #[must_use]
    pub fn from_config(
        rope_theta: Option<f32>,
        rope_scaling: Option<&Self>,
        rope_parameters: Option<&Self>,
    ) -> Self {
        let mut parameters = rope_parameters
            .or(rope_scaling)
            .cloned()
            .unwrap_or_default();
        parameters.rope_theta = parameters.rope_theta.or(rope_theta);
        parameters
    }

    /// The kind that is asked for; the default one if nothing is said.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the kind is not known.
    pub fn kind(&self) -> Result<RopeKind> {
        let name = self
            .r#type
            .as_deref()
            .or(self.rope_type.as_deref())
            .unwrap_or("default");
        Ok(match name {
            "default" => RopeKind::Default,
            "linear" => RopeKind::Linear,
            "dynamic" => RopeKind::Dynamic,
            "llama3" => RopeKind::Llama3,
            "yarn" | "deepseek_yarn" | "telechat3-yarn" => RopeKind::Yarn,
            "longrope" | "su" => RopeKind::LongRope,
            "proportional" => RopeKind::Proportional,
            "mrope" => RopeKind::Mrope,
            _ => {
                return Err(Error::Unsupported {
                    what: "rope type",
                    value: name.to_owned(),
                });
            }
        })
    }

    /// How many of a head's features are rotated: `head_dim · partial_rotary_factor`.
    #[must_use]
    pub fn rotary_dims(&self, head_dim: i32) -> i32 {
        self.partial_rotary_factor
            .map_or(head_dim, |factor| fraction(head_dim, factor))
    }

    /// The scale of attention scores that belongs to these settings: for yarn, `scale` times the
    /// square of the `mscale_all_dim` part, which the rotation itself leaves out.
    #[must_use]
    pub fn attention_scale(&self, scale: f32) -> f32 {
        let is_default = matches!(self.kind(), Ok(RopeKind::Default));
        match (self.factor, self.mscale_all_dim) {
            (Some(factor), Some(all_dim)) if !is_default && all_dim != 0.0 => {
                let amplification = yarn_mscale(factor, all_dim);
                scale * amplification * amplification
            }
            _ => scale,
        }
    }

    /// A field that the kind cannot do without.
    pub(super) fn require<T>(field: &'static str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| Error::invalid("Rope", format!("the configuration lacks `{field}`")))
    }
}

/// The part `factor` of `dims`, rounded down and kept within `0..=dims`.
pub(super) fn fraction(dims: i32, factor: f32) -> i32 {
    let part = (f64::from(dims) * f64::from(factor))
        .floor()
        .clamp(0.0, f64::from(dims));
    // `clamp` passes NaN on, which converts to zero; anything else is within the range of `dims`.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to 0..=dims")]
    let part = part as i32;
    part
}

/// By how much yarn amplifies for an extension by `factor`.
pub(super) fn yarn_mscale(factor: f32, mscale: f32) -> f32 {
    if factor <= 1.0 {
        1.0
    } else {
        (0.1 * mscale).mul_add(factor.ln(), 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{RopeKind, RopeParameters};

    fn parse(text: &str) -> RopeParameters {
        serde_json::from_str(text).expect("valid JSON")
    }

    #[test]
    fn the_older_type_name_wins() {
        let parameters =
            parse(r#"{"type": "mrope", "rope_type": "default", "mrope_section": [1, 2, 3]}"#);
        assert_eq!(parameters.kind().ok(), Some(RopeKind::Mrope));
    }

    #[test]
    fn nested_parameters_win_over_scaling_and_keep_the_outer_theta() {
        let scaling = parse(r#"{"type": "linear", "factor": 2}"#);
        let nested = parse(r#"{"rope_type": "llama3", "factor": 8.0}"#);
        let merged = RopeParameters::from_config(Some(5e5), Some(&scaling), Some(&nested));
        assert_eq!(
            (merged.kind().ok(), merged.rope_theta),
            (Some(RopeKind::Llama3), Some(5e5))
        );
        let inner = parse(r#"{"rope_theta": 1e6}"#);
        let merged = RopeParameters::from_config(Some(5e5), None, Some(&inner));
        assert_eq!(merged.rope_theta, Some(1e6));
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        let error = parse(r#"{"rope_type": "spiral"}"#)
            .kind()
            .map_err(|e| e.to_string());
        assert_eq!(error, Err("unsupported rope type `spiral`".to_owned()));
    }

    #[test]
    fn rotary_dims_round_down() {
        assert_eq!(parse("{}").rotary_dims(64), 64);
        assert_eq!(
            parse(r#"{"partial_rotary_factor": 0.3}"#).rotary_dims(80),
            24
        );
        assert_eq!(
            parse(r#"{"partial_rotary_factor": 7.0}"#).rotary_dims(64),
            64
        );
    }
}
