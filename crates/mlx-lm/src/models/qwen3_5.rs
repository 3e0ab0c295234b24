//! Qwen3.5 ("Qwen3.5: Towards Native Multimodal Agents", 2026), dense or with experts: the layers
//! of Qwen3-Next with separate projections. The text part of a multimodal checkpoint is loaded.
//!
//! Follows `mlx_lm/models/qwen3_5.py` and `qwen3_5_moe.py` of mlx-lm 0.32.2, and transformers
//! where that reads `layer_types`.

use mlx_core::Array;
use mlx_core::ops::shape::reshape;
use mlx_nn::{
    Conv1d, Embedding, Linear, Module, RmsNorm, RopeParameters, RopeParametersField, Weights,
};
use serde::Deserialize;

use super::gated_delta_net::{DeltaConfig, DeltaRule, Projected, SLOTS};
use super::qwen_mtp::{self, Mtp};
use super::qwen3_next::{
    Attention, AttentionConfig, ExpertsConfig, FeedForward, Mlp, SparseMoe, adapt, linear_layers,
};
use super::{next_token, sanitize};
use crate::cache::{
    Cache, CacheOptions, KindMasks, LayerCache, LayerKind, StateCache, as_state, attention_cache,
};
use crate::config;
use crate::generate::MultiToken;
use crate::registry::{ConfigMap, Input};
use crate::{LanguageModel, Result};

/// The keys of `config.json`, or of its `text_config`, that shape a Qwen3.5 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    #[serde(default)]
    pub intermediate_size: Option<i32>,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    #[serde(default)]
    pub head_dim: Option<i32>,
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    pub linear_num_value_heads: i32,
    pub linear_num_key_heads: i32,
    pub linear_key_head_dim: i32,
    pub linear_value_head_dim: i32,
    pub linear_conv_kernel_dim: i32,
    #[serde(default)]
    pub num_experts: i32,
    #[serde(default)]
    pub num_experts_per_tok: i32,
    #[serde(default)]
    pub moe_intermediate_size: i32,
    #[serde(default)]
    pub shared_expert_intermediate_size: i32,
    #[serde(default = "default_norm_topk_prob")]
    pub norm_topk_prob: bool,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub attn_output_gate: Option<bool>,
    #[serde(default = "default_interval")]
    pub full_attention_interval: i32,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default)]
    pub partial_rotary_factor: Option<f32>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// What the weights have of a head for the token after the next one, as `sanitize` found it.
    #[serde(skip)]
    mtp: Option<qwen_mtp::Stored>,
}

fn default_interval() -> i32 {
    4
}

fn default_norm_topk_prob() -> bool {
    true
}

/// The rotated part of each head where a configuration does not say.
const PARTIAL_ROTARY_FACTOR: f32 = 0.25;
/// The rotary base where a configuration does not say.
const ROPE_THETA: f32 = 100_000.0;

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
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("vocab_size", self.vocab_size)?;
        config::silu(&self.hidden_act)?;
        config::switch("attn_output_gate", self.attn_output_gate, true)?;
        if self.num_experts == 0 {
            config::positive("intermediate_size", self.intermediate_size.unwrap_or(0))?;
        }
        if self.head_dim.is_none() {
            config::divisible(
                "hidden_size",
                self.hidden_size,
                "num_attention_heads",
                self.num_attention_heads,
            )?;
        }
        self.attention().validate()?;
        self.experts().validate()?;
        self.delta().validate()?;
        self.linear_layers().map(|_| ())
    }

    fn linear_layers(&self) -> Result<Vec<bool>> {
        linear_layers(
            self.layer_types.as_deref(),
            self.full_attention_interval,
            self.num_hidden_layers,
        )
    }

    fn attention(&self) -> AttentionConfig {
        let head_dim = self.head_dim.unwrap_or_else(|| {
            self.hidden_size
                .checked_div(self.num_attention_heads)
                .unwrap_or(0)
        });
        AttentionConfig {
            hidden_size: self.hidden_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim,
            rms_norm_eps: self.rms_norm_eps,
            attention_bias: self.attention_bias,
            rope_theta: Some(self.rope_theta.unwrap_or(ROPE_THETA)),
            partial_rotary_factor: Some(
                self.partial_rotary_factor.unwrap_or(PARTIAL_ROTARY_FACTOR),
            ),
            rope_scaling: self.rope_scaling.clone(),
            rope_parameters: self.rope_parameters.clone(),
            max_position_embeddings: self.max_position_embeddings,
        }
    }

    fn experts(&self) -> ExpertsConfig {
        ExpertsConfig {
            hidden_size: self.hidden_size,
            num_experts: self.num_experts,
            num_experts_per_tok: self.num_experts_per_tok,
            norm_topk_prob: self.norm_topk_prob,
            moe_intermediate_size: self.moe_intermediate_size,
            shared_expert_intermediate_size: self.shared_expert_intermediate_size,
        }
    }

    fn delta(&self) -> DeltaConfig {
        DeltaConfig {
            hidden_size: self.hidden_size,
            linear_num_value_heads: self.linear_num_value_heads,
            linear_num_key_heads: self.linear_num_key_heads,
            linear_key_head_dim: self.linear_key_head_dim,
            linear_value_head_dim: self.linear_value_head_dim,
            linear_conv_kernel_dim: self.linear_conv_kernel_dim,
            rms_norm_eps: self.rms_norm_eps,
        }
    }
}

