//! Qwen3-Next ("Qwen3-Next: Towards Ultimate Training & Inference Efficiency", 2025): three
//! layers of gated delta rule for each of gated attention, and experts with a shared one.
//!
//! Follows `mlx_lm/models/qwen3_next.py` of mlx-lm 0.32.2, and transformers where that reads
//! `layer_types` and `rope_parameters`.

use mlx_core::Array;
use mlx_core::ops::arithmetic::sigmoid;
use mlx_core::ops::shape::{concatenate, reshape, split, split_at, transpose_axes};
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Conv1d, Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField,
    SwitchGlu, Weights,
};
use serde::Deserialize;

use super::causal_conv::conv1d_from_torch;
use super::experts::softmax_top_k;
use super::experts::weighted_sum;
use super::gated_delta_net::{DeltaConfig, DeltaRule, Projected, SLOTS};
use super::parts::{three, two};
use super::qwen_mtp::{self, Mtp};
use super::{next_token, sanitize};
use crate::cache::{
    Attend, Cache, CacheOptions, KindMasks, LayerCache, LayerKind, StateCache, as_state,
    attention_cache,
};
use crate::config;
use crate::generate::MultiToken;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Qwen3-Next model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    pub head_dim: i32,
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    pub linear_num_value_heads: i32,
    pub linear_num_key_heads: i32,
    pub linear_key_head_dim: i32,
    pub linear_value_head_dim: i32,
    pub linear_conv_kernel_dim: i32,
    pub num_experts: i32,
    pub num_experts_per_tok: i32,
    pub decoder_sparse_step: i32,
    pub moe_intermediate_size: i32,
    pub shared_expert_intermediate_size: i32,
    #[serde(default)]
    pub mlp_only_layers: Vec<i32>,
    #[serde(default)]
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
        config::positive("decoder_sparse_step", self.decoder_sparse_step)?;
        config::silu(&self.hidden_act)?;
        config::switch("attn_output_gate", self.attn_output_gate, true)?;
        self.attention().validate()?;
        self.experts().validate()?;
        self.delta().validate()?;
        linear_layers(
            self.layer_types.as_deref(),
            self.full_attention_interval,
            self.num_hidden_layers,
        )
        .map(|_| ())
    }

    fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            hidden_size: self.hidden_size,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            rms_norm_eps: self.rms_norm_eps,
            attention_bias: self.attention_bias,
            rope_theta: self.rope_theta,
            partial_rotary_factor: self.partial_rotary_factor,
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

    fn is_sparse(&self, layer: i32) -> bool {
        self.num_experts > 0
            && !self.mlp_only_layers.contains(&layer)
            && (layer + 1) % self.decoder_sparse_step == 0
    }
}

/// Whether each layer is linear: as `layer_types` says, or all but every `interval`th.
pub(super) fn linear_layers(
    layer_types: Option<&[String]>,
    interval: i32,
    num_hidden_layers: i32,
) -> Result<Vec<bool>> {
    let Some(layer_types) = layer_types else {
        config::positive("full_attention_interval", interval)?;
        let linear = |layer: i32| (layer + 1) % interval != 0;
        return Ok((0..num_hidden_layers).map(linear).collect());
    };
    if i32::try_from(layer_types.len()) != Ok(num_hidden_layers) {
        let message = format!(
            "has {} entries for num_hidden_layers = {num_hidden_layers}",
            layer_types.len()
        );
        return Err(Error::config("layer_types", message));
    }
    let linear = |layer_type: &String| match layer_type.as_str() {
        "linear_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => Err(Error::config(
            "layer_types",
            format!("`{other}` is not supported"),
        )),
    };
    layer_types.iter().map(linear).collect()
}

