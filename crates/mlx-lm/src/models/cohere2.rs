//! Command R7B and Command A ("Command A: An Enterprise-Ready Large Language Model", 2025): attention
//! and MLP run side by side on one norm without offset, three sliding layers rotate neighbouring
//! features, and each fourth layer sees everything and does not rotate.
//!
//! Follows `mlx_lm/models/cohere2.py` of mlx-lm 0.32.2.

use mlx_core::Array;
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, LayerNorm, Linear, Mask, Module, Rope, RopeParameters, RopeParametersField, Weights,
};
use serde::Deserialize;

use super::{heads, sanitize};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Cohere 2 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub model_type: String,
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    #[serde(default)]
    pub num_key_value_heads: Option<i32>,
    #[serde(default)]
    pub head_dim: Option<i32>,
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f32,
    pub vocab_size: i32,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default = "config::yes")]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub layer_norm_bias: bool,
    #[serde(default = "default_logit_scale")]
    pub logit_scale: f32,
    #[serde(default)]
    pub sliding_window: Option<i32>,
    #[serde(default = "default_sliding_window_pattern")]
    pub sliding_window_pattern: i32,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default)]
    pub order_of_interleaved_layers: Option<String>,
    #[serde(default)]
    pub position_embedding_type: Option<String>,
    #[serde(default)]
    pub rotary_pct: Option<f32>,
    #[serde(default)]
    pub use_qk_norm: bool,
    #[serde(default)]
    pub use_parallel_block: Option<bool>,
    #[serde(default)]
    pub use_parallel_embedding: Option<bool>,
    #[serde(default)]
    pub use_embedding_sharing: Option<bool>,
    #[serde(default)]
    pub use_gated_activation: Option<bool>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
}

fn default_layer_norm_eps() -> f32 {
    1e-5
}

fn default_logit_scale() -> f32 {
    0.0625
}

fn default_sliding_window_pattern() -> i32 {
    4
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
        if self.head_dim.is_none() {
            config::divisible(
                "hidden_size",
                self.hidden_size,
                "num_attention_heads",
                self.num_attention_heads,
            )?;
        }
        config::attention(
            self.num_attention_heads,
            self.num_key_value_heads(),
            self.head_dim(),
        )?;
        config::silu(&self.hidden_act)?;
        config::positive("sliding_window_pattern", self.sliding_window_pattern)?;
        config::only(
            "position_embedding_type",
            self.position_embedding_type.as_deref(),
            "rope_gptj",
        )?;
        config::only(
            "order_of_interleaved_layers",
            self.order_of_interleaved_layers.as_deref(),
            "local_attn_first",
        )?;
        let switches = [
            ("use_qk_norm", Some(self.use_qk_norm), false),
            ("use_parallel_block", self.use_parallel_block, true),
            ("use_gated_activation", self.use_gated_activation, true),
        ];
        for (field, value, supported) in switches {
            if value.is_some_and(|value| value != supported) {
                return Err(Error::config(
                    field,
                    format!("only {supported} is supported"),
                ));
            }
        }
        self.windows().map(|_| ())
    }

    fn head_dim(&self) -> i32 {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn num_key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The sliding window of each layer: all have it but every fourth.
    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let slides = match &self.layer_types {
            Some(layer_types) => config::sliding_layers(layer_types, self.num_hidden_layers)?,
            None => (1..=self.num_hidden_layers)
                .map(|layer| layer % self.sliding_window_pattern != 0)
                .collect(),
        };
        config::windows(&slides, self.sliding_window)
    }

    fn rope(&self, slides: bool) -> Result<Rope> {
        config::RopeConfig {
            head_dim: self.head_dim(),
            slides,
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            partial_rotary_factor: self.rotary_pct,
            ..config::RopeConfig::default()
        }
        .build()
        .map(|rope| rope.traditional(true))
    }

    fn norm(&self) -> Result<LayerNorm> {
        Ok(match self.layer_norm_bias {
            true => LayerNorm::new(self.hidden_size, self.layer_norm_eps)?,
            false => LayerNorm::without_bias(self.hidden_size, self.layer_norm_eps)?,
        })
    }
}

#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    rope: Option<Rope>,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    scale: f32,
}

impl Attention {
    fn new(config: &Config, rope: Option<Rope>) -> Result<Self> {
        let (dim, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads());
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, config.attention_bias)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, config.attention_bias)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, config.attention_bias)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, config.attention_bias)?,
            rope,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config::attention_scale(head_dim),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let keys = heads::split(&self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads::split(&self.v_proj.forward(x)?, self.num_key_value_heads)?;

        let (queries, keys) = match &self.rope {
            Some(rope) => (
                rope.forward(&queries, cache.positions())?,
                rope.forward(&keys, cache.positions())?,
            ),
            None => (queries, keys),
        };

        let output = cache.attend(&queries, &keys, &values, Attend::new(self.scale, mask))?;
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
        let hidden = swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?;
        Ok(self.down_proj.forward(&hidden)?)
    }
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    mlp: Mlp,
    input_layernorm: LayerNorm,
    window: Option<i32>,
}

impl Block {
    fn new(config: &Config, window: Option<i32>) -> Result<Self> {
        let rope = window.map(|_| config.rope(true)).transpose()?;
        Ok(Self {
            self_attn: Attention::new(config, rope)?,
            mlp: Mlp::new(config)?,
            input_layernorm: config.norm()?,
            window,
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let attended = self.self_attn.forward(&normed, mask, cache)?;
        let transformed = self.mlp.forward(&normed)?;
        Ok((attended + transformed + x)?)
    }
}

#[derive(Debug, Module)]
struct Cohere2 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: LayerNorm,
}

/// A Cohere 2 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Cohere2,
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
        let model = Cohere2 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers,
            norm: config.norm()?,
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
        Ok(self.model.embed_tokens.forward(tokens)?)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        let layers = &self.model.layers;
        let mut x = input.embedded(|tokens| self.embed(tokens))?; // [B, L, D]
        let windows = layers.iter().map(|layer| layer.window);
        let masks = Masks::new(cache, windows, x.dim(1)?)?;
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, masks.of(layer.window), cache.as_mut())?;
        }
        Ok(self.model.norm.forward(&x)?)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        let logits = match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.model.embed_tokens.as_linear(hidden)?,
        };
        Ok((logits * self.config.logit_scale)?)
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
