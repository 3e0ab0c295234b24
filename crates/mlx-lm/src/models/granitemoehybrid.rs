//! Granite 4 (IBM, 2025): layers of Mamba 2 or attention, each followed by a gated block, or by
//! experts beside a shared one.
//!
//! Follows `mlx_lm/models/granitemoehybrid.py` of mlx-lm 0.32.2, and transformers for the gated
//! norm, which works by groups, and the limits of time steps, of which there are none.

use mlx_core::Array;
use mlx_core::ops::indexing::take_along_axis;
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with};
use mlx_core::ops::shape::split;
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField, SwitchGlu,
    Weights,
};
use serde::Deserialize;

use super::causal_conv::conv1d_from_torch;
use super::experts::{best, weighted_sum};
use super::mamba2_mixer::{GatedNormConfig, Mixer, MixerConfig, SLOTS, TimeStepLimit};
use super::parts::two;
use super::{heads, sanitize};
use crate::cache::{
    Attend, Cache, CacheOptions, KindMasks, LayerCache, LayerKind, StateCache, as_state,
    attention_cache,
};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Granite 4 model; those of experts and of Mamba are
/// absent from models without them.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    pub layer_types: Vec<String>,
    pub embedding_multiplier: f32,
    pub attention_multiplier: f32,
    pub logits_scaling: f32,
    pub residual_multiplier: f32,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub num_local_experts: Option<i32>,
    #[serde(default)]
    pub num_experts_per_tok: Option<i32>,
    #[serde(default)]
    pub shared_intermediate_size: Option<i32>,
    #[serde(default)]
    pub mamba_n_heads: Option<i32>,
    #[serde(default)]
    pub mamba_d_head: Option<DHead>,
    #[serde(default)]
    pub mamba_expand: Option<i32>,
    #[serde(default)]
    pub mamba_proj_bias: bool,
    #[serde(default)]
    pub mamba_d_state: Option<i32>,
    #[serde(default)]
    pub mamba_d_conv: Option<i32>,
    #[serde(default)]
    pub mamba_n_groups: Option<i32>,
    #[serde(default = "default_mamba_conv_bias")]
    pub mamba_conv_bias: bool,
    #[serde(default)]
    pub time_step_limit: TimeStepLimit,
    #[serde(default)]
    pub position_embedding_type: Option<String>,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
    #[serde(default = "default_tie_word_embeddings")]
    pub tie_word_embeddings: bool,
}

/// `mamba_d_head`: a width, or `"auto"`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum DHead {
    /// That many features a head.
    Width(i32),
    /// `mamba_expand · hidden_size`, shared out among the heads.
    Auto(String),
}

fn default_mamba_conv_bias() -> bool {
    true
}

