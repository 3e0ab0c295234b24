//! What the configurations of all architectures have in common.

use mlx_nn::{Rope, RopeKind, RopeParameters, RopeParametersField};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::registry::ConfigMap;
use crate::{Error, Result};

/// Keys that describe a checkpoint's making or another part of the program;
/// ignoring them changes no logit.
const HARMLESS_KEYS: &[&str] = &[
    "_attn_implementation",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "mamba_chunk_size",
    "mamba_ssm_cache_dtype",
    "mamba_ssm_dtype",
    "max_length",
    "model_type",
    "moe_shared_expert_overlap",
    "num_logits_to_keep",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "quantization",
    "quantization_config",
    "rescale_prenorm_residual",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "time_step_floor",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "use_mamba_kernels",
];

/// Reads a `Config` from `config.json`, naming the field that is wrong and
/// warning about keys that nobody reads.
pub(crate) fn parse<C: DeserializeOwned>(config: &ConfigMap) -> Result<C> {
    let mut unread = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let value = Value::Object(config.clone());
    let parsed = {
        let mut note = |path: serde_ignored::Path<'_>| unread.push(path.to_string());
        let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
        C::deserialize(serde_ignored::Deserializer::new(tracked, &mut note))
    };
    let parsed = parsed.map_err(|error| {
        let message = error.to_string();
        let missing = message
            .strip_prefix("missing field `")
            .and_then(|rest| rest.split('`').next());
        match missing {
            Some(field) => Error::config(field, "is missing"),
            None => Error::config(track.path().to_string(), message),
        }
    })?;
    unread.retain(|key| !HARMLESS_KEYS.contains(&key.as_str()));
    unread.extend(unread_rope_settings(config));
    if !unread.is_empty() {
        let model_type = config
            .get("model_type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        tracing::warn!(
            model_type,
            keys = unread.join(", "),
            "config keys are not understood and have no effect"
        );
    }
    Ok(parsed)
}

/// The settings below `rope_parameters` that nobody reads. Which of its two forms the object has
/// shows only at its end, and so they do not come to light on the way.
fn unread_rope_settings(config: &ConfigMap) -> Vec<String> {
    let Some(Value::Object(field)) = config.get("rope_parameters") else {
        return Vec::new();
    };
    let mut unread = Vec::new();
    let mut note = |path: &str, set: &Value| {
        let mut note = |key: serde_ignored::Path<'_>| unread.push(format!("{path}.{key}"));
        // What is wrong with it has been said already.
        let _ = RopeParameters::deserialize(serde_ignored::Deserializer::new(set, &mut note));
    };
    if field.values().any(Value::is_object) {
        for (layer_type, set) in field {
            note(&format!("rope_parameters.{layer_type}"), set);
        }
    } else {
        note("rope_parameters", &Value::Object(field.clone()));
    }
    unread
}

/// Reads the fields that we know and none else, naming the one that is wrong.
pub(crate) fn parse_known<C: DeserializeOwned>(config: &ConfigMap) -> Result<C> {
    serde_path_to_error::deserialize(Value::Object(config.clone())).map_err(|error| {
        let field = error.path().to_string();
        Error::config(field, error.into_inner().to_string())
    })
}

/// Reads one token id or several.
pub(crate) fn token_ids(field: &str, value: &Value) -> Result<TokenIds> {
    TokenIds::deserialize(value)
        .map_err(|_| Error::config(field, "is neither a token id nor a list of them"))
}

/// Fails unless `value` is at least 1.
pub(crate) fn positive(field: &str, value: i32) -> Result<()> {
    if value > 0 {
        Ok(())
    } else {
        Err(Error::config(
            field,
            format!("must be 1 or more, not {value}"),
        ))
    }
}

/// Fails unless there are between one and ten thousand layers: more is a damaged
/// or hostile file, and each would cost memory before a weight is looked at.
pub(crate) fn layers(num_hidden_layers: i32) -> Result<()> {
    positive("num_hidden_layers", num_hidden_layers)?;
    if num_hidden_layers <= 10_000 {
        Ok(())
    } else {
        Err(Error::config(
            "num_hidden_layers",
            format!("{num_hidden_layers} is beyond any model"),
        ))
    }
}

