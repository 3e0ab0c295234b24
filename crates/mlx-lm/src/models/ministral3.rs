//! Ministral 3 (2025): a Mistral of which the queries grow with the logarithm of the position beyond
//! the context of pretraining.
//!
//! Follows `mlx_lm/models/ministral3.py` of mlx-lm 0.32.2.

use mlx_core::ops::arithmetic::{floor, log1p, maximum};
use mlx_core::ops::shape::{expand_dims, reshape};
use mlx_core::{Array, Dtype};
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, Linear, Mask, Module, Offset, RmsNorm, Rope, RopeParameters, RopeParametersField,
    Weights,
};
use serde::Deserialize;

use super::{heads, sanitize};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Ministral 3 model.
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
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
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
        self.windows().map(|_| ())
    }

    fn head_dim(&self) -> i32 {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn num_key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let slides = match &self.layer_types {
            Some(layer_types) => config::sliding_layers(layer_types, self.num_hidden_layers)?,
            None => (0..self.num_hidden_layers)
                .map(|_| self.sliding_window.is_some())
                .collect(),
        };
        config::windows(&slides, self.sliding_window)
    }

    fn rope_config(&self, slides: bool) -> config::RopeConfig<'_> {
        config::RopeConfig {
            head_dim: self.head_dim(),
            slides,
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        }
    }

    /// How queries grow with their position.
    fn growth(&self) -> Result<Option<Growth>> {
        let (field, rope) = self.rope_config(false).merged()?;
        let Some(beta) = rope.llama_4_scaling_beta else {
            return Ok(None);
        };
        let context = rope
            .original_max_position_embeddings
            .filter(|&context| context > 0)
            .ok_or_else(|| {
                let message = "`llama_4_scaling_beta` needs `original_max_position_embeddings`";
                Error::config(field, message)
            })?;
        Ok(Some(Growth { beta, context }))
    }
}

/// Queries at position `p` are multiplied by `1 + beta · ln(1 + ⌊p / context⌋)`, as Llama 4 does it.
#[derive(Debug, Clone, Copy)]
struct Growth {
    beta: f32,
    context: i32,
}

impl Growth {
    /// The factors of the next `length` tokens, `[1, 1, L, 1]` or `[B, 1, L, 1]`.
    fn factors(self, start: Offset<'_>, length: i32, dtype: Dtype) -> Result<Array> {
        let steps = Array::arange_dtype(0.0, f64::from(length), 1.0, Dtype::Float32)?;
        let positions = match start {
            Offset::Shared(start) => reshape(&(steps + f64::from(start))?, &[1, length])?,
            Offset::Each(starts) => (expand_dims(&starts.astype(Dtype::Float32)?, &[1])? + steps)?,
        };
        // Padding before a prompt stands at negative positions, of which there is no logarithm.
        let positions = maximum(&positions, &Array::scalar(0.0_f32)?)?;
        let rounds = floor(&(positions / f64::from(self.context))?)?;
        let factors = ((log1p(&rounds)? * self.beta)? + 1.0)?;
        Ok(expand_dims(&factors, &[1, 3])?.astype(dtype)?)
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
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads());
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, false)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, false)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, false)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, false)?,
            rope,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config::attention_scale(head_dim),
        })
    }

    fn forward(
        &self,
        x: &Array,
        growth: Option<&Array>,
        mask: &Mask,
        cache: &mut dyn LayerCache,
    ) -> Result<Array> {
        let queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let keys = heads::split(&self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads::split(&self.v_proj.forward(x)?, self.num_key_value_heads)?;

        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;
        let queries = match growth {
            Some(growth) => (queries * growth)?,
            None => queries,
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
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    window: Option<i32>,
}

impl Block {
    fn new(config: &Config, window: Option<i32>) -> Result<Self> {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: Attention::new(config, config.rope_config(window.is_some()).build()?)?,
            mlp: Mlp::new(config)?,
            input_layernorm: norm()?,
            post_attention_layernorm: norm()?,
            window,
        })
    }

    fn forward(
        &self,
        x: &Array,
        growth: Option<&Array>,
        mask: &Mask,
        cache: &mut dyn LayerCache,
    ) -> Result<Array> {
        let attended =
            self.self_attn
                .forward(&self.input_layernorm.forward(x)?, growth, mask, cache)?;
        let x = (x + attended)?;
        let transformed = self
            .mlp
            .forward(&self.post_attention_layernorm.forward(&x)?)?;
        Ok((x + transformed)?)
    }
}

#[derive(Debug, Module)]
struct Ministral3 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Ministral 3 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Ministral3,
    lm_head: Option<Linear>,
    #[module(skip)]
    growth: Option<Growth>,
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
        let model = Ministral3 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers,
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
        };
        let head = || Linear::placeholder(config.hidden_size, config.vocab_size, false);
        let lm_head = (!config.tie_word_embeddings).then(head).transpose()?;
        Ok(Self {
            model,
            lm_head,
            growth: config.growth()?,
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
        let growth = match (self.growth, cache.first()) {
            (Some(growth), Some(cache)) => {
                Some(growth.factors(cache.positions(), x.dim(1)?, x.dtype())?)
            }
            _ => None,
        };
        for (layer, cache) in layers.iter().zip(cache) {
            let mask = masks.of(layer.window);
            x = layer.forward(&x, growth.as_ref(), mask, cache.as_mut())?;
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