fn default_tie_word_embeddings() -> bool {
    true
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
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("num_key_value_heads", self.num_key_value_heads)?;
        config::positive("vocab_size", self.vocab_size)?;
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
            self.num_key_value_heads,
        )?;
        config::silu(&self.hidden_act)?;
        if self.logits_scaling == 0.0 {
            return Err(Error::config("logits_scaling", "must not be 0"));
        }
        if let Some(experts) = self.experts() {
            let chosen = self.num_experts_per_tok.unwrap_or(0);
            config::positive("num_experts_per_tok", chosen)?;
            config::positive("shared_intermediate_size", self.shared_width())?;
            if chosen > experts {
                let message = format!("{chosen} of {experts}");
                return Err(Error::config("num_experts_per_tok", message));
            }
        }
        self.uses_rope()?;
        let mamba = self.recurrent()?;
        if mamba.contains(&true) {
            self.mixer()?.validate()?;
        }
        Ok(())
    }

    /// The number of experts, if there are any.
    fn experts(&self) -> Option<i32> {
        self.num_local_experts.filter(|&experts| experts > 0)
    }

    fn shared_width(&self) -> i32 {
        self.shared_intermediate_size.unwrap_or(0)
    }

    /// The width of the block in a model without experts, which transformers calls shared too.
    fn dense_width(&self) -> i32 {
        self.shared_intermediate_size
            .filter(|&width| width > 0)
            .unwrap_or(self.intermediate_size)
    }

    fn head_dim(&self) -> i32 {
        self.hidden_size / self.num_attention_heads
    }

    fn uses_rope(&self) -> Result<bool> {
        match self.position_embedding_type.as_deref() {
            None | Some("rope") => Ok(true),
            Some("nope") => Ok(false),
            Some(other) => Err(Error::config(
                "position_embedding_type",
                format!("`{other}` is not supported, only `rope` and `nope`"),
            )),
        }
    }

    /// Whether each layer is a Mamba layer; the others attend.
    fn recurrent(&self) -> Result<Vec<bool>> {
        if i32::try_from(self.layer_types.len()) != Ok(self.num_hidden_layers) {
            let message = format!(
                "has {} entries for num_hidden_layers = {}",
                self.layer_types.len(),
                self.num_hidden_layers
            );
            return Err(Error::config("layer_types", message));
        }
        let recurrent = |layer_type: &String| match layer_type.as_str() {
            "mamba" | "linear_attention" => Ok(true),
            "attention" | "full_attention" => Ok(false),
            other => Err(Error::config(
                "layer_types",
                format!("`{other}` is not supported"),
            )),
        };
        self.layer_types.iter().map(recurrent).collect()
    }

    fn mixer(&self) -> Result<MixerConfig> {
        let missing = |field: &str| Error::config(field, "is missing");
        let num_heads = self.mamba_n_heads.ok_or_else(|| missing("mamba_n_heads"))?;
        config::positive("mamba_n_heads", num_heads)?;
        let head_dim = match &self.mamba_d_head {
            Some(DHead::Width(width)) => *width,
            Some(DHead::Auto(auto)) if auto == "auto" => {
                let expand = self.mamba_expand.unwrap_or(2);
                expand.saturating_mul(self.hidden_size) / num_heads
            }
            Some(DHead::Auto(other)) => {
                let message = format!("`{other}` is neither a number nor `auto`");
                return Err(Error::config("mamba_d_head", message));
            }
            None => return Err(missing("mamba_d_head")),
        };
        Ok(MixerConfig {
            hidden_size: self.hidden_size,
            num_heads,
            head_dim,
            state_size: self.mamba_d_state.ok_or_else(|| missing("mamba_d_state"))?,
            n_groups: self
                .mamba_n_groups
                .ok_or_else(|| missing("mamba_n_groups"))?,
            conv_kernel: self.mamba_d_conv.ok_or_else(|| missing("mamba_d_conv"))?,
            use_conv_bias: self.mamba_conv_bias,
            in_bias: self.mamba_proj_bias,
            out_bias: self.mamba_proj_bias,
            time_step_limit: self.time_step_limit.0,
            norm: Some(GatedNormConfig {
                eps: self.rms_norm_eps,
                groups: self.mamba_n_groups.unwrap_or(1),
                norm_before_gate: false,
            }),
        })
    }

    fn rope(&self) -> Result<Option<Rope>> {
        if !self.uses_rope()? {
            return Ok(None);
        }
        let rope = config::RopeConfig {
            head_dim: self.head_dim(),
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        };
        rope.build().map(Some)
    }
}

#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    rope: Option<Rope>,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    scale: f32,
}

impl Attention {
    fn new(config: &Config) -> Result<Self> {
        let (dim, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let bias = config.attention_bias;
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, bias)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, bias)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, bias)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, bias)?,
            rope: config.rope()?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config.attention_multiplier,
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let mut queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let mut keys = heads::split(&self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads::split(&self.v_proj.forward(x)?, self.num_key_value_heads)?;
        if let Some(rope) = &self.rope {
            queries = rope.forward(&queries, cache.positions())?;
            keys = rope.forward(&keys, cache.positions())?;
        }
        let attend = Attend::new(self.scale, mask);
        let output = cache.attend(&queries, &keys, &values, attend)?;
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
        let (dim, hidden_dim, bias) = (config.hidden_size, config.dense_width(), config.mlp_bias);
        Ok(Self {
            gate_proj: Linear::placeholder(dim, hidden_dim, bias)?,
            up_proj: Linear::placeholder(dim, hidden_dim, bias)?,
            down_proj: Linear::placeholder(hidden_dim, dim, bias)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let hidden = swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?;
        Ok(self.down_proj.forward(&hidden)?)
    }
}

/// A gated block whose two inputs are one projection.
#[derive(Debug, Module)]
struct SharedMlp {
    input_linear: Linear,
    output_linear: Linear,
}

impl SharedMlp {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.shared_width());
        Ok(Self {
            input_linear: Linear::placeholder(dim, hidden_dim.saturating_mul(2), false)?,
            output_linear: Linear::placeholder(hidden_dim, dim, false)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let [gate, up] = two(split(&self.input_linear.forward(x)?, 2, -1)?)?;
        Ok(self.output_linear.forward(&swiglu(&gate, &up)?)?)
    }
}

#[derive(Debug, Module)]
struct Router {
    layer: Linear,
}

#[derive(Debug, Module)]
struct SparseMoe {
    switch_mlp: SwitchGlu,
    router: Router,
    top_k: i32,
}

impl SparseMoe {
    fn new(config: &Config, experts: i32) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            switch_mlp: SwitchGlu::placeholder(dim, hidden_dim, experts, false)?,
            router: Router {
                layer: Linear::placeholder(dim, experts, false)?,
            },
            top_k: config.num_experts_per_tok.unwrap_or(0),
        })
    }

    /// The softmax is over the chosen experts alone.
    fn forward(&self, x: &Array) -> Result<Array> {
        let logits = self.router.layer.forward(x)?;
        let chosen = best(&logits, self.top_k)?;
        let logits = take_along_axis(&logits, &chosen, -1)?;
        let shares = softmax_with(&logits, &[-1], SoftmaxOptions::default().precise(true))?;
        weighted_sum(&self.switch_mlp.forward(x, &chosen)?, &shares)
    }
}