/// Fails unless the width of all heads together is a valid dimension.
pub(crate) fn heads(num_attention_heads: i32, head_dim: i32) -> Result<()> {
    match num_attention_heads.checked_mul(head_dim) {
        Some(_) => Ok(()),
        None => Err(Error::config(
            "head_dim",
            format!("{head_dim} is too large for {num_attention_heads} heads"),
        )),
    }
}

/// Fails unless heads of attention are of a sound number and width.
pub(crate) fn attention(
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: i32,
) -> Result<()> {
    positive("num_attention_heads", num_attention_heads)?;
    positive("num_key_value_heads", num_key_value_heads)?;
    positive("head_dim", head_dim)?;
    heads(num_attention_heads, head_dim)?;
    divisible(
        "num_attention_heads",
        num_attention_heads,
        "num_key_value_heads",
        num_key_value_heads,
    )
}

/// Fails unless each token can use `chosen` of `experts`.
pub(crate) fn experts(field: &str, chosen: i32, experts_field: &str, experts: i32) -> Result<()> {
    positive(field, chosen)?;
    positive(experts_field, experts)?;
    if chosen <= experts {
        return Ok(());
    }
    Err(Error::config(
        field,
        format!("{chosen} is more than {experts_field} = {experts}"),
    ))
}

/// Fails unless `value` is a finite number above zero.
pub(crate) fn positive_number(field: &str, value: f32) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(Error::config(
            field,
            format!("must be more than 0, not {value}"),
        ))
    }
}

/// Fails unless `value` is the only one that the architecture has.
pub(crate) fn only(field: &str, value: Option<&str>, supported: &str) -> Result<()> {
    match value {
        Some(other) if other != supported => Err(Error::config(
            field,
            format!("`{other}` is not supported, only `{supported}`"),
        )),
        _ => Ok(()),
    }
}

/// Fails if a switch is at what no published model of the architecture has.
pub(crate) fn switch(field: &str, value: Option<bool>, supported: bool) -> Result<()> {
    match value {
        Some(other) if other != supported => Err(Error::config(
            field,
            format!("`{other}` is not supported, only `{supported}`"),
        )),
        _ => Ok(()),
    }
}

/// The default of switches that are on.
pub(crate) const fn yes() -> bool {
    true
}

/// Fails unless `divisor` divides `value`.
pub(crate) fn divisible(field: &str, value: i32, by: &str, divisor: i32) -> Result<()> {
    if divisor > 0 && value % divisor == 0 {
        Ok(())
    } else {
        Err(Error::config(
            field,
            format!("{value} is not a multiple of {by} = {divisor}"),
        ))
    }
}

/// Fails unless the activation is SiLU, the only one that these gated MLPs use.
pub(crate) fn silu(hidden_act: &str) -> Result<()> {
    match hidden_act {
        "silu" | "swish" => Ok(()),
        other => Err(Error::config(
            "hidden_act",
            format!("`{other}` is not supported, only `silu`"),
        )),
    }
}

/// Whether each layer slides, read from `layer_types`.
pub(crate) fn sliding_layers(layer_types: &[String], num_hidden_layers: i32) -> Result<Vec<bool>> {
    if i32::try_from(layer_types.len()) != Ok(num_hidden_layers) {
        let message = format!(
            "has {} entries for num_hidden_layers = {num_hidden_layers}",
            layer_types.len()
        );
        return Err(Error::config("layer_types", message));
    }
    let slides = |layer_type: &String| match layer_type.as_str() {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(Error::config(
            "layer_types",
            format!("`{other}` is not supported"),
        )),
    };
    layer_types.iter().map(slides).collect()
}

/// The window of each layer: the common one where the layer slides.
pub(crate) fn windows(slides: &[bool], sliding_window: Option<i32>) -> Result<Vec<Option<i32>>> {
    let window = |&slides: &bool| match (slides, sliding_window) {
        (false, _) => Ok(None),
        (true, Some(window)) => positive("sliding_window", window).map(|()| Some(window)),
        (true, None) => Err(Error::config(
            "sliding_window",
            "is missing, but layer_types asks for it",
        )),
    };
    slides.iter().map(window).collect()
}

