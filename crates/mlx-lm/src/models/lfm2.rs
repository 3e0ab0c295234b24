//! LFM2 ("LFM2 Technical Report", 2025), dense or with experts: short gated convolutions between
//! a few layers of attention.
//!
//! Follows `mlx_lm/models/lfm2.py` and `lfm2_moe.py` of mlx-lm 0.32.2.

use mlx_core::ops::arithmetic::sigmoid;
use mlx_core::ops::indexing::take_along_axis;
use mlx_core::ops::misc::astype;
use mlx_core::ops::reduction::sum_axes;
use mlx_core::ops::shape::{reshape, split, transpose_axes};
use mlx_core::{Array, Dtype};
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Conv1d, Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField,
    SwitchGlu, Weights,
};
use serde::Deserialize;

use super::causal_conv::{causal_conv, conv1d_from_torch, convolve};
use super::experts::{best, weighted_sum};
use super::heads;
use super::parts::three;
use crate::cache::{
    Attend, Cache, CacheOptions, KindMasks, LayerCache, LayerKind, StateCache, as_state,
    attention_cache,
};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape an LFM2 model; those of experts are absent from a dense
/// one.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub num_attention_heads: i32,
    #[serde(default)]
    pub num_key_value_heads: Option<i32>,
    pub norm_eps: f32,
    pub vocab_size: i32,
    #[serde(default)]
    pub conv_bias: bool,
    #[serde(rename = "conv_L_cache")]
    pub conv_l_cache: i32,
    #[serde(default)]
    pub intermediate_size: Option<i32>,
    #[serde(default)]
    pub block_ff_dim: Option<i32>,
    #[serde(default)]
    pub block_multiple_of: Option<i32>,
    #[serde(default)]
    pub block_ffn_dim_multiplier: Option<f64>,
    #[serde(default)]
    pub block_auto_adjust_ff_dim: bool,
    #[serde(default)]
    pub num_experts: i32,
    #[serde(default)]
    pub num_experts_per_tok: i32,
    #[serde(default)]
    pub num_dense_layers: i32,
    #[serde(default)]
    pub moe_intermediate_size: i32,
    #[serde(default)]
    pub norm_topk_prob: bool,
    #[serde(default)]
    pub use_expert_bias: bool,
    #[serde(default = "default_routed_scaling_factor")]
    pub routed_scaling_factor: f32,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
    #[serde(default)]
    pub full_attn_idxs: Option<Vec<i32>>,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default)]
    pub tie_embedding: Option<bool>,
    #[serde(default)]
    pub tie_word_embeddings: Option<bool>,
}

fn default_routed_scaling_factor() -> f32 {
    1.0
}

/// The rotary base where a configuration does not say.
const ROPE_THETA: f32 = 1_000_000.0;

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
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("num_key_value_heads", self.num_key_value_heads())?;
        config::positive("vocab_size", self.vocab_size)?;
        config::positive("conv_L_cache", self.conv_l_cache)?;
        config::divisible(
            "hidden_size",
            self.hidden_size,
            "num_attention_heads",
            self.num_attention_heads,
        )?;
        config::divisible(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads(),
        )?;
        if self.hidden_size.checked_mul(3).is_none() {
            return Err(Error::config("hidden_size", "is too large"));
        }
        if self.tie_embedding.or(self.tie_word_embeddings) == Some(false) {
            return Err(Error::config(
                "tie_word_embeddings",
                "`false` is not supported: LFM2 has no output head of its own",
            ));
        }
        self.feed_forward()?;
        if self.num_experts > 0 {
            config::positive("num_experts_per_tok", self.num_experts_per_tok)?;
            config::positive("moe_intermediate_size", self.moe_intermediate_size)?;
            if self.num_experts_per_tok > self.num_experts {
                let message = format!("{} of {}", self.num_experts_per_tok, self.num_experts);
                return Err(Error::config("num_experts_per_tok", message));
            }
        }
        self.attends().map(|_| ())
    }

    fn num_key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    fn head_dim(&self) -> i32 {
        self.hidden_size / self.num_attention_heads
    }

    /// Whether each layer attends; the others convolve.
    fn attends(&self) -> Result<Vec<bool>> {
        if let Some(indices) = &self.full_attn_idxs {
            let attends = |layer: i32| indices.contains(&layer);
            return Ok((0..self.num_hidden_layers).map(attends).collect());
        }
        let Some(layer_types) = &self.layer_types else {
            return Err(Error::config("layer_types", "is missing"));
        };
        if i32::try_from(layer_types.len()) != Ok(self.num_hidden_layers) {
            let message = format!(
                "has {} entries for num_hidden_layers = {}",
                layer_types.len(),
                self.num_hidden_layers
            );
            return Err(Error::config("layer_types", message));
        }
        let attends = |layer_type: &String| match layer_type.as_str() {
            "full_attention" => Ok(true),
            "conv" => Ok(false),
            other => Err(Error::config(
                "layer_types",
                format!("`{other}` is not supported"),
            )),
        };
        layer_types.iter().map(attends).collect()
    }

    /// The width of the dense feed-forward blocks: as stated, or two thirds of that, rounded up.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the original truncates, and the range is checked"
    )]
    fn feed_forward(&self) -> Result<i32> {
        let stated = self.block_ff_dim.or(self.intermediate_size);
        let stated = stated.ok_or_else(|| Error::config("intermediate_size", "is missing"))?;
        config::positive("intermediate_size", stated)?;
        if !self.block_auto_adjust_ff_dim {
            return Ok(stated);
        }
        let multiple = self.block_multiple_of.unwrap_or(1);
        config::positive("block_multiple_of", multiple)?;
        let mut width = f64::from(stated) * 2.0 / 3.0;
        if let Some(factor) = self.block_ffn_dim_multiplier {
            width = factor * width.trunc();
        }
        if !(1.0..1e9).contains(&width) {
            let message = format!("the feed-forward width would be {width}");
            return Err(Error::config("block_ffn_dim_multiplier", message));
        }
        let width = (width as i32).saturating_add(multiple - 1);
        Ok(width / multiple * multiple)
    }

    fn rope(&self) -> Result<Rope> {
        let rope = config::RopeConfig {
            head_dim: self.head_dim(),
            theta: Some(self.rope_theta.unwrap_or(ROPE_THETA)),
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        };
        rope.build()
    }
}

