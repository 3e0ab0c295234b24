//! Qwen2 and Qwen2.5 ("Qwen2 Technical Report", 2024): Llama with biases on
//! queries, keys and values.
//!
//! Follows `mlx_lm/models/qwen2.py` of mlx-lm 0.32.2, and transformers where
//! that reads `rope_parameters` and `use_sliding_window`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use mlx_core::Array;
use mlx_core::ops::shape::{reshape, transpose_axes};
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField, Weights,
};
use serde::Deserialize;

use super::sanitize;
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{LanguageModel, Result};

/// The keys of `config.json` that shape a Qwen2 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub model_type: String,
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    #[serde(default)]
    pub head_dim: Option<i32>,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_traditional: bool,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default)]
    pub use_sliding_window: bool,
    #[serde(default)]
    pub sliding_window: Option<i32>,
    #[serde(default)]
    pub max_window_layers: Option<i32>,
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first field that is
    /// missing or unsupported.
    pub fn from_json(json: &ConfigMap) -> Result<Self> {
        let config: Self = config::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        config::positive("hidden_size", self.hidden_size)?;
        config::layers(self.num_hidden_layers)?;
        config::positive("intermediate_size", self.intermediate_size)?;
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("num_key_value_heads", self.num_key_value_heads)?;
        config::positive("vocab_size", self.vocab_size)?;
        if self.head_dim.is_none() {
            config::divisible(
                "hidden_size",
                self.hidden_size,
                "num_attention_heads",
                self.num_attention_heads,
            )?;
        }
        config::positive("head_dim", self.head_dim())?;
        config::heads(self.num_attention_heads, self.head_dim())?;
        let heads = self.num_attention_heads;
        config::divisible(
            "num_attention_heads",
            heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )?;
        config::silu(&self.hidden_act)?;
        self.windows().map(|_| ())
    }

    fn head_dim(&self) -> i32 {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// The sliding window of each layer; without `layer_types`, the layers from
    /// `max_window_layers` on slide if any do.
    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let window = self.sliding_window.filter(|_| self.use_sliding_window);
        let slides = match (&self.layer_types, window) {
            (_, None) => return Ok((0..self.num_hidden_layers).map(|_| None).collect()),
            (Some(layer_types), Some(_)) => {
                config::sliding_layers(layer_types, self.num_hidden_layers)?
            }
            (None, Some(_)) => {
                let first = self.max_window_layers.unwrap_or(0);
                (0..self.num_hidden_layers)
                    .map(|layer| layer >= first)
                    .collect()
            }
        };
        config::windows(&slides, window)
    }

    fn rope(&self, slides: bool) -> Result<Rope> {
        let rope = config::RopeConfig {
            head_dim: self.head_dim(),
            slides,
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        };
        rope.build()
            .map(|rope| rope.traditional(self.rope_traditional))
    }
}

#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    rope: Rope,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    scale: f32,
}

impl Attention {
    fn new(config: &Config, rope: Rope) -> Result<Self> {
        let (dim, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, true)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, true)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, true)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, false)?,
            rope,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config::attention_scale(head_dim),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let split = |projected: Array, heads: i32| -> Result<Array> {
            let heads_last = reshape(&projected, &[batch, length, heads, -1])?;
            Ok(transpose_axes(&heads_last, &[0, 2, 1, 3])?) // [B, H, L, D]
        };
        let queries = split(self.q_proj.forward(x)?, self.num_attention_heads)?;
        let keys = split(self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = split(self.v_proj.forward(x)?, self.num_key_value_heads)?;

        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;

        let attend = Attend::new(self.scale, mask);
        let output = cache.attend(&queries, &keys, &values, attend)?;
        let output = reshape(
            &transpose_axes(&output, &[0, 2, 1, 3])?,
            &[batch, length, -1],
        )?;
        Ok(self.o_proj.forward(&output)?)
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
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    window: Option<i32>,
}

impl Block {
    fn new(config: &Config, window: Option<i32>, rope: Rope) -> Result<Self> {
        Ok(Self {
            self_attn: Attention::new(config, rope)?,
            mlp: Mlp::new(config)?,
            input_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
            post_attention_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
            window,
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let attended = self
            .self_attn
            .forward(&self.input_layernorm.forward(x)?, mask, cache)?;
        let x = (x + attended)?;
        let transformed = self
            .mlp
            .forward(&self.post_attention_layernorm.forward(&x)?)?;
        Ok((x + transformed)?)
    }
}

#[derive(Debug, Module)]
struct Qwen2 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Qwen2 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Qwen2,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let mut ropes = BTreeMap::new();
        let mut layers = Vec::new();
        for window in config.windows()? {
            let rope = match ropes.entry(window.is_some()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(config.rope(window.is_some())?),
            };
            layers.push(Block::new(&config, window, rope.clone())?);
        }
        let model = Qwen2 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers,
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
        };
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(Linear::placeholder(
                config.hidden_size,
                config.vocab_size,
                false,
            )?),
        };
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
        Ok(match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.model.embed_tokens.as_linear(hidden)?,
        })
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
    // The Qwen2-VL family keeps its text part under `language_model.`.
    sanitize::text_part(weights)?;
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}
