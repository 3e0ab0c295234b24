//! Nemotron-H and Nemotron 3 ("Nemotron-H: A Family of Accurate and Efficient Hybrid
//! Mamba-Transformer Models", 2025): each layer is one of Mamba 2, attention without positions,
//! a feed-forward block or experts.
//!
//! Follows `mlx_lm/models/nemotron_h.py` of mlx-lm 0.32.2.

use mlx_core::Array;
use mlx_core::ops::misc::astype;
use mlx_nn::activation::relu2;
use mlx_nn::{Embedding, Linear, Mask, Module, RmsNorm, SwitchMlp, Weights};
use serde::Deserialize;

use super::causal_conv::conv1d_from_torch;
use super::experts::{SigmoidRouter, router_logits, weighted_sum};
use super::heads;
use super::mamba2_mixer::{GatedNormConfig, Mixer, MixerConfig, SLOTS, TimeStepLimit};
use crate::cache::{
    Attend, Cache, CacheOptions, KindMasks, LayerCache, LayerKind, StateCache, as_state,
    attention_cache,
};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Nemotron-H model; those of experts are absent from
/// models without them.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub hidden_size: i32,
    #[serde(default)]
    pub num_hidden_layers: Option<i32>,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    #[serde(default)]
    pub head_dim: Option<i32>,
    pub vocab_size: i32,
    pub layer_norm_epsilon: f32,
    pub mamba_num_heads: i32,
    pub mamba_head_dim: i32,
    pub ssm_state_size: i32,
    pub conv_kernel: i32,
    pub n_groups: i32,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mamba_proj_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    /// Whether the projections of recurrent layers have biases; `mamba_proj_bias` where absent.
    #[serde(default)]
    pub use_bias: Option<bool>,
    #[serde(default)]
    pub residual_in_fp32: Option<bool>,
    #[serde(default)]
    pub mamba_hidden_act: Option<String>,
    #[serde(default)]
    pub expand: Option<i32>,
    #[serde(default = "default_use_conv_bias")]
    pub use_conv_bias: bool,
    #[serde(default)]
    pub hybrid_override_pattern: Option<Pattern>,
    #[serde(default)]
    pub layers_block_type: Option<Vec<String>>,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default)]
    pub time_step_limit: TimeStepLimit,
    #[serde(default)]
    pub mlp_hidden_act: Option<String>,
    #[serde(default)]
    pub moe_intermediate_size: Option<i32>,
    #[serde(default)]
    pub moe_shared_expert_intermediate_size: Option<i32>,
    #[serde(default)]
    pub moe_latent_size: Option<i32>,
    #[serde(default)]
    pub n_routed_experts: Option<i32>,
    #[serde(default)]
    pub n_shared_experts: Option<i32>,
    #[serde(default)]
    pub num_experts_per_tok: Option<i32>,
    #[serde(default)]
    pub n_group: Option<i32>,
    #[serde(default)]
    pub topk_group: Option<i32>,
    #[serde(default = "default_norm_topk_prob")]
    pub norm_topk_prob: bool,
    #[serde(default)]
    pub routed_scaling_factor: Option<f32>,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

/// The kinds of all layers: `"M*-E"`, or one such letter after another.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Pattern {
    /// One string.
    Letters(String),
    /// A list of one-letter strings.
    List(Vec<String>),
}

fn default_use_conv_bias() -> bool {
    true
}

fn default_norm_topk_prob() -> bool {
    true
}