#[derive(Debug, Module)]
struct Block {
    mamba: Option<Mixer>,
    self_attn: Option<Attention>,
    block_sparse_moe: Option<SparseMoe>,
    shared_mlp: Option<SharedMlp>,
    mlp: Option<Mlp>,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    residual_multiplier: f32,
}

impl Block {
    fn new(config: &Config, recurrent: bool) -> Result<Self> {
        let (mamba, self_attn) = if recurrent {
            (Some(Mixer::new(config.mixer()?)?), None)
        } else {
            (None, Some(Attention::new(config)?))
        };
        let (block_sparse_moe, shared_mlp, mlp) = match config.experts() {
            Some(experts) => (
                Some(SparseMoe::new(config, experts)?),
                Some(SharedMlp::new(config)?),
                None,
            ),
            None => (None, None, Some(Mlp::new(config)?)),
        };
        Ok(Self {
            mamba,
            self_attn,
            block_sparse_moe,
            shared_mlp,
            mlp,
            input_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
            post_attention_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
            residual_multiplier: config.residual_multiplier,
        })
    }

    fn kind(&self) -> LayerKind {
        match self.mamba {
            Some(_) => LayerKind::Recurrent,
            None => LayerKind::Full,
        }
    }

    fn forward(&self, x: &Array, masks: &KindMasks, cache: &mut dyn LayerCache) -> Result<Array> {
        let normed = self.input_layernorm.forward(x)?;
        let mut x = x.clone();
        let mut add = |part: Array| -> Result<()> {
            x = (&x + (part * self.residual_multiplier)?)?;
            Ok(())
        };
        if let Some(mamba) = &self.mamba {
            add(mamba.forward(&normed, masks.tokens(), as_state(cache)?)?)?;
        }
        if let Some(self_attn) = &self.self_attn {
            add(self_attn.forward(&normed, masks.of(LayerKind::Full), cache)?)?;
        }
        let normed = self.post_attention_layernorm.forward(&x)?;
        let mut transformed = None;
        if let Some(mlp) = &self.mlp {
            transformed = Some(mlp.forward(&normed)?);
        }
        if let (Some(experts), Some(shared)) = (&self.block_sparse_moe, &self.shared_mlp) {
            transformed = Some((experts.forward(&normed)? + shared.forward(&normed)?)?);
        }
        match transformed {
            Some(transformed) => Ok((x + (transformed * self.residual_multiplier)?)?),
            None => Ok(x),
        }
    }
}

#[derive(Debug, Module)]
struct Granite {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
}

/// A Granite 4 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Granite,
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
        let recurrent = config.recurrent()?.into_iter();
        let layers = recurrent.map(|recurrent| Block::new(&config, recurrent));
        let model = Granite {
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
        Ok(Self {
            model,
            lm_head,
            config,
        })
    }
}

impl LanguageModel for Model {
    fn embed(&self, tokens: &Array) -> Result<Array> {
        let embedded = self.model.embed_tokens.forward(tokens)?;
        Ok((embedded * self.config.embedding_multiplier)?)
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
        let logits = match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.model.embed_tokens.as_linear(hidden)?,
        };
        Ok((logits / self.config.logits_scaling)?)
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
}

/// Renames, splits and drops weights so that exactly the model's own remain.
///
/// # Errors
/// Fails if a fused weight cannot be split or two weights would end up under one key.
pub fn sanitize(config: &Config, weights: &mut Weights) -> Result<()> {
    conv1d_from_torch(weights, ".mamba.conv1d.weight")?;
    if config.experts().is_some() {
        split_gated(weights, ".block_sparse_moe", ".block_sparse_moe.switch_mlp")?;
    } else {
        split_gated(weights, ".shared_mlp", ".mlp")?;
    }
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}

/// Splits `…<from>.input_linear.weight` into the halves `gate_proj` and `up_proj` of `…<to>`, and
/// renames `output_linear` to `down_proj`.
fn split_gated(weights: &mut Weights, from: &str, to: &str) -> Result<()> {
    let fused = format!("{from}.input_linear.weight");
    let layers: Vec<String> = weights
        .keys()
        .filter_map(|key| key.strip_suffix(&fused))
        .map(str::to_owned)
        .collect();
    for layer in layers {
        if let Some(both) = weights.take(&format!("{layer}{fused}")) {
            let halves = split(&both, 2, -2)?;
            for (half, name) in halves.into_iter().zip(["gate_proj", "up_proj"]) {
                weights.insert(format!("{layer}{to}.{name}.weight"), half)?;
            }
        }
        if let Some(down) = weights.take(&format!("{layer}{from}.output_linear.weight")) {
            weights.insert(format!("{layer}{to}.down_proj.weight"), down)?;
        }
    }
    Ok(())
}
