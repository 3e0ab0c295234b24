//! DeepSeek-V3 and R1, and Kimi K2 ("DeepSeek-V3 Technical Report", 2024): multi-head latent
//! attention, and experts that are chosen within the best groups.
//!
//! Follows `mlx_lm/models/deepseek_v3.py` of mlx-lm 0.32.2.

use mlx_core::Array;
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, Linear, Mask, Module, RmsNorm, RopeParameters, RopeParametersField, SwitchGlu,
    Weights,
};
use serde::Deserialize;

use super::{
    experts::{self, SigmoidRouter},
    mla::{self, MlaAttention, MlaConfig},
    next_token::{self, NextToken},
    sanitize,
};
use crate::cache::{Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::generate::MultiToken;
use crate::registry::{ConfigMap, Input};
use crate::{LanguageModel, Result};

/// The keys of `config.json` that shape a DeepSeek-V3 model.
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
    pub tie_word_embeddings: bool,
    pub kv_lora_rank: i32,
    #[serde(default)]
    pub q_lora_rank: Option<i32>,
    pub qk_rope_head_dim: i32,
    pub qk_nope_head_dim: i32,
    pub v_head_dim: i32,
    #[serde(default)]
    pub attention_bias: bool,
    pub n_routed_experts: i32,
    #[serde(default)]
    pub n_shared_experts: Option<i32>,
    pub num_experts_per_tok: i32,
    pub moe_intermediate_size: i32,
    #[serde(default)]
    pub first_k_dense_replace: i32,
    #[serde(default = "one")]
    pub moe_layer_freq: i32,
    #[serde(default = "one")]
    pub n_group: i32,
    #[serde(default = "one")]
    pub topk_group: i32,
    #[serde(default = "one_f32")]
    pub routed_scaling_factor: f32,
    #[serde(default = "config::yes")]
    pub norm_topk_prob: bool,
    #[serde(default)]
    pub scoring_func: Option<String>,
    #[serde(default)]
    pub topk_method: Option<String>,
    #[serde(default = "config::yes")]
    pub rope_interleave: bool,
    #[serde(default)]
    pub num_nextn_predict_layers: Option<i32>,
    #[serde(default)]
    pub ep_size: Option<i32>,
    #[serde(default)]
    pub seq_aux: Option<bool>,
    #[serde(default)]
    pub aux_loss_alpha: Option<f32>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
    /// What the weights have of a head for the token after the next one, as `sanitize` found it.
    #[serde(skip)]
    next_token: Option<next_token::Stored>,
}

fn one() -> i32 {
    1
}

