//! Phi-3 and Phi-4 ("Phi-3 Technical Report", 2024; "Phi-4 Technical Report", 2024): queries, keys
//! and values come from one matrix, and so do gate and up.
//!
//! Follows `mlx_lm/models/phi3.py` of mlx-lm 0.32.2, and transformers where that slides and chooses
//! the factors of LongRoPE by length.

use mlx_core::Array;
use mlx_core::ops::shape::{split, split_at};
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField, Weights,
};
use serde::Deserialize;

use super::parts::two;
use super::{heads, sanitize};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Phi-3 or Phi-4 model.
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
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub attention_bias: Option<bool>,
    #[serde(default)]
    pub mlp_bias: Option<bool>,
    #[serde(default)]
    pub lm_head_bias: Option<bool>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub original_max_position_embeddings: Option<i32>,
    #[serde(default)]
    pub partial_rotary_factor: Option<f32>,
    #[serde(default)]
    pub sliding_window: Option<i32>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
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
        config::divisible(
            "hidden_size",
            self.hidden_size,
            "num_attention_heads",
            self.num_attention_heads,
        )?;
        config::attention(
            self.num_attention_heads,
            self.num_key_value_heads(),
            self.head_dim(),
        )?;
        config::silu(&self.hidden_act)?;
        config::switch("attention_bias", self.attention_bias, false)?;
        config::switch("mlp_bias", self.mlp_bias, false)?;
        config::switch("lm_head_bias", self.lm_head_bias, false)?;
        self.windows().map(|_| ())
    }

    fn head_dim(&self) -> i32 {
        self.hidden_size / self.num_attention_heads.max(1)
    }

    fn num_key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The sliding window of each layer, the same for all.
    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let slides: Vec<bool> = (0..self.num_hidden_layers)
            .map(|_| self.sliding_window.is_some())
            .collect();
        config::windows(&slides, self.sliding_window)
    }

    fn rope(&self) -> Result<Rope> {
        // Early checkpoints call LongRoPE `su` or `yarn`.
        let scaling = self.rope_scaling.clone().map(|mut scaling| {
            let kind = scaling.r#type.take().or(scaling.rope_type.take());
            scaling.rope_type = match kind.as_deref() {
                Some("su" | "yarn") => Some("longrope".to_owned()),
                _ => kind,
            };
            scaling
        });
        config::RopeConfig {
            head_dim: self.head_dim(),
            theta: self.rope_theta,
            scaling: scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            partial_rotary_factor: self.partial_rotary_factor,
            original_max_position_embeddings: self.original_max_position_embeddings.or(Some(4096)),
            ..config::RopeConfig::default()
        }
        .build()
    }
}

#[derive(Debug, Module)]
struct Attention {
    qkv_proj: Linear,
    o_proj: Linear,
    rope: Rope,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    head_dim: i32,
    scale: f32,
}

impl Attention {
    fn new(config: &Config, rope: Rope) -> Result<Self> {
        let (dim, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads());
        Ok(Self {
            qkv_proj: Linear::placeholder(dim, (heads + 2 * kv_heads) * head_dim, false)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, false)?,
            rope,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            scale: config::attention_scale(head_dim),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let all = self.qkv_proj.forward(x)?;
        let keys_from = self.num_attention_heads * self.head_dim;
        let values_from = keys_from + self.num_key_value_heads * self.head_dim;
        let parts = split_at(&all, &[keys_from, values_from], -1)?;
        let [queries, keys, values] = parts.as_slice() else {
            return Err(Error::weights("`qkv_proj` has no three parts"));
        };
        let queries = heads::split(queries, self.num_attention_heads)?;
        let keys = heads::split(keys, self.num_key_value_heads)?;
        let values = heads::split(values, self.num_key_value_heads)?;

        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;

        let output = cache.attend(&queries, &keys, &values, Attend::new(self.scale, mask))?;
        Ok(self.o_proj.forward(&heads::merge(&output)?)?)
    }
}

#[derive(Debug, Module)]
struct Mlp {
    gate_up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate_up_proj: Linear::placeholder(dim, 2 * hidden_dim, false)?,
            down_proj: Linear::placeholder(hidden_dim, dim, false)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let [gate, up] = two(split(&self.gate_up_proj.forward(x)?, 2, -1)?)?;
        Ok(self.down_proj.forward(&swiglu(&gate, &up)?)?)
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
    fn new(config: &Config, window: Option<i32>) -> Result<Self> {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: Attention::new(config, config.rope()?)?,
            mlp: Mlp::new(config)?,
            input_layernorm: norm()?,
            post_attention_layernorm: norm()?,
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
struct Phi3 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Phi-3 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Phi3,
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
        let model = Phi3 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers,
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
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
    sanitize::text_part(weights)?;
    sanitize::rotary_frequencies(weights);
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}