/// What a layer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mamba,
    Attention,
    Mlp,
    Experts,
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
        config::positive("intermediate_size", self.intermediate_size)?;
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("num_key_value_heads", self.num_key_value_heads)?;
        config::positive("vocab_size", self.vocab_size)?;
        config::positive("head_dim", self.head_dim())?;
        config::heads(self.num_attention_heads, self.head_dim())?;
        config::divisible(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )?;
        if let Some(other) = self.mlp_hidden_act.as_deref().filter(|&act| act != "relu2") {
            let message = format!("`{other}` is not supported, only `relu2`");
            return Err(Error::config("mlp_hidden_act", message));
        }
        if self.tie_word_embeddings {
            return Err(Error::config(
                "tie_word_embeddings",
                "`true` is not supported: Nemotron-H has an output head of its own",
            ));
        }
        config::switch("residual_in_fp32", self.residual_in_fp32, false)?;
        if let Some(act) = &self.mamba_hidden_act {
            config::silu(act)?;
        }
        let kinds = self.kinds()?;
        config::layers(i32::try_from(kinds.len()).unwrap_or(i32::MAX))?;
        if kinds.contains(&Kind::Mamba) {
            self.mixer().validate()?;
        }
        if kinds.contains(&Kind::Experts) {
            let experts = self.n_routed_experts.unwrap_or(0);
            let router = self.router();
            config::positive("n_routed_experts", experts)?;
            config::positive("moe_intermediate_size", self.expert_width())?;
            router.validate(experts)?;
            if self.moe_latent_size.is_some_and(|size| size < 1) {
                return Err(Error::config("moe_latent_size", "must be 1 or more"));
            }
        }
        Ok(())
    }

    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or_else(|| {
            self.hidden_size
                .checked_div(self.num_attention_heads)
                .unwrap_or(0)
        })
    }

    fn expert_width(&self) -> i32 {
        self.moe_intermediate_size.unwrap_or(0)
    }

    fn router(&self) -> SigmoidRouter {
        SigmoidRouter {
            num_experts_per_tok: self.num_experts_per_tok.unwrap_or(0),
            n_group: self.n_group.unwrap_or(1),
            topk_group: self.topk_group.unwrap_or(1),
            routed_scaling_factor: self.routed_scaling_factor.unwrap_or(1.0),
            norm_topk_prob: self.norm_topk_prob,
        }
    }

    fn kinds(&self) -> Result<Vec<Kind>> {
        let by_letter = |letter: char| match letter {
            'M' => Ok(Kind::Mamba),
            '*' => Ok(Kind::Attention),
            '-' => Ok(Kind::Mlp),
            'E' => Ok(Kind::Experts),
            other => Err(Error::config(
                "hybrid_override_pattern",
                format!("`{other}` is not supported, only M, *, - and E"),
            )),
        };
        let by_name = |name: &String| match name.as_str() {
            "mamba" | "linear_attention" | "conv" => Ok(Kind::Mamba),
            "attention" | "full_attention" => Ok(Kind::Attention),
            "mlp" => Ok(Kind::Mlp),
            "moe" => Ok(Kind::Experts),
            other => Err(Error::config(
                "layers_block_type",
                format!("`{other}` is not supported"),
            )),
        };
        let names = self
            .layers_block_type
            .as_ref()
            .or(self.layer_types.as_ref());
        let kinds: Vec<Kind> = match (&self.hybrid_override_pattern, names) {
            (Some(Pattern::Letters(letters)), _) => {
                letters.chars().map(by_letter).collect::<Result<_>>()?
            }
            (Some(Pattern::List(letters)), _) => {
                let letters = letters.iter().flat_map(|letters| letters.chars());
                letters.map(by_letter).collect::<Result<_>>()?
            }
            (None, Some(names)) => names.iter().map(by_name).collect::<Result<_>>()?,
            (None, None) => {
                return Err(Error::config("hybrid_override_pattern", "is missing"));
            }
        };
        match self.num_hidden_layers {
            Some(layers) if i32::try_from(kinds.len()) != Ok(layers) => Err(Error::config(
                "num_hidden_layers",
                format!("is {layers}, but the pattern has {} layers", kinds.len()),
            )),
            _ => Ok(kinds),
        }
    }

    fn mixer(&self) -> MixerConfig {
        MixerConfig {
            hidden_size: self.hidden_size,
            num_heads: self.mamba_num_heads,
            head_dim: self.mamba_head_dim,
            state_size: self.ssm_state_size,
            n_groups: self.n_groups,
            conv_kernel: self.conv_kernel,
            use_conv_bias: self.use_conv_bias,
            in_bias: self.use_bias.unwrap_or(self.mamba_proj_bias),
            out_bias: self.use_bias.unwrap_or(self.mamba_proj_bias),
            time_step_limit: self.time_step_limit.0,
            norm: Some(GatedNormConfig {
                eps: self.layer_norm_epsilon,
                groups: self.n_groups,
                norm_before_gate: false,
            }),
        }
    }
}