/// The gated delta rule with a projection for each of its inputs.
#[derive(Debug, Module)]
struct GatedDeltaNet {
    in_proj_qkv: Linear,
    in_proj_z: Linear,
    in_proj_b: Linear,
    in_proj_a: Linear,
    conv1d: Conv1d,
    dt_bias: Array,
    #[module(name = "A_log")]
    a_log: Array,
    norm: RmsNorm,
    out_proj: Linear,
    #[module(skip)]
    config: DeltaConfig,
}

impl GatedDeltaNet {
    fn new(config: DeltaConfig) -> Result<Self> {
        let (dim, heads) = (config.hidden_size, config.linear_num_value_heads);
        let (key_dim, value_dim) = (config.key_dim(), config.value_dim());
        let qkv = key_dim.saturating_mul(2).saturating_add(value_dim);
        Ok(Self {
            in_proj_qkv: Linear::placeholder(dim, qkv, false)?,
            in_proj_z: Linear::placeholder(dim, value_dim, false)?,
            in_proj_b: Linear::placeholder(dim, heads, false)?,
            in_proj_a: Linear::placeholder(dim, heads, false)?,
            conv1d: config.convolution()?,
            dt_bias: Array::ones::<f32>(&[heads])?,
            a_log: Array::zeros::<f32>(&[heads])?,
            norm: RmsNorm::new(config.linear_value_head_dim, config.rms_norm_eps)?,
            out_proj: Linear::placeholder(value_dim, dim, false)?,
            config,
        })
    }

    fn forward(&self, x: &Array, tokens: Option<&Array>, state: &mut StateCache) -> Result<Array> {
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let value_dim = self.config.linear_value_head_dim;
        let projected = Projected {
            qkv: self.in_proj_qkv.forward(x)?,
            z: reshape(&self.in_proj_z.forward(x)?, &[batch, length, -1, value_dim])?,
            b: self.in_proj_b.forward(x)?,
            a: self.in_proj_a.forward(x)?,
        };
        let rule = DeltaRule {
            config: &self.config,
            conv1d: &self.conv1d,
            dt_bias: &self.dt_bias,
            a_log: &self.a_log,
            norm: &self.norm.weight,
        };
        Ok(self
            .out_proj
            .forward(&rule.run(&projected, tokens, state)?)?)
    }
}