#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    q_layernorm: RmsNorm,
    k_layernorm: RmsNorm,
    rope: Rope,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    scale: f32,
}

impl Attention {
    fn new(config: &Config) -> Result<Self> {
        let (dim, head_dim, eps) = (config.hidden_size, config.head_dim(), config.norm_eps);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads());
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, false)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, false)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, false)?,
            out_proj: Linear::placeholder(heads * head_dim, dim, false)?,
            q_layernorm: RmsNorm::new(head_dim, eps)?,
            k_layernorm: RmsNorm::new(head_dim, eps)?,
            rope: config.rope()?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config::attention_scale(head_dim),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let normed = |projected: Array, heads: i32, norm: &RmsNorm| -> Result<Array> {
            let heads_last = reshape(&projected, &[batch, length, heads, -1])?;
            Ok(transpose_axes(&norm.forward(&heads_last)?, &[0, 2, 1, 3])?) // [B, H, L, D]
        };
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let queries = normed(self.q_proj.forward(x)?, heads, &self.q_layernorm)?;
        let keys = normed(self.k_proj.forward(x)?, kv_heads, &self.k_layernorm)?;
        let values = heads::split(&self.v_proj.forward(x)?, kv_heads)?;

        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;

        let attend = Attend::new(self.scale, mask);
        let output = cache.attend(&queries, &keys, &values, attend)?;
        Ok(self.out_proj.forward(&heads::merge(&output)?)?)
    }
}

/// A convolution over a few tokens, gated before and after.
#[derive(Debug, Module)]
struct ShortConv {
    conv: Conv1d,
    in_proj: Linear,
    out_proj: Linear,
}

impl ShortConv {
    fn new(config: &Config) -> Result<Self> {
        let (dim, bias) = (config.hidden_size, config.conv_bias);
        Ok(Self {
            conv: causal_conv(dim, config.conv_l_cache, bias)?,
            in_proj: Linear::placeholder(dim, 3 * dim, bias)?,
            out_proj: Linear::placeholder(dim, dim, bias)?,
        })
    }

    fn forward(&self, x: &Array, tokens: Option<&Array>, state: &mut StateCache) -> Result<Array> {
        let [before, after, x] = three(split(&self.in_proj.forward(x)?, 3, -1)?)?;
        let gated = (before * x)?;
        let mixed = convolve(&self.conv, &gated, state, 0, tokens)?;
        state.advance(gated.dim(1)?);
        Ok(self.out_proj.forward(&(after * mixed)?)?)
    }
}

#[derive(Debug, Module)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(dim: i32, hidden_dim: i32) -> Result<Self> {
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
struct SparseMoe {
    gate: Linear,
    switch_mlp: SwitchGlu,
    expert_bias: Option<Array>,
    top_k: i32,
    norm_topk_prob: bool,
    routed_scaling_factor: f32,
}

impl SparseMoe {
    fn new(config: &Config) -> Result<Self> {
        let (dim, experts) = (config.hidden_size, config.num_experts);
        let hidden_dim = config.moe_intermediate_size;
        let bias = config.use_expert_bias;
        Ok(Self {
            gate: Linear::placeholder(dim, experts, false)?,
            switch_mlp: SwitchGlu::placeholder(dim, hidden_dim, experts, false)?,
            expert_bias: match bias {
                true => Some(Array::zeros::<f32>(&[experts])?),
                false => None,
            },
            top_k: config.num_experts_per_tok,
            norm_topk_prob: config.norm_topk_prob,
            routed_scaling_factor: config.routed_scaling_factor,
        })
    }