/// Attention without positions; the recurrent layers know them.
#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
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
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config::attention_scale(head_dim),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let keys = heads::split(&self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads::split(&self.v_proj.forward(x)?, self.num_key_value_heads)?;
        let attend = Attend::new(self.scale, mask);
        let output = cache.attend(&queries, &keys, &values, attend)?;
        Ok(self.o_proj.forward(&heads::merge(&output)?)?)
    }
}

#[derive(Debug, Module)]
struct Mlp {
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(config: &Config, hidden_dim: i32) -> Result<Self> {
        let (dim, bias) = (config.hidden_size, config.mlp_bias);
        Ok(Self {
            up_proj: Linear::placeholder(dim, hidden_dim, bias)?,
            down_proj: Linear::placeholder(hidden_dim, dim, bias)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        Ok(self.down_proj.forward(&relu2(&self.up_proj.forward(x)?)?)?)
    }
}

/// The router's weights; a matrix, because it is never quantised.
#[derive(Debug, Module)]
struct Gate {
    weight: Array,
    e_score_correction_bias: Array,
}

/// Experts, which may work in a narrower space, and one that all tokens share.
#[derive(Debug, Module)]
struct SparseMoe {
    switch_mlp: SwitchMlp,
    gate: Gate,
    shared_experts: Option<Mlp>,
    fc1_latent_proj: Option<Linear>,
    fc2_latent_proj: Option<Linear>,
    #[module(skip)]
    router: SigmoidRouter,
}

impl SparseMoe {
    fn new(config: &Config) -> Result<Self> {
        let (dim, bias) = (config.hidden_size, config.mlp_bias);
        let experts = config.n_routed_experts.unwrap_or(0);
        let latent = config.moe_latent_size;
        let width = config.expert_width();
        let shared = config.moe_shared_expert_intermediate_size;
        Ok(Self {
            switch_mlp: SwitchMlp::placeholder(latent.unwrap_or(dim), width, experts, false)?,
            gate: Gate {
                weight: Array::zeros::<f32>(&[experts, dim])?,
                e_score_correction_bias: Array::zeros::<f32>(&[experts])?,
            },
            shared_experts: match config.n_shared_experts {
                Some(_) => Some(Mlp::new(
                    config,
                    shared.unwrap_or(config.intermediate_size),
                )?),
                None => None,
            },
            fc1_latent_proj: latent
                .map(|latent| Linear::placeholder(dim, latent, bias))
                .transpose()?,
            fc2_latent_proj: latent
                .map(|latent| Linear::placeholder(latent, dim, bias))
                .transpose()?,
            router: config.router(),
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let logits = router_logits(x, &self.gate.weight)?;
        let (chosen, scores) = self
            .router
            .choose(&logits, &self.gate.e_score_correction_bias)?;
        let mut routed = match &self.fc1_latent_proj {
            Some(narrow) => narrow.forward(x)?,
            None => x.clone(),
        };
        let outputs = self.switch_mlp.forward_with(&routed, &chosen, relu2)?;
        routed = weighted_sum(&outputs, &scores)?;
        if let Some(widen) = &self.fc2_latent_proj {
            routed = widen.forward(&routed)?;
        }
        match &self.shared_experts {
            Some(shared) => Ok((routed + shared.forward(x)?)?),
            None => Ok(astype(&routed, x.dtype())?),
        }
    }
}

#[derive(Debug, Module)]
#[expect(
    clippy::large_enum_variant,
    reason = "one stands in each layer and is never moved"
)]
enum Layer {
    Mamba(Mixer),
    Attention(Attention),
    Mlp(Mlp),
    Experts(SparseMoe),
}

#[derive(Debug, Module)]
struct Block {
    norm: RmsNorm,
    mixer: Layer,
}

impl Block {
    fn new(config: &Config, kind: Kind) -> Result<Self> {
        let mixer = match kind {
            Kind::Mamba => Layer::Mamba(Mixer::new(config.mixer())?),
            Kind::Attention => Layer::Attention(Attention::new(config)?),
            Kind::Mlp => Layer::Mlp(Mlp::new(config, config.intermediate_size)?),
            Kind::Experts => Layer::Experts(SparseMoe::new(config)?),
        };
        Ok(Self {
            norm: RmsNorm::new(config.hidden_size, config.layer_norm_epsilon)?,
            mixer,
        })
    }

    fn kind(&self) -> LayerKind {
        match self.mixer {
            Layer::Mamba(_) => LayerKind::Recurrent,
            Layer::Attention(_) => LayerKind::Full,
            Layer::Mlp(_) | Layer::Experts(_) => LayerKind::Stateless,
        }
    }

    fn forward(&self, x: &Array, masks: &KindMasks, cache: &mut dyn LayerCache) -> Result<Array> {
        let normed = self.norm.forward(x)?;
        let mixed = match &self.mixer {
            Layer::Mamba(mixer) => mixer.forward(&normed, masks.tokens(), as_state(cache)?)?,
            Layer::Attention(attention) => {
                attention.forward(&normed, masks.of(LayerKind::Full), cache)?
            }
            Layer::Mlp(mlp) => mlp.forward(&normed)?,
            Layer::Experts(experts) => experts.forward(&normed)?,
        };
        Ok((x + mixed)?)
    }
}

#[derive(Debug, Module)]
struct NemotronH {
    embeddings: Embedding,
    layers: Vec<Block>,
    norm_f: RmsNorm,
}

/// A Nemotron-H model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    backbone: NemotronH,
    lm_head: Linear,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let dim = config.hidden_size;
        let layers = config.kinds()?.into_iter();
        let layers = layers.map(|kind| Block::new(&config, kind));
        Ok(Self {
            backbone: NemotronH {
                embeddings: Embedding::placeholder(config.vocab_size, dim)?,
                layers: layers.collect::<Result<_>>()?,
                norm_f: RmsNorm::new(dim, config.layer_norm_epsilon)?,
            },
            lm_head: Linear::placeholder(dim, config.vocab_size, false)?,
            config,
        })
    }
}