#[derive(Debug, Module)]
struct Block {
    linear_attn: Option<GatedDeltaNet>,
    self_attn: Option<Attention>,
    mlp: FeedForward,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl Block {
    fn new(config: &Config, linear: bool) -> Result<Self> {
        let mlp = if config.num_experts > 0 {
            FeedForward::Sparse(SparseMoe::new(&config.experts())?)
        } else {
            let hidden_dim = config.intermediate_size.unwrap_or(0);
            FeedForward::Dense(Mlp::new(config.hidden_size, hidden_dim)?)
        };
        let (linear_attn, self_attn) = if linear {
            (Some(GatedDeltaNet::new(config.delta())?), None)
        } else {
            (None, Some(Attention::new(&config.attention())?))
        };
        Ok(Self {
            linear_attn,
            self_attn,
            mlp,
            input_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
            post_attention_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
        })
    }

    fn kind(&self) -> LayerKind {
        match self.linear_attn {
            Some(_) => LayerKind::Recurrent,
            None => LayerKind::Full,
        }
    }

    fn forward(&self, x: &Array, masks: &KindMasks, cache: &mut dyn LayerCache) -> Result<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let mut x = x.clone();
        if let Some(linear_attn) = &self.linear_attn {
            x = (x + linear_attn.forward(&normed, masks.tokens(), as_state(cache)?)?)?;
        }
        if let Some(self_attn) = &self.self_attn {
            x = (x + self_attn.forward(&normed, masks.of(LayerKind::Full), cache)?)?;
        }
        let transformed = self
            .mlp
            .forward(&self.post_attention_layernorm.forward(&x)?)?;
        Ok((x + transformed)?)
    }
}

#[derive(Debug, Module)]
struct Qwen35 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Qwen3.5 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Qwen35,
    lm_head: Option<Linear>,
    mtp: Option<Mtp>,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let linear = config.linear_layers()?.into_iter();
        let layers = linear.map(|linear| Block::new(&config, linear));
        let model = Qwen35 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers: layers.collect::<Result<_>>()?,
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
        let mtp = |stored: qwen_mtp::Stored| {
            let hidden_dim = config.intermediate_size.unwrap_or(0);
            let mlp = match stored.sparse {
                true => FeedForward::Sparse(SparseMoe::new(&config.experts())?),
                false => FeedForward::Dense(Mlp::new(config.hidden_size, hidden_dim)?),
            };
            Mtp::new(&config.attention(), mlp)
        };
        let mtp = config.mtp.map(mtp).transpose()?;
        Ok(Self {
            model,
            lm_head,
            mtp,
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
        let masks = KindMasks::new(cache, layers.iter().map(Block::kind), x.dim(1)?)?;
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, &masks, cache.as_mut())?;
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
        let entry = |layer: &Block| -> Box<dyn LayerCache> {
            match layer.kind() {
                LayerKind::Recurrent => Box::new(StateCache::new(SLOTS)),
                _ => attention_cache(None, options),
            }
        };
        self.model.layers.iter().map(entry).collect()
    }

    fn vocab_size(&self) -> i32 {
        self.config.vocab_size
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        self.config.max_position_embeddings
    }

    fn multi_token(&self) -> Option<&dyn MultiToken> {
        self.mtp.as_ref().map(|_| -> &dyn MultiToken { self })
    }
}

impl MultiToken for Model {
    fn make_cache(&self) -> Cache {
        vec![attention_cache(None, &CacheOptions::default())]
    }

    fn hidden(
        &self,
        hidden: &Array,
        tokens: &Array,
        cache: &mut [Box<dyn LayerCache>],
    ) -> Result<Array> {
        let mtp = self.mtp.as_ref().ok_or_else(next_token::missing)?;
        mtp.hidden(hidden, &self.embed(tokens)?, cache)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        LanguageModel::logits(self, hidden)
    }
}

/// Renames and drops weights so that exactly the model's own remain, and notes in the configuration
/// whether a head for the token after the next one is among them.
///
/// # Errors
/// Fails if two weights would end up under one key, or an expert is missing.
pub fn sanitize(config: &mut Config, weights: &mut Weights) -> Result<()> {
    config.mtp = qwen_mtp::keep(weights)?;
    let mtp = qwen_mtp::set_aside(weights);
    sanitize::text_part(weights)?;
    for (key, array) in mtp {
        weights.insert(key, array)?;
    }
    adapt(weights, config.num_experts)?;
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}
