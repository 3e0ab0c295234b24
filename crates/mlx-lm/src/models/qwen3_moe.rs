//! Qwen3-MoE ("Qwen3 Technical Report", 2025): Qwen3 with a mixture of experts for most MLPs, chosen
//! by a softmax over all of them.
//!
//! Follows `mlx_lm/models/qwen3_moe.py` of mlx-lm 0.32.2, and transformers where that reads
//! `rope_scaling` and slides.

use mlx_core::Array;
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField, SwitchGlu,
    Weights,
};
use serde::Deserialize;

use super::{experts, heads, sanitize};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{LanguageModel, Result};

/// The keys of `config.json` that shape a Qwen3-MoE model.
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
    pub num_experts: i32,
    pub num_experts_per_tok: i32,
    pub moe_intermediate_size: i32,
    #[serde(default = "one")]
    pub decoder_sparse_step: i32,
    #[serde(default)]
    pub mlp_only_layers: Vec<i32>,
    #[serde(default)]
    pub norm_topk_prob: bool,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub use_sliding_window: bool,
    #[serde(default)]
    pub sliding_window: Option<i32>,
    #[serde(default)]
    pub max_window_layers: Option<i32>,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default)]
    pub output_router_logits: Option<bool>,
    #[serde(default)]
    pub router_aux_loss_coef: Option<f32>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
}

fn one() -> i32 {
    1
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first field that is missing or unsupported.
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
        config::positive("moe_intermediate_size", self.moe_intermediate_size)?;
        config::positive("decoder_sparse_step", self.decoder_sparse_step)?;
        if self.num_experts > 0 {
            config::experts(
                "num_experts_per_tok",
                self.num_experts_per_tok,
                "num_experts",
                self.num_experts,
            )?;
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

    /// Whether the MLP of a layer is a mixture of experts.
    fn is_sparse(&self, layer: i32) -> bool {
        !self.mlp_only_layers.contains(&layer)
            && self.num_experts > 0
            && (layer + 1) % self.decoder_sparse_step == 0
    }

    /// The sliding window of each layer; without `layer_types`, the layers from
    /// `max_window_layers` on slide if any do.
    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let window = self.sliding_window.filter(|_| self.use_sliding_window);
        let slides = match (&self.layer_types, window) {
            (Some(layer_types), Some(_)) => {
                config::sliding_layers(layer_types, self.num_hidden_layers)?
            }
            _ => {
                let first = self.max_window_layers.unwrap_or(0);
                (0..self.num_hidden_layers)
                    .map(|layer| window.is_some() && layer >= first)
                    .collect()
            }
        };
        config::windows(&slides, window)
    }

    fn rope(&self, slides: bool) -> Result<Rope> {
        config::RopeConfig {
            head_dim: self.head_dim(),
            slides,
            theta: self.rope_theta.or(Some(1_000_000.0)),
            scaling: self.rope_scaling.as_ref(),
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
    q_norm: RmsNorm,
    k_norm: RmsNorm,
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
            q_proj: Linear::placeholder(dim, heads * head_dim, config.attention_bias)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, config.attention_bias)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, config.attention_bias)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, config.attention_bias)?,
            q_norm: RmsNorm::new(head_dim, config.rms_norm_eps)?,
            k_norm: RmsNorm::new(head_dim, config.rms_norm_eps)?,
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
        let queries = self.q_norm.forward(&queries)?;
        let keys = self.k_norm.forward(&keys)?;

        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;

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
    fn new(config: &Config, hidden_dim: i32) -> Result<Self> {
        let dim = config.hidden_size;
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

/// A router over experts.
#[derive(Debug, Module)]
struct Moe {
    gate: Linear,
    switch_mlp: SwitchGlu,
    num_experts_per_tok: i32,
    norm_topk_prob: bool,
}

impl Moe {
    fn new(config: &Config) -> Result<Self> {
        let (dim, experts) = (config.hidden_size, config.num_experts);
        let hidden_dim = config.moe_intermediate_size;
        Ok(Self {
            gate: Linear::placeholder(dim, experts, false)?,
            switch_mlp: SwitchGlu::placeholder(dim, hidden_dim, experts, false)?,
            num_experts_per_tok: config.num_experts_per_tok,
            norm_topk_prob: config.norm_topk_prob,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let logits = self.gate.forward(x)?;
        let (chosen, weights) =
            experts::softmax_top_k(&logits, self.num_experts_per_tok, self.norm_topk_prob)?;
        experts::weighted_sum(&self.switch_mlp.forward(x, &chosen)?, &weights)
    }
}

#[derive(Debug, Module)]
enum FeedForward {
    Dense(Box<Mlp>),
    Sparse(Box<Moe>),
}

impl FeedForward {
    fn new(config: &Config, layer: i32) -> Result<Self> {
        Ok(match config.is_sparse(layer) {
            true => Self::Sparse(Box::new(Moe::new(config)?)),
            false => Self::Dense(Box::new(Mlp::new(config, config.intermediate_size)?)),
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Sparse(moe) => moe.forward(x),
        }
    }
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    mlp: FeedForward,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    window: Option<i32>,
}

impl Block {
    fn new(config: &Config, window: Option<i32>, layer: i32) -> Result<Self> {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: Attention::new(config, config.rope(window.is_some())?)?,
            mlp: FeedForward::new(config, layer)?,
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
struct Qwen3Moe {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Qwen3-MoE model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Qwen3Moe,
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
        let layers = (0..)
            .zip(config.windows()?)
            .map(|(layer, window)| Block::new(&config, window, layer))
            .collect::<Result<_>>()?;
        let model = Qwen3Moe {
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
    // Qwen3-VL is published with its experts the other way round.
    sanitize::turned_experts(weights, "experts", config.hidden_size)?;
    sanitize::experts(weights, "experts", "switch_mlp", config.num_experts)?;
    Ok(())
}