/// The shape of an attention layer, which Qwen3.5 shares.
#[derive(Debug, Clone)]
pub(super) struct AttentionConfig {
    pub(super) hidden_size: i32,
    pub(super) num_attention_heads: i32,
    pub(super) num_key_value_heads: i32,
    pub(super) head_dim: i32,
    pub(super) rms_norm_eps: f32,
    pub(super) attention_bias: bool,
    pub(super) rope_theta: Option<f32>,
    pub(super) partial_rotary_factor: Option<f32>,
    pub(super) rope_scaling: Option<RopeParameters>,
    pub(super) rope_parameters: Option<RopeParametersField>,
    pub(super) max_position_embeddings: Option<i32>,
}

impl AttentionConfig {
    pub(super) fn validate(&self) -> Result<()> {
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("num_key_value_heads", self.num_key_value_heads)?;
        config::positive("head_dim", self.head_dim)?;
        // The query projection is twice as wide, for the gate.
        config::heads(self.num_attention_heads.saturating_mul(2), self.head_dim)?;
        config::divisible(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )
    }

    fn rope(&self) -> Result<Rope> {
        let rope = config::RopeConfig {
            head_dim: self.head_dim,
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            partial_rotary_factor: self.partial_rotary_factor,
            ..config::RopeConfig::default()
        };
        rope.build()
    }
}

/// Attention whose output is gated by a second half of the query projection.
#[derive(Debug, Module)]
pub(super) struct Attention {
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
    pub(super) fn new(config: &AttentionConfig) -> Result<Self> {
        let (dim, head_dim) = (config.hidden_size, config.head_dim);
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let (bias, eps) = (config.attention_bias, config.rms_norm_eps);
        Ok(Self {
            q_proj: Linear::placeholder(dim, 2 * heads * head_dim, bias)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, bias)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, bias)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, bias)?,
            q_norm: RmsNorm::new(head_dim, eps)?,
            k_norm: RmsNorm::new(head_dim, eps)?,
            rope: config.rope()?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config::attention_scale(head_dim),
        })
    }

    pub(super) fn forward(
        &self,
        x: &Array,
        mask: &Mask,
        cache: &mut dyn LayerCache,
    ) -> Result<Array> {
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let heads_last = |projected: Array, heads: i32| -> Result<Array> {
            Ok(reshape(&projected, &[batch, length, heads, -1])?)
        };
        let heads_first = |x: &Array| transpose_axes(x, &[0, 2, 1, 3]);

        let queries = heads_last(self.q_proj.forward(x)?, self.num_attention_heads)?;
        let [queries, gate] = two(split(&queries, 2, -1)?)?;
        let gate = reshape(&gate, &[batch, length, -1])?;
        let keys = heads_last(self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads_last(self.v_proj.forward(x)?, self.num_key_value_heads)?;

        let queries = heads_first(&self.q_norm.forward(&queries)?)?;
        let keys = heads_first(&self.k_norm.forward(&keys)?)?;
        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;

        let attend = Attend::new(self.scale, mask);
        let output = cache.attend(&queries, &keys, &heads_first(&values)?, attend)?;
        let output = reshape(&heads_first(&output)?, &[batch, length, -1])?;
        Ok(self.o_proj.forward(&(output * sigmoid(&gate)?)?)?)
    }
}