    /// The bias takes part in choosing the experts, and not in weighting them.
    fn forward(&self, x: &Array) -> Result<Array> {
        let scores = sigmoid(&self.gate.forward(x)?)?;
        let ranks = match &self.expert_bias {
            Some(bias) => (astype(&scores, Dtype::Float32)? + bias)?,
            None => scores.clone(),
        };
        let chosen = best(&ranks, self.top_k)?;
        let mut scores = take_along_axis(&scores, &chosen, -1)?;
        if self.norm_topk_prob {
            scores = (&scores / (sum_axes(&scores, &[-1], true)? + 1e-6)?)?;
        }
        let scores = astype(&(scores * self.routed_scaling_factor)?, x.dtype())?;
        weighted_sum(&self.switch_mlp.forward(x, &chosen)?, &scores)
    }
}

#[derive(Debug, Module)]
enum FeedForward {
    Dense(Mlp),
    Sparse(SparseMoe),
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Option<Attention>,
    conv: Option<ShortConv>,
    feed_forward: FeedForward,
    operator_norm: RmsNorm,
    ffn_norm: RmsNorm,
}

impl Block {
    fn new(config: &Config, layer: i32, attends: bool) -> Result<Self> {
        let (self_attn, conv) = if attends {
            (Some(Attention::new(config)?), None)
        } else {
            (None, Some(ShortConv::new(config)?))
        };
        let feed_forward = if config.num_experts > 0 && layer >= config.num_dense_layers {
            FeedForward::Sparse(SparseMoe::new(config)?)
        } else {
            FeedForward::Dense(Mlp::new(config.hidden_size, config.feed_forward()?)?)
        };
        Ok(Self {
            self_attn,
            conv,
            feed_forward,
            operator_norm: RmsNorm::new(config.hidden_size, config.norm_eps)?,
            ffn_norm: RmsNorm::new(config.hidden_size, config.norm_eps)?,
        })
    }

    fn kind(&self) -> LayerKind {
        match self.conv {
            Some(_) => LayerKind::Recurrent,
            None => LayerKind::Full,
        }
    }

    fn forward(&self, x: &Array, masks: &KindMasks, cache: &mut dyn LayerCache) -> Result<Array> {
        let normed = self.operator_norm.forward(x)?;
        let mut x = x.clone();
        if let Some(conv) = &self.conv {
            x = (x + conv.forward(&normed, masks.tokens(), as_state(cache)?)?)?;
        }
        if let Some(self_attn) = &self.self_attn {
            x = (x + self_attn.forward(&normed, masks.of(LayerKind::Full), cache)?)?;
        }
        let normed = self.ffn_norm.forward(&x)?;
        let transformed = match &self.feed_forward {
            FeedForward::Dense(mlp) => mlp.forward(&normed)?,
            FeedForward::Sparse(experts) => experts.forward(&normed)?,
        };
        Ok((x + transformed)?)
    }
}

#[derive(Debug, Module)]
struct Lfm2 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    embedding_norm: RmsNorm,
}

/// An LFM2 model; its embeddings are its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Lfm2,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let layers = (0..).zip(config.attends()?);
        let layers = layers.map(|(layer, attends)| Block::new(&config, layer, attends));
        let model = Lfm2 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers: layers.collect::<Result<_>>()?,
            embedding_norm: RmsNorm::new(config.hidden_size, config.norm_eps)?,
        };
        Ok(Self { model, config })
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
        Ok(self.model.embedding_norm.forward(&x)?)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        Ok(self.model.embed_tokens.as_linear(hidden)?)
    }

    fn make_cache(&self, options: &CacheOptions) -> Cache {
        let entry = |layer: &Block| -> Box<dyn LayerCache> {
            match layer.kind() {
                LayerKind::Recurrent => Box::new(StateCache::new(1)),
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
}

/// Renames and drops weights so that exactly the model's own remain.
///
/// # Errors
/// Fails if two weights would end up under one key, or an expert is missing.
pub fn sanitize(config: &Config, weights: &mut Weights) -> Result<()> {
    conv1d_from_torch(weights, ".conv.conv.weight")?;
    weights.rename_with(|key| {
        let (rest, part) = key.rsplit_once('.')?;
        let (rest, name) = rest.rsplit_once('.')?;
        let name = match name {
            "w1" => "gate_proj",
            "w2" => "down_proj",
            "w3" => "up_proj",
            _ => return None,
        };
        Some(format!("{rest}.{name}.{part}"))
    })?;
    let experts = usize::try_from(config.num_experts).unwrap_or(0);
    weights.stack_experts("feed_forward.experts", "feed_forward.switch_mlp", experts)?;
    weights.drop_prefix("lm_head.");
    Ok(())
}
