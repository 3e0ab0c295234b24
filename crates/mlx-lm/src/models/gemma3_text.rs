//! Gemma 3 ("Gemma 3 Technical Report", 2025): five sliding layers to each one that sees everything,
//! each kind with its own rotation, and queries and keys normalised per head.
//!
//! Follows `mlx_lm/models/gemma3_text.py` of mlx-lm 0.32.2, and transformers where that reads
//! `layer_types` and `rope_parameters`.

use mlx_core::ops::arithmetic::{clip, multiply};
use mlx_core::{Array, Dtype};
use mlx_nn::activation::gelu_approx;
use mlx_nn::{Embedding, Linear, Mask, Module, Rope, RopeParameters, RopeParametersField, Weights};
use serde::Deserialize;

use super::{
    gemma::{GemmaRmsNorm, activation, scaled_embeddings, softcap},
    heads, sanitize,
};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Gemma 3 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub model_type: String,
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub intermediate_size: i32,
    #[serde(default = "default_num_attention_heads")]
    pub num_attention_heads: i32,
    #[serde(default = "default_num_key_value_heads")]
    pub num_key_value_heads: i32,
    #[serde(default = "default_head_dim")]
    pub head_dim: i32,
    #[serde(default = "default_rms_norm_eps")]
    pub rms_norm_eps: f32,
    #[serde(default = "default_vocab_size")]
    pub vocab_size: i32,
    #[serde(default = "default_max_position_embeddings")]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::yes")]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub hidden_activation: Option<String>,
    #[serde(default)]
    pub hidden_act: Option<String>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default = "default_query_pre_attn_scalar")]
    pub query_pre_attn_scalar: f32,
    #[serde(default)]
    pub attn_logit_softcapping: Option<f32>,
    #[serde(default)]
    pub final_logit_softcapping: Option<f32>,
    #[serde(default = "default_sliding_window")]
    pub sliding_window: Option<i32>,
    #[serde(default = "default_sliding_window_pattern")]
    pub sliding_window_pattern: i32,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default = "default_rope_local_base_freq")]
    pub rope_local_base_freq: f32,
    #[serde(default)]
    pub use_bidirectional_attention: Option<bool>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
}

// The published multimodal checkpoints state only what differs from the defaults of
// transformers, which these are.

fn default_num_attention_heads() -> i32 {
    8
}

fn default_num_key_value_heads() -> i32 {
    4
}

fn default_head_dim() -> i32 {
    256
}

fn default_rms_norm_eps() -> f32 {
    1e-6
}

fn default_vocab_size() -> i32 {
    262_208
}

#[expect(clippy::unnecessary_wraps, reason = "the field may be null")]
fn default_max_position_embeddings() -> Option<i32> {
    Some(131_072)
}

#[expect(clippy::unnecessary_wraps, reason = "the field may be null")]
fn default_sliding_window() -> Option<i32> {
    Some(4096)
}

fn default_query_pre_attn_scalar() -> f32 {
    256.0
}

fn default_sliding_window_pattern() -> i32 {
    6
}

fn default_rope_local_base_freq() -> f32 {
    10_000.0
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that is missing or unsupported.
    pub fn from_json(json: &ConfigMap) -> Result<Self> {
        let config: Self = config::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        config::positive("hidden_size", self.hidden_size)?;
        config::layers(self.num_hidden_layers)?;
        config::positive("intermediate_size", self.intermediate_size)?;
        config::positive("vocab_size", self.vocab_size)?;
        config::attention(
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
        )?;
        config::positive("sliding_window_pattern", self.sliding_window_pattern)?;
        config::positive_number("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        activation(
            self.hidden_activation.as_deref(),
            self.hidden_act.as_deref(),
        )?;
        if self.use_bidirectional_attention == Some(true) {
            return Err(Error::config(
                "use_bidirectional_attention",
                "is for embedding models, which are not generated from",
            ));
        }
        self.windows().map(|_| ())
    }

    /// The sliding window of each layer: all have it but every sixth.
    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let slides = match &self.layer_types {
            Some(layer_types) => config::sliding_layers(layer_types, self.num_hidden_layers)?,
            None => (1..=self.num_hidden_layers)
                .map(|layer| layer % self.sliding_window_pattern != 0)
                .collect(),
        };
        config::windows(&slides, self.sliding_window)
    }

    /// Layers that slide have a base of their own and are never stretched.
    fn rope(&self, slides: bool) -> Result<Rope> {
        let legacy = slides && self.rope_parameters.is_none();
        config::RopeConfig {
            head_dim: self.head_dim,
            slides,
            theta: match legacy {
                true => Some(self.rope_local_base_freq),
                false => self.rope_theta.or(Some(1_000_000.0)),
            },
            scaling: self.rope_scaling.as_ref().filter(|_| !slides),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        }
        .build()
    }
}

#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: GemmaRmsNorm,
    k_norm: GemmaRmsNorm,
    rope: Rope,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    scale: f32,
    softcap: Option<f32>,
}