/// The gated delta rule, whose projections are interleaved by key head.
#[derive(Debug, Module)]
struct GatedDeltaNet {
    in_proj_qkvz: Linear,
    in_proj_ba: Linear,
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
        let qkvz = key_dim.saturating_add(value_dim).saturating_mul(2);
        Ok(Self {
            in_proj_qkvz: Linear::placeholder(dim, qkvz, false)?,
            in_proj_ba: Linear::placeholder(dim, heads.saturating_mul(2), false)?,
            conv1d: config.convolution()?,
            dt_bias: Array::ones::<f32>(&[heads])?,
            a_log: Array::zeros::<f32>(&[heads])?,
            norm: RmsNorm::new(config.linear_value_head_dim, config.rms_norm_eps)?,
            out_proj: Linear::placeholder(value_dim, dim, false)?,
            config,
        })
    }

    /// Each key head comes with its queries, keys, values and gates, and with the rates and
    /// decays of its value heads.
    fn project(&self, x: &Array) -> Result<Projected> {
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let config = &self.config;
        let key_heads = config.linear_num_key_heads;
        let shared = config.linear_num_value_heads / key_heads;
        let (key, value) = (config.linear_key_head_dim, config.linear_value_head_dim);
        let by_head = |x: &Array| reshape(x, &[batch, length, key_heads, -1]);
        let flat = |x: &Array| reshape(x, &[batch, length, -1]);

        let qkvz = by_head(&self.in_proj_qkvz.forward(x)?)?;
        let mut parts = split_at(&qkvz, &[key, 2 * key, 2 * key + shared * value], -1)?;
        let z = parts
            .pop()
            .map(|z| reshape(&z, &[batch, length, -1, value]));
        let [queries, keys, values] = three(parts)?;
        let ba = by_head(&self.in_proj_ba.forward(x)?)?;
        let [b, a] = two(split(&ba, 2, -1)?)?;
        Ok(Projected {
            qkv: concatenate(&[&flat(&queries)?, &flat(&keys)?, &flat(&values)?], -1)?,
            z: z.ok_or_else(|| Error::weights("the projection has no gate".to_owned()))??,
            b: flat(&b)?,
            a: flat(&a)?,
        })
    }

    fn forward(&self, x: &Array, tokens: Option<&Array>, state: &mut StateCache) -> Result<Array> {
        let rule = DeltaRule {
            config: &self.config,
            conv1d: &self.conv1d,
            dt_bias: &self.dt_bias,
            a_log: &self.a_log,
            norm: &self.norm.weight,
        };
        let mixed = rule.run(&self.project(x)?, tokens, state)?;
        Ok(self.out_proj.forward(&mixed)?)
    }
}

/// A gated feed-forward block.
#[derive(Debug, Module)]
pub(super) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    pub(super) fn new(dim: i32, hidden_dim: i32) -> Result<Self> {
        Ok(Self {
            gate_proj: Linear::placeholder(dim, hidden_dim, false)?,
            up_proj: Linear::placeholder(dim, hidden_dim, false)?,
            down_proj: Linear::placeholder(hidden_dim, dim, false)?,
        })
    }

    pub(super) fn forward(&self, x: &Array) -> Result<Array> {
        let hidden = swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?;
        Ok(self.down_proj.forward(&hidden)?)
    }
}

/// The shape of a block of experts, which Qwen3.5 shares.
#[derive(Debug, Clone)]
pub(super) struct ExpertsConfig {
    pub(super) hidden_size: i32,
    pub(super) num_experts: i32,
    pub(super) num_experts_per_tok: i32,
    pub(super) norm_topk_prob: bool,
    pub(super) moe_intermediate_size: i32,
    pub(super) shared_expert_intermediate_size: i32,
}

impl ExpertsConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.num_experts == 0 {
            return Ok(());
        }
        config::positive("num_experts", self.num_experts)?;
        config::positive("num_experts_per_tok", self.num_experts_per_tok)?;
        if self.num_experts_per_tok > self.num_experts {
            let message = format!("{} of {}", self.num_experts_per_tok, self.num_experts);
            return Err(Error::config("num_experts_per_tok", message));
        }
        config::positive("moe_intermediate_size", self.moe_intermediate_size)?;
        config::positive(
            "shared_expert_intermediate_size",
            self.shared_expert_intermediate_size,
        )
    }
}

/// Experts of which each token takes a few, and one that all tokens share behind a gate.
#[derive(Debug, Module)]
pub(super) struct SparseMoe {
    gate: Linear,
    switch_mlp: SwitchGlu,
    shared_expert: Mlp,
    shared_expert_gate: Linear,
    top_k: i32,
    norm_topk_prob: bool,
}