fn one_f32() -> f32 {
    1.0
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
        config::positive("moe_layer_freq", self.moe_layer_freq)?;
        config::silu(&self.hidden_act)?;
        config::positive("moe_intermediate_size", self.moe_intermediate_size)?;
        config::experts(
            "num_experts_per_tok",
            self.num_experts_per_tok,
            "n_routed_experts",
            self.n_routed_experts,
        )?;
        config::experts("topk_group", self.topk_group, "n_group", self.n_group)?;
        config::divisible(
            "n_routed_experts",
            self.n_routed_experts,
            "n_group",
            self.n_group,
        )?;
        config::only("scoring_func", self.scoring_func.as_deref(), "sigmoid")?;
        config::only("topk_method", self.topk_method.as_deref(), "noaux_tc")?;
        self.attention()?.validate()
    }

    /// Whether the MLP of a layer is a mixture of experts.
    fn is_sparse(&self, layer: i32) -> bool {
        self.n_routed_experts > 0
            && layer >= self.first_k_dense_replace
            && layer % self.moe_layer_freq == 0
    }

    fn attention(&self) -> Result<MlaConfig> {
        let rope = config::RopeConfig {
            head_dim: self.qk_rope_head_dim,
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        };
        let scale = config::attention_scale(self.qk_nope_head_dim + self.qk_rope_head_dim);
        Ok(MlaConfig {
            hidden_size: self.hidden_size,
            num_attention_heads: self.num_attention_heads,
            q_lora_rank: self.q_lora_rank,
            kv_lora_rank: self.kv_lora_rank,
            qk_nope_head_dim: self.qk_nope_head_dim,
            qk_rope_head_dim: self.qk_rope_head_dim,
            v_head_dim: self.v_head_dim,
            bias: self.attention_bias,
            scale: rope.merged()?.1.attention_scale(scale),
            rope: rope.build()?.traditional(self.rope_interleave),
        })
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

/// The router: a matrix that is never quantised, and the bias of the choice.
#[derive(Debug, Module)]
struct Gate {
    weight: Array,
    e_score_correction_bias: Array,
    #[module(skip)]
    router: SigmoidRouter,
}

impl Gate {
    fn new(config: &Config) -> Result<Self> {
        let experts = config.n_routed_experts;
        Ok(Self {
            weight: Array::zeros::<f32>(&[experts, config.hidden_size])?,
            e_score_correction_bias: Array::zeros::<f32>(&[experts])?,
            router: SigmoidRouter {
                num_experts_per_tok: config.num_experts_per_tok,
                n_group: config.n_group,
                topk_group: config.topk_group,
                routed_scaling_factor: config.routed_scaling_factor,
                norm_topk_prob: config.norm_topk_prob,
            },
        })
    }

    fn forward(&self, x: &Array) -> Result<(Array, Array)> {
        let logits = experts::router_logits(x, &self.weight)?;
        self.router.choose(&logits, &self.e_score_correction_bias)
    }
}

/// Experts that are chosen, and some that always speak.
#[derive(Debug, Module)]
struct Moe {
    gate: Gate,
    switch_mlp: SwitchGlu,
    shared_experts: Option<Mlp>,
}

impl Moe {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.moe_intermediate_size);
        let shared = config.n_shared_experts.filter(|&count| count > 0);
        Ok(Self {
            gate: Gate::new(config)?,
            switch_mlp: SwitchGlu::placeholder(dim, hidden_dim, config.n_routed_experts, false)?,
            shared_experts: shared
                .map(|count| Mlp::new(config, hidden_dim.saturating_mul(count)))
                .transpose()?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let (chosen, weights) = self.gate.forward(x)?;
        let routed = experts::weighted_sum(&self.switch_mlp.forward(x, &chosen)?, &weights)?;
        match &self.shared_experts {
            Some(shared) => Ok((routed + shared.forward(x)?)?),
            None => Ok(routed),
        }
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
    self_attn: MlaAttention,
    mlp: FeedForward,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl Block {
    fn new(config: &Config, layer: i32) -> Result<Self> {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            self_attn: MlaAttention::new(config.attention()?)?,
            mlp: FeedForward::new(config, layer)?,
            input_layernorm: norm()?,
            post_attention_layernorm: norm()?,
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
struct DeepseekV3 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A DeepSeek-V3 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: DeepseekV3,
    lm_head: Option<Linear>,
    #[module(name = "model.layers")]
    next_token: Option<NextToken<Block>>,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Block::new(&config, layer))
            .collect::<Result<_>>()?;
        let model = DeepseekV3 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers,
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
        };
        let head = || Linear::placeholder(config.hidden_size, config.vocab_size, false);
        let lm_head = (!config.tie_word_embeddings).then(head).transpose()?;
        let next_token = |stored| {
            let layer = config.num_hidden_layers;
            let sizes = (config.hidden_size, config.vocab_size);
            let block = Block::new(&config, layer)?;
            NextToken::new(layer, block, stored, sizes, config.rms_norm_eps)
        };
        let next_token = config.next_token.map(next_token).transpose()?;
        Ok(Self {
            model,
            lm_head,
            next_token,
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
        let windows = layers.iter().map(|_| None);
        let masks = Masks::new(cache, windows, x.dim(1)?)?;
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, masks.of(None), cache.as_mut())?;
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
            .map(|_| attention_cache(None, options))
            .collect()
    }

    fn vocab_size(&self) -> i32 {
        self.config.vocab_size
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        self.config.max_position_embeddings
    }

    fn multi_token(&self) -> Option<&dyn MultiToken> {
        self.next_token
            .as_ref()
            .map(|_| -> &dyn MultiToken { self })
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
        let head = self.next_token.as_ref().ok_or_else(next_token::missing)?;
        let embed = |tokens: &Array| self.embed(tokens);
        head.hidden(hidden, tokens, cache, embed, Block::forward)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        let head = self.next_token.as_ref().ok_or_else(next_token::missing)?;
        head.logits(hidden, |hidden| LanguageModel::logits(self, hidden))
    }
}

/// Renames and drops weights so that exactly the model's own remain, and notes in the configuration
/// whether a head for the token after the next one is among them.
///
/// # Errors
/// Fails if two weights would end up under one key.
pub fn sanitize(config: &mut Config, weights: &mut Weights) -> Result<()> {
    sanitize::text_part(weights)?;
    sanitize::rotary_frequencies(weights);
    sanitize::tied_head(weights, config.tie_word_embeddings);
    config.next_token = next_token::keep(weights, config.num_hidden_layers);
    sanitize::experts(weights, "experts", "switch_mlp", config.n_routed_experts)?;
    mla::split_kv_b(weights, &config.attention()?)?;
    Ok(())
}