impl Attention {
    fn new(config: &Config, rope: Rope) -> Result<Self> {
        let (dim, head_dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, config.attention_bias)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, config.attention_bias)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, config.attention_bias)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, config.attention_bias)?,
            q_norm: GemmaRmsNorm::new(head_dim, config.rms_norm_eps)?,
            k_norm: GemmaRmsNorm::new(head_dim, config.rms_norm_eps)?,
            rope,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config.query_pre_attn_scalar.sqrt().recip(),
            softcap: config.attn_logit_softcapping,
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let keys = heads::split(&self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads::split(&self.v_proj.forward(x)?, self.num_key_value_heads)?;
        let queries = self.q_norm.forward(&queries)?;
        let keys = self.k_norm.forward(&keys)?;

        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;

        let attend = Attend::new(self.scale, mask).softcap(self.softcap);
        let output = cache.attend(&queries, &keys, &values, attend)?;
        Ok(self.o_proj.forward(&heads::merge(&output)?)?)
    }
}

#[derive(Debug, Module)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_proj: Linear::placeholder(dim, hidden_dim, false)?,
            up_proj: Linear::placeholder(dim, hidden_dim, false)?,
            down_proj: Linear::placeholder(hidden_dim, dim, false)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let gate = gelu_approx(&self.gate_proj.forward(x)?)?;
        let hidden = multiply(&gate, &self.up_proj.forward(x)?)?;
        Ok(self.down_proj.forward(&hidden)?)
    }
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: GemmaRmsNorm,
    post_attention_layernorm: GemmaRmsNorm,
    pre_feedforward_layernorm: GemmaRmsNorm,
    post_feedforward_layernorm: GemmaRmsNorm,
    window: Option<i32>,
}

impl Block {
    fn new(config: &Config, window: Option<i32>) -> Result<Self> {
        let norm = || GemmaRmsNorm::new(config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: Attention::new(config, config.rope(window.is_some())?)?,
            mlp: Mlp::new(config)?,
            input_layernorm: norm()?,
            post_attention_layernorm: norm()?,
            pre_feedforward_layernorm: norm()?,
            post_feedforward_layernorm: norm()?,
            window,
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let attended = self
            .self_attn
            .forward(&self.input_layernorm.forward(x)?, mask, cache)?;
        let x = add(x, &self.post_attention_layernorm.forward(&attended)?)?;
        let transformed = self
            .mlp
            .forward(&self.pre_feedforward_layernorm.forward(&x)?)?;
        add(&x, &self.post_feedforward_layernorm.forward(&transformed)?)
    }
}

/// A sum that stays finite in float16, whose range the residual stream of this model exceeds.
fn add(x: &Array, y: &Array) -> Result<Array> {
    if x.dtype() != Dtype::Float16 {
        return Ok((x + y)?);
    }
    let wide = (x.astype(Dtype::Float32)? + y.astype(Dtype::Float32)?)?;
    let bound = Array::scalar::<f32>(65_504.0)?;
    let bounded = clip(&wide, Some(&(-&bound)?), Some(&bound))?;
    Ok(bounded.astype(Dtype::Float16)?)
}

#[derive(Debug, Module)]
struct Gemma3 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: GemmaRmsNorm,
}

/// A Gemma 3 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Gemma3,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let layers = config
            .windows()?
            .into_iter()
            .map(|window| Block::new(&config, window))
            .collect::<Result<_>>()?;
        let model = Gemma3 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers,
            norm: GemmaRmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
        };
        let head = || Linear::placeholder(config.hidden_size, config.vocab_size, false);
        let lm_head = (!config.tie_word_embeddings).then(head).transpose()?;
        Ok(Self {
            model,
            lm_head,
            config,
        })
    }
}

impl LanguageModel for Model {
    fn embed(&self, tokens: &Array) -> Result<Array> {
        scaled_embeddings(&self.model.embed_tokens, tokens, self.config.hidden_size)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        let layers = &self.model.layers;
        let mut x = input.embedded(|tokens| self.embed(tokens))?; // [B, L, D]
        let windows = layers.iter().map(|layer| layer.window);
        let masks = Masks::new(cache, windows, x.dim(1)?)?;
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, masks.of(layer.window), cache.as_mut())?;
        }
        self.model.norm.forward(&x)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        let logits = match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.model.embed_tokens.as_linear(hidden)?,
        };
        softcap(logits, self.config.final_logit_softcapping)
    }

    fn make_cache(&self, options: &CacheOptions) -> Cache {
        self.model
            .layers
            .iter()
            .map(|layer| attention_cache(layer.window, options))
            .collect()
    }

    fn vocab_size(&self) -> i32 {
        self.config.vocab_size
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        self.config.max_position_embeddings
    }
}

/// Renames and drops weights so that exactly the model's own remain.
///
/// # Errors
/// Fails if two weights would end up under one key.
pub fn sanitize(config: &Config, weights: &mut Weights) -> Result<()> {
    sanitize::text_part(weights)?;
    sanitize::rotary_frequencies(weights);
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_published_4b_leaves_out_has_its_defaults() -> Result<()> {
        let text = r#"{
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}
        }"#;
        let json: ConfigMap =
            serde_json::from_str(text).map_err(|error| Error::config("json", error.to_string()))?;
        let config = Config::from_json(&json)?;
        assert_eq!(
            (
                config.num_attention_heads,
                config.num_key_value_heads,
                config.head_dim
            ),
            (8, 4, 256)
        );
        assert_eq!((config.vocab_size, config.rms_norm_eps), (262_208, 1e-6));
        assert_eq!(config.max_position_embeddings, Some(131_072));
        Ok(())
    }
}