impl SparseMoe {
    pub(super) fn new(config: &ExpertsConfig) -> Result<Self> {
        let (dim, experts) = (config.hidden_size, config.num_experts);
        let hidden_dim = config.moe_intermediate_size;
        Ok(Self {
            gate: Linear::placeholder(dim, experts, false)?,
            switch_mlp: SwitchGlu::placeholder(dim, hidden_dim, experts, false)?,
            shared_expert: Mlp::new(dim, config.shared_expert_intermediate_size)?,
            shared_expert_gate: Linear::placeholder(dim, 1, false)?,
            top_k: config.num_experts_per_tok,
            norm_topk_prob: config.norm_topk_prob,
        })
    }

    pub(super) fn forward(&self, x: &Array) -> Result<Array> {
        let logits = self.gate.forward(x)?;
        let (experts, scores) = softmax_top_k(&logits, self.top_k, self.norm_topk_prob)?;
        let routed = weighted_sum(&self.switch_mlp.forward(x, &experts)?, &scores)?;
        let gate = sigmoid(&self.shared_expert_gate.forward(x)?)?;
        Ok((routed + gate * self.shared_expert.forward(x)?)?)
    }
}

/// What follows a layer's attention.
#[derive(Debug, Module)]
#[expect(
    clippy::large_enum_variant,
    reason = "one stands in each layer and is never moved"
)]
pub(super) enum FeedForward {
    Dense(Mlp),
    Sparse(SparseMoe),
}

impl FeedForward {
    pub(super) fn forward(&self, x: &Array) -> Result<Array> {
        match self {
            Self::Dense(mlp) => mlp.forward(x),
            Self::Sparse(experts) => experts.forward(x),
        }
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
    fn new(config: &Config, layer: i32, linear: bool) -> Result<Self> {
        let mlp = if config.is_sparse(layer) {
            FeedForward::Sparse(SparseMoe::new(&config.experts())?)
        } else {
            FeedForward::Dense(Mlp::new(config.hidden_size, config.intermediate_size)?)
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
struct Qwen3Next {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Qwen3-Next model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Qwen3Next,
    lm_head: Option<Linear>,
    mtp: Option<Mtp>,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let linear = linear_layers(
            config.layer_types.as_deref(),
            config.full_attention_interval,
            config.num_hidden_layers,
        )?;
        let layers = (0..).zip(linear);
        let layers = layers.map(|(layer, linear)| Block::new(&config, layer, linear));
        let model = Qwen3Next {
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
            let (dim, hidden_dim) = (config.hidden_size, config.intermediate_size);
            let mlp = match stored.sparse {
                true => FeedForward::Sparse(SparseMoe::new(&config.experts())?),
                false => FeedForward::Dense(Mlp::new(dim, hidden_dim)?),
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
    adapt(weights, config.num_experts)?;
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}

/// Norms whose weights are stored as their distance from one.
const ZERO_CENTRED: &[&str] = &[
    ".input_layernorm.weight",
    ".post_attention_layernorm.weight",
    "model.norm.weight",
    ".q_norm.weight",
    ".k_norm.weight",
    "mtp.norm.weight",
    ".pre_fc_norm_embedding.weight",
    ".pre_fc_norm_hidden.weight",
];

/// Brings a checkpoint of transformers into the form of this file: experts stacked, convolutions
/// with their channels last, norms not centred at zero. One that went through MLX already is left
/// as it is; the order of the convolution's axes tells.
pub(super) fn adapt(weights: &mut Weights, num_experts: i32) -> Result<()> {
    sanitize::experts(weights, "mlp.experts", "mlp.switch_mlp", num_experts)?;
    if conv1d_from_torch(weights, ".conv1d.weight")? {
        let centred: Vec<String> = weights
            .keys()
            .filter(|key| ZERO_CENTRED.iter().any(|norm| key.ends_with(norm)))
            .map(str::to_owned)
            .collect();
        for key in centred {
            if let Some(weight) = weights.take(&key) {
                weights.insert(key, (weight + 1.0)?)?;
            }
        }
    }
    Ok(())
}
