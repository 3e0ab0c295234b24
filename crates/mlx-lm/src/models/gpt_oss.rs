//! gpt-oss ("gpt-oss-120b & gpt-oss-20b Model Card", 2025): sliding and full layers in turn, a learned
//! sink in each head's softmax, and experts with biases and a bounded, shifted SwiGLU.
//!
//! Follows `mlx_lm/models/gpt_oss.py` of mlx-lm 0.32.2, and transformers where that reads experts that
//! are not in mxfp4.

use mlx_core::ops::arithmetic::{clip, minimum, sigmoid};
use mlx_core::ops::indexing::{take, take_along_axis};
use mlx_core::ops::misc::view;
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with};
use mlx_core::ops::shape::{contiguous, flatten, swapaxes};
use mlx_core::{Array, Dtype};
use mlx_nn::{
    Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField, SwitchGlu,
    Weights,
};
use serde::Deserialize;

use super::{experts, heads, sanitize};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a gpt-oss model.
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
    pub experts_per_token: Option<i32>,
    #[serde(default)]
    pub sliding_window: Option<i32>,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default = "config::yes")]
    pub attention_bias: bool,
    #[serde(default = "default_swiglu_alpha")]
    pub swiglu_alpha: f32,
    #[serde(default = "default_swiglu_limit")]
    pub swiglu_limit: f32,
    #[serde(default)]
    pub initial_context_length: Option<i32>,
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

fn default_swiglu_alpha() -> f32 {
    1.702
}

fn default_swiglu_limit() -> f32 {
    7.0
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
        config::experts(
            "num_experts_per_tok",
            self.num_experts_per_tok,
            "num_local_experts",
            self.num_local_experts,
        )?;
        self.windows().map(|_| ())
    }

    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or(64)
    }

    fn num_key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// The sliding window of each layer: every other one has it, the first too.
    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let slides = match &self.layer_types {
            Some(layer_types) => config::sliding_layers(layer_types, self.num_hidden_layers)?,
            None => (0..self.num_hidden_layers)
                .map(|layer| layer % 2 == 0)
                .collect(),
        };
        config::windows(&slides, self.sliding_window)
    }

    fn rope(&self, slides: bool) -> Result<Rope> {
        config::RopeConfig {
            head_dim: self.head_dim(),
            slides,
            theta: self.rope_theta.or(Some(150_000.0)),
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
    sinks: Array,
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
            sinks: Array::zeros::<f32>(&[heads])?,
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

        let attend = Attend::new(self.scale, mask).sinks(Some(&self.sinks));
        let output = cache.attend(&queries, &keys, &values, attend)?;
        Ok(self.o_proj.forward(&heads::merge(&output)?)?)
    }
}

/// A router over experts.
#[derive(Debug, Module)]
struct Mlp {
    router: Linear,
    experts: SwitchGlu,
    num_experts_per_tok: i32,
    alpha: f32,
    limit: f32,
}

impl Mlp {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.intermediate_size);
        let experts = config.num_local_experts;
        Ok(Self {
            router: Linear::placeholder(dim, experts, true)?,
            experts: SwitchGlu::placeholder(dim, hidden_dim, experts, true)?,
            num_experts_per_tok: config.num_experts_per_tok,
            alpha: config.swiglu_alpha,
            limit: config.swiglu_limit,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let logits = self.router.forward(x)?;
        let chosen = experts::best(&logits, self.num_experts_per_tok)?;
        let logits = take_along_axis(&logits, &chosen, -1)?;
        let weights = softmax_with(&logits, &[-1], SoftmaxOptions::default().precise(true))?;
        let outputs = self
            .experts
            .forward_with(x, &chosen, |up, gate| self.activation(up, gate))?;
        experts::weighted_sum(&outputs, &weights)
    }

    /// `(up + 1) · gate · sigmoid(α · gate)`, where the gate is bounded from above only.
    fn activation(&self, up: &Array, gate: &Array) -> mlx_nn::Result<Array> {
        let limit = Array::scalar_dtype(f64::from(self.limit), gate.dtype())?;
        let gate = minimum(gate, &limit)?;
        let up = clip(up, Some(&(-&limit)?), Some(&limit))?;
        let gated = (&gate * sigmoid(&(&gate * self.alpha)?)?)?;
        Ok(((up + 1.0)? * gated)?)
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
            self_attn: Attention::new(config, config.rope(window.is_some())?)?,
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
struct GptOss {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A gpt-oss model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: GptOss,
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
        let model = GptOss {
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
    sanitize::tied_head(weights, config.tie_word_embeddings);
    let published: Vec<String> = weights
        .keys()
        .filter(|key| {
            [".experts.gate_up_proj", ".experts.down_proj"]
                .iter()
                .any(|part| key.contains(part))
        })
        .filter(|key| !key.contains("_proj."))
        .map(str::to_owned)
        .collect();
    for key in published {
        let Some((path, name)) = key.rsplit_once('.') else {
            continue;
        };
        let array = weights
            .take(&key)
            .ok_or_else(|| Error::weights("a key vanished"))?;
        let (matrix, kind) = match name.split_once("_proj") {
            Some((matrix, kind)) => (matrix, kind),
            None => continue,
        };
        let (part, array) = match kind {
            // mxfp4 codes `[E, out, in / 32, 16]` are MLX's own, in bytes.
            "_blocks" => ("weight", flatten(&view(&array, Dtype::Uint32)?, -2, -1)?),
            "_scales" => ("scales", array),
            "_bias" => ("bias", array),
            // Dense experts are stored `[E, in, out]`.
            _ => ("weight", contiguous(&swapaxes(&array, -1, -2)?, false)?),
        };
        if matrix == "down" {
            weights.insert(format!("{path}.down_proj.{part}"), array)?;
            continue;
        }
        // The rows of gate and up alternate.
        for (first, half) in [(0, "gate_proj"), (1, "up_proj")] {
            let axis = if part == "bias" { -1 } else { -2 };
            let rows = Array::arange_dtype(
                f64::from(first),
                f64::from(array.dim(axis)?),
                2.0,
                Dtype::Int32,
            )?;
            let half_array = contiguous(&take(&array, &rows, axis)?, false)?;
            weights.insert(format!("{path}.{half}.{part}"), half_array)?;
        }
    }
    Ok(())
}