/// The activation of a configuration that names none.
pub(crate) fn default_act() -> String {
    "silu".to_owned()
}

/// `head_dim ** -0.5`, rounded once.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is what is wanted"
)]
pub(crate) fn attention_scale(head_dim: i32) -> f32 {
    f64::from(head_dim).powf(-0.5) as f32
}

/// One token id or several: `eos_token_id` comes in both forms.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    pub(crate) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// The rotation of layers of one kind, from all places where it may be written.
#[derive(Default)]
pub(crate) struct RopeConfig<'a> {
    pub(crate) head_dim: i32,
    pub(crate) slides: bool,
    pub(crate) theta: Option<f32>,
    pub(crate) scaling: Option<&'a RopeParameters>,
    pub(crate) parameters: Option<&'a RopeParametersField>,
    pub(crate) max_position_embeddings: Option<i32>,
    /// What holds where the parameters themselves say nothing.
    pub(crate) partial_rotary_factor: Option<f32>,
    pub(crate) original_max_position_embeddings: Option<i32>,
}

impl RopeConfig<'_> {
    /// The rotation itself.
    pub(crate) fn build(&self) -> Result<Rope> {
        let (field, merged) = self.merged()?;
        let is_proportional = matches!(merged.kind(), Ok(RopeKind::Proportional));
        let dims = match is_proportional {
            // It spreads its wavelengths over the whole head.
            true => self.head_dim,
            false => merged.rotary_dims(self.head_dim),
        };
        let rope = Rope::from_parameters(dims, &merged, self.max_position_embeddings);
        rope.map_err(|error| Error::config(field, error.to_string()))
    }

    /// All settings in one place, and the field that they are from.
    pub(crate) fn merged(&self) -> Result<(&'static str, RopeParameters)> {
        let layer_type = if self.slides {
            "sliding_attention"
        } else {
            "full_attention"
        };
        let own = |field: &RopeParametersField| {
            let own = field.for_layer_type(layer_type).cloned();
            own.ok_or_else(|| {
                Error::config(
                    "rope_parameters",
                    format!("has no entry for `{layer_type}`"),
                )
            })
        };
        let parameters = self.parameters.map(own).transpose()?;
        let mut merged = RopeParameters::from_config(self.theta, self.scaling, parameters.as_ref());
        merged.partial_rotary_factor = merged.partial_rotary_factor.or(self.partial_rotary_factor);
        merged.original_max_position_embeddings = merged
            .original_max_position_embeddings
            .or(self.original_max_position_embeddings);
        let field = if self.parameters.is_some() {
            "rope_parameters"
        } else {
            "rope_scaling"
        };
        let scale = merged
            .factor
            .filter(|factor| !(factor.is_finite() && *factor > 0.0));
        if let Some(factor) = scale {
            return Err(Error::config(
                field,
                format!("`factor` must be more than 0, not {factor}"),
            ));
        }
        Ok((field, merged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(text: &str) -> Vec<String> {
        unread_rope_settings(&serde_json::from_str(text).expect("an object"))
    }

    #[test]
    fn settings_inside_rope_parameters_are_not_lost() {
        let shared = r#"{"rope_parameters": {"rope_theta": 1e4, "of_tomorrow": 1}}"#;
        assert_eq!(unread(shared), ["rope_parameters.of_tomorrow"]);
        let nested =
            r#"{"rope_parameters": {"full_attention": {"factor": 2.0, "of_tomorrow": 1}}}"#;
        assert_eq!(
            unread(nested),
            ["rope_parameters.full_attention.of_tomorrow"]
        );
        assert!(unread(r#"{"rope_theta": 1e4}"#).is_empty());
    }

    #[test]
    fn a_switch_has_one_position() {
        assert!(switch("gate", None, true).is_ok());
        assert!(switch("gate", Some(true), true).is_ok());
        let error = switch("gate", Some(false), true).expect_err("the other position");
        assert!(error.to_string().contains("gate"), "{error}");
    }
}
