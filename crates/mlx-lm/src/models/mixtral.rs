//! Mixtral ("Mixtral of Experts", 2024): a Mistral of which the MLP is a mixture of experts, weighted
//! by a softmax over those chosen.
//!
//! Follows `mlx_lm/models/mixtral.py` of mlx-lm 0.32.2, and transformers where that slides.

use mlx_core::Array;
use mlx_core::ops::indexing::take_along_axis;
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with};
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

/// The keys of `config.json` that shape a Mixtral model.
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
    pub num_local_experts: i32,
    pub num_experts_per_tok: i32,
    #[serde(default)]
    pub sliding_window: Option<i32>,
    #[serde(default)]
    pub router_jitter_noise: Option<f32>,
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
        config::experts(
            "num_experts_per_tok",
            self.num_experts_per_tok,
            "num_local_experts",
            self.num_local_experts,
        )?;
        self.windows().map(|_| ())
    }

    fn head_dim(&self) -> i32 {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
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

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let keys = heads::split(&self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads::split(&self.v_proj.forward(x)?, self.num_key_value_heads)?;

        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;

        let output = cache.attend(&queries, &keys, &values, Attend::new(self.scale, mask))?;
        Ok(self.o_proj.forward(&heads::merge(&output)?)?)
    }
}

/// A router over experts.
#[derive(Debug, Module)]
struct Moe {
    gate: Linear,
    switch_mlp: SwitchGlu,
    num_experts_per_tok: i32,
}

impl Moe {
    fn new(config: &Config) -> Result<Self> {
        let (dim, experts) = (config.hidden_size, config.num_local_experts);
        Ok(Self {
            gate: Linear::placeholder(dim, experts, false)?,
            switch_mlp: SwitchGlu::placeholder(dim, config.intermediate_size, experts, false)?,
            num_experts_per_tok: config.num_experts_per_tok,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let logits = self.gate.forward(x)?;
        let chosen = experts::best(&logits, self.num_experts_per_tok)?;
        let logits = take_along_axis(&logits, &chosen, -1)?;
        let weights = softmax_with(&logits, &[-1], SoftmaxOptions::default().precise(true))?;
        experts::weighted_sum(&self.switch_mlp.forward(x, &chosen)?, &weights)
    }
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    block_sparse_moe: Moe,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    window: Option<i32>,
}

impl Block {
    fn new(config: &Config, window: Option<i32>) -> Result<Self> {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: Attention::new(config, config.rope(window.is_some())?)?,
            block_sparse_moe: Moe::new(config)?,
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
            .block_sparse_moe
            .forward(&self.post_attention_layernorm.forward(&x)?)?;
        Ok((x + transformed)?)
    }
}

#[derive(Debug, Module)]
struct Mixtral {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Mixtral model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Mixtral,
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
        let layers = config
            .windows()?
            .into_iter()
            .map(|window| Block::new(&config, window))
            .collect::<Result<_>>()?;
        let model = Mixtral {
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
    // The published names of an expert's matrices, and where transformers 5 keeps the experts.
    for (published, own) in [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")] {
        weights.rename_with(|key| {
            let (path, part) = key.rsplit_once('.')?;
            let path = path.strip_suffix(published)?.strip_suffix('.')?;
            path.contains(".experts.")
                .then(|| format!("{path}.{own}.{part}"))
        })?;
    }
    weights.rename_with(|key| {
        let fused = [".mlp.experts.", ".mlp.gate."]
            .iter()
            .any(|part| key.contains(part));
        fused.then(|| key.replace(".mlp.", ".block_sparse_moe."))
    })?;
    let experts = config.num_local_experts;
    sanitize::experts(weights, "experts", "switch_mlp", experts)?;
    Ok(())
}