impl LanguageModel for Model {
    fn embed(&self, tokens: &Array) -> Result<Array> {
        Ok(self.backbone.embeddings.forward(tokens)?)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        let layers = &self.backbone.layers;
        let mut x = input.embedded(|tokens| self.embed(tokens))?; // [B, L, D]
        let masks = KindMasks::new(cache, layers.iter().map(Block::kind), x.dim(1)?)?;
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, &masks, cache.as_mut())?;
        }
        Ok(self.backbone.norm_f.forward(&x)?)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        Ok(self.lm_head.forward(hidden)?)
    }

    fn make_cache(&self, options: &CacheOptions) -> Cache {
        let entry = |layer: &Block| -> Box<dyn LayerCache> {
            match layer.kind() {
                LayerKind::Recurrent => Box::new(StateCache::new(SLOTS)),
                LayerKind::Stateless => Box::new(StateCache::new(0)),
                _ => attention_cache(None, options),
            }
        };
        self.backbone.layers.iter().map(entry).collect()
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
    // The layers that predict several tokens ahead.
    weights.drop_prefix("mtp.");
    // transformers 5 calls the backbone `model`.
    weights.rename_prefix("model.", "backbone.")?;
    conv1d_from_torch(weights, ".mixer.conv1d.weight")?;
    let experts = usize::try_from(config.n_routed_experts.unwrap_or(0)).unwrap_or(0);
    weights.stack_experts("mixer.experts", "mixer.switch_mlp", experts)?;
    for (from, to) in [("up_proj", "fc1"), ("down_proj", "fc2")] {
        // Stacked by us just now, or by transformers 5 under another key.
        weights.rename_with(|key| {
            let (layer, rest) = key.split_once(&format!(".switch_mlp.{from}."))?;
            Some(format!("{layer}.switch_mlp.{to}.{rest}"))
        })?;
        weights.rename_with(|key| {
            let layer = key.strip_suffix(&format!(".experts.{from}"))?;
            Some(format!("{layer}.switch_mlp.{to}.weight"))
        })?;
    }
    Ok(())
}
