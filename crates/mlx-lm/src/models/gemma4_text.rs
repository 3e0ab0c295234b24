//! Gemma 4 (2026): full layers have wider heads than those that slide, the last layers attend to keys
//! and values of earlier ones, small models look each token up again in every layer, and large ones
//! run a mixture of experts beside the MLP.
//!
//! Follows `mlx_lm/models/gemma4_text.py` of mlx-lm 0.32.2.

use mlx_core::Array;
use mlx_core::ops::arithmetic::multiply;
use mlx_core::ops::fast::rms_norm;
use mlx_core::ops::indexing::{slice, take, take_along_axis};
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with};
use mlx_core::ops::shape::{squeeze_axes, unflatten};
use mlx_nn::activation::gelu_approx;
use mlx_nn::{
    Embedding, Linear, Mask, Module, Offset, RmsNorm, Rope, RopeParameters, RopeParametersField,
    SwitchGlu, Weights,
};
use serde::Deserialize;

use super::gemma::{activation, scaled_embeddings, softcap};
use super::{experts, heads, sanitize};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Gemma 4 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub model_type: String,
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    #[serde(default)]
    pub num_global_key_value_heads: Option<i32>,
    #[serde(default = "default_head_dim")]
    pub head_dim: i32,
    #[serde(default = "default_global_head_dim")]
    pub global_head_dim: Option<i32>,
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    #[serde(default)]
    pub vocab_size_per_layer_input: Option<i32>,
    #[serde(default)]
    pub hidden_size_per_layer_input: Option<i32>,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::yes")]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub hidden_activation: Option<String>,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub attention_k_eq_v: bool,
    #[serde(default)]
    pub num_kv_shared_layers: i32,
    #[serde(default)]
    pub use_double_wide_mlp: bool,
    #[serde(default)]
    pub final_logit_softcapping: Option<f32>,
    #[serde(default = "default_sliding_window")]
    pub sliding_window: Option<i32>,
    #[serde(default = "default_sliding_window_pattern")]
    pub sliding_window_pattern: i32,
    #[serde(default)]
    pub layer_types: Option<Vec<String>>,
    #[serde(default)]
    pub enable_moe_block: bool,
    #[serde(default)]
    pub num_experts: Option<i32>,
    #[serde(default)]
    pub top_k_experts: Option<i32>,
    #[serde(default)]
    pub moe_intermediate_size: Option<i32>,
    #[serde(default)]
    pub use_bidirectional_attention: Option<String>,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParametersField>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
}

fn default_head_dim() -> i32 {
    256
}

#[expect(clippy::unnecessary_wraps, reason = "the field may be null")]
fn default_global_head_dim() -> Option<i32> {
    Some(512)
}

#[expect(clippy::unnecessary_wraps, reason = "the field may be null")]
fn default_sliding_window() -> Option<i32> {
    Some(512)
}

fn default_sliding_window_pattern() -> i32 {
    6
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
        config::positive("sliding_window_pattern", self.sliding_window_pattern)?;
        activation(self.hidden_activation.as_deref(), None)?;
        let windows = self.windows()?;
        for slides in [true, false] {
            let shape = self.heads(slides);
            config::attention(self.num_attention_heads, shape.kv_heads, shape.head_dim)?;
        }
        if self.enable_moe_block {
            let (chosen, experts) = self.experts();
            config::experts("top_k_experts", chosen, "num_experts", experts)?;
            config::positive(
                "moe_intermediate_size",
                self.moe_intermediate_size.unwrap_or(0),
            )?;
        }
        if self.use_bidirectional_attention.as_deref() == Some("all") {
            return Err(Error::config(
                "use_bidirectional_attention",
                "is for embedding models, which are not generated from",
            ));
        }
        // Every layer that shares needs one of its kind before it.
        (0..)
            .zip(&windows)
            .try_for_each(|(layer, _)| self.source(layer, &windows).map(|_| ()))
    }

    /// The sliding window of each layer.
    fn windows(&self) -> Result<Vec<Option<i32>>> {
        let slides = match &self.layer_types {
            Some(layer_types) => config::sliding_layers(layer_types, self.num_hidden_layers)?,
            None => (1..=self.num_hidden_layers)
                .map(|layer| {
                    layer % self.sliding_window_pattern != 0 && layer != self.num_hidden_layers
                })
                .collect(),
        };
        config::windows(&slides, self.sliding_window)
    }

    /// The first layer that has no keys and values of its own.
    fn first_shared(&self) -> i32 {
        self.num_hidden_layers - self.num_kv_shared_layers
    }

    /// The layer whose keys and values a layer attends to: itself, or the last of its kind that has
    /// some.
    fn source(&self, layer: i32, windows: &[Option<i32>]) -> Result<i32> {
        if layer < self.first_shared() {
            return Ok(layer);
        }
        let kind = |layer: i32| {
            let layer = usize::try_from(layer).ok()?;
            windows.get(layer).map(Option::is_some)
        };
        (0..self.first_shared())
            .rev()
            .find(|&earlier| kind(earlier) == kind(layer))
            .ok_or_else(|| {
                Error::config(
                    "num_kv_shared_layers",
                    format!("leaves layer {layer} without one of its kind to share with"),
                )
            })
    }

    /// The width of a token's own embedding for each layer, where there is one.
    fn per_layer_width(&self) -> Option<i32> {
        self.hidden_size_per_layer_input.filter(|&width| width > 0)
    }

    fn experts(&self) -> (i32, i32) {
        (
            self.top_k_experts.unwrap_or(0),
            self.num_experts.unwrap_or(0),
        )
    }

    /// The heads of layers of one kind.
    fn heads(&self, slides: bool) -> Heads {
        let keys_are_values = self.attention_k_eq_v && !slides;
        Heads {
            head_dim: match (slides, self.global_head_dim) {
                (false, Some(head_dim)) if head_dim > 0 => head_dim,
                _ => self.head_dim,
            },
            kv_heads: match (keys_are_values, self.num_global_key_value_heads) {
                (true, Some(kv_heads)) => kv_heads,
                _ => self.num_key_value_heads,
            },
            keys_are_values,
        }
    }

    fn rope(&self, slides: bool) -> Result<Rope> {
        let mut published = RopeParameters::default();
        if slides {
            published.rope_theta = Some(10_000.0);
        } else {
            published.rope_type = Some("proportional".to_owned());
            published.partial_rotary_factor = Some(0.25);
            published.rope_theta = Some(1_000_000.0);
        }
        config::RopeConfig {
            head_dim: self.heads(slides).head_dim,
            slides,
            // It holds for sets that do not state their own, which the published ones do.
            theta: self.rope_theta,
            scaling: Some(&published),
            parameters: self.rope_parameters.as_ref().or(self.rope_scaling.as_ref()),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        }
        .build()
    }
}

/// The shape of one layer's heads.
#[derive(Debug, Clone, Copy)]
struct Heads {
    head_dim: i32,
    kv_heads: i32,
    /// Values are the keys before norm and rotation.
    keys_are_values: bool,
}

/// Keys and values of another layer.
type Shared<'a> = Option<&'a (Array, Array)>;

#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Option<Linear>,
    v_proj: Option<Linear>,
    o_proj: Linear,
    q_norm: RmsNorm,
    k_norm: Option<RmsNorm>,
    rope: Rope,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    eps: f32,
}

impl Attention {
    fn new(config: &Config, slides: bool, shares: bool) -> Result<Self> {
        let (dim, heads) = (config.hidden_size, config.num_attention_heads);
        let shape = config.heads(slides);
        let (head_dim, bias) = (shape.head_dim, config.attention_bias);
        let keys = || Linear::placeholder(dim, shape.kv_heads * head_dim, bias);
        let norm = || RmsNorm::new(head_dim, config.rms_norm_eps);
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, bias)?,
            k_proj: (!shares).then(keys).transpose()?,
            v_proj: (!shares && !shape.keys_are_values).then(keys).transpose()?,
            o_proj: Linear::placeholder(heads * head_dim, dim, bias)?,
            q_norm: norm()?,
            k_norm: (!shares).then(norm).transpose()?,
            rope: config.rope(slides)?,
            num_attention_heads: heads,
            num_key_value_heads: shape.kv_heads,
            eps: config.rms_norm_eps,
        })
    }

    /// Attends with its own keys and values, which go into the cache, or with those of another
    /// layer. What is returned besides the output is for layers that share.
    fn forward(
        &self,
        x: &Array,
        start: Offset<'_>,
        mask: &Mask,
        cache: Option<&mut dyn LayerCache>,
        shared: Shared<'_>,
    ) -> Result<(Array, (Array, Array))> {
        let queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let queries = self.rope.forward(&self.q_norm.forward(&queries)?, start)?;
        let kept = match (shared, &self.k_proj, &self.k_norm, cache) {
            (Some(kept), ..) => kept.clone(),
            (None, Some(k_proj), Some(k_norm), Some(cache)) => {
                let keys = heads::split(&k_proj.forward(x)?, self.num_key_value_heads)?;
                let values = match &self.v_proj {
                    Some(v_proj) => heads::split(&v_proj.forward(x)?, self.num_key_value_heads)?,
                    None => keys.clone(),
                };
                let keys = self.rope.forward(&k_norm.forward(&keys)?, start)?;
                cache.update(&keys, &rms_norm(&values, None, self.eps)?)?
            }
            _ => return Err(Error::weights("a layer has no keys")),
        };
        let output = Attend::new(1.0, mask).compute(&queries, &kept.0, &kept.1)?;
        Ok((self.o_proj.forward(&heads::merge(&output)?)?, kept))
    }
}

/// `gelu(gate) · up`.
fn geglu(gate: &Array, up: &Array) -> mlx_nn::Result<Array> {
    Ok(multiply(&gelu_approx(gate)?, up)?)
}

#[derive(Debug, Module)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(config: &Config, shares: bool) -> Result<Self> {
        let dim = config.hidden_size;
        let hidden_dim = match shares && config.use_double_wide_mlp {
            true => config.intermediate_size.saturating_mul(2),
            false => config.intermediate_size,
        };
        Ok(Self {
            gate_proj: Linear::placeholder(dim, hidden_dim, false)?,
            up_proj: Linear::placeholder(dim, hidden_dim, false)?,
            down_proj: Linear::placeholder(hidden_dim, dim, false)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let hidden = geglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?;
        Ok(self.down_proj.forward(&hidden)?)
    }
}

/// Chooses experts by a softmax over those chosen, each with a factor of its own.
#[derive(Debug, Module)]
struct Router {
    proj: Linear,
    scale: Array,
    per_expert_scale: Array,
    top_k_experts: i32,
    hidden_size: i32,
    eps: f32,
}

impl Router {
    fn new(config: &Config) -> Result<Self> {
        let (chosen, experts) = config.experts();
        Ok(Self {
            proj: Linear::placeholder(config.hidden_size, experts, false)?,
            scale: Array::ones::<f32>(&[config.hidden_size])?,
            per_expert_scale: Array::ones::<f32>(&[experts])?,
            top_k_experts: chosen,
            hidden_size: config.hidden_size,
            eps: config.rms_norm_eps,
        })
    }

    fn forward(&self, x: &Array) -> Result<(Array, Array)> {
        let scale = (&self.scale * f64::from(self.hidden_size).powf(-0.5))?;
        let logits = self.proj.forward(&rms_norm(x, Some(&scale), self.eps)?)?;
        let chosen = experts::best(&logits, self.top_k_experts)?;
        let logits = take_along_axis(&logits, &chosen, -1)?;
        let weights = softmax_with(&logits, &[-1], SoftmaxOptions::default().precise(true))?;
        let factors = take(&self.per_expert_scale, &chosen, 0)?;
        Ok((chosen, (weights * factors)?))
    }
}

#[derive(Debug, Module)]
struct Experts {
    switch_glu: SwitchGlu,
}

impl Experts {
    fn new(config: &Config) -> Result<Self> {
        let (_, experts) = config.experts();
        let (dim, hidden_dim) = (
            config.hidden_size,
            config.moe_intermediate_size.unwrap_or(0),
        );
        Ok(Self {
            switch_glu: SwitchGlu::placeholder(dim, hidden_dim, experts, false)?,
        })
    }

    fn forward(&self, x: &Array, chosen: &Array, weights: &Array) -> Result<Array> {
        let outputs = self
            .switch_glu
            .forward_with(x, chosen, |up, gate| geglu(gate, up))?;
        experts::weighted_sum(&outputs, weights)
    }
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    mlp: Mlp,
    router: Option<Router>,
    experts: Option<Experts>,
    post_feedforward_layernorm_1: Option<RmsNorm>,
    pre_feedforward_layernorm_2: Option<RmsNorm>,
    post_feedforward_layernorm_2: Option<RmsNorm>,
    per_layer_input_gate: Option<Linear>,
    per_layer_projection: Option<Linear>,
    post_per_layer_input_norm: Option<RmsNorm>,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
    pre_feedforward_layernorm: RmsNorm,
    post_feedforward_layernorm: RmsNorm,
    layer_scalar: Array,
    window: Option<i32>,
    /// The layer whose keys and values this one attends to.
    source: i32,
}

impl Block {
    fn new(config: &Config, layer: i32, windows: &[Option<i32>]) -> Result<Self> {
        let index = usize::try_from(layer).unwrap_or(usize::MAX);
        let window = windows.get(index).copied().flatten();
        let shares = layer >= config.first_shared();
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps);
        let moe = config.enable_moe_block;
        let (dim, width) = (config.hidden_size, config.per_layer_width());
        Ok(Self {
            self_attn: Attention::new(config, window.is_some(), shares)?,
            mlp: Mlp::new(config, shares)?,
            router: moe.then(|| Router::new(config)).transpose()?,
            experts: moe.then(|| Experts::new(config)).transpose()?,
            post_feedforward_layernorm_1: moe.then(norm).transpose()?,
            pre_feedforward_layernorm_2: moe.then(norm).transpose()?,
            post_feedforward_layernorm_2: moe.then(norm).transpose()?,
            per_layer_input_gate: width
                .map(|width| Linear::placeholder(dim, width, false))
                .transpose()?,
            per_layer_projection: width
                .map(|width| Linear::placeholder(width, dim, false))
                .transpose()?,
            post_per_layer_input_norm: width.map(|_| norm()).transpose()?,
            input_layernorm: norm()?,
            post_attention_layernorm: norm()?,
            pre_feedforward_layernorm: norm()?,
            post_feedforward_layernorm: norm()?,
            layer_scalar: Array::ones::<f32>(&[1])?,
            window,
            source: config.source(layer, windows)?,
        })
    }

    fn forward(
        &self,
        x: &Array,
        own: Option<&Array>,
        start: Offset<'_>,
        mask: &Mask,
        cache: Option<&mut dyn LayerCache>,
        shared: Shared<'_>,
    ) -> Result<(Array, (Array, Array))> {
        let normed = self.input_layernorm.forward(x)?;
        let (attended, kept) = self
            .self_attn
            .forward(&normed, start, mask, cache, shared)?;
        let x = (x + self.post_attention_layernorm.forward(&attended)?)?;
        let transformed = self
            .mlp
            .forward(&self.pre_feedforward_layernorm.forward(&x)?)?;
        let transformed = self.beside_experts(&x, transformed)?;
        let x = (x + self.post_feedforward_layernorm.forward(&transformed)?)?;
        let x = match own {
            Some(own) => self.with_own_embedding(x, own)?,
            None => x,
        };
        Ok(((x * &self.layer_scalar)?, kept))
    }

    /// The output of the MLP and that of the experts, each normalised by itself, added up.
    fn beside_experts(&self, x: &Array, dense: Array) -> Result<Array> {
        let (Some(router), Some(experts), Some(dense_norm), Some(norm_in), Some(norm_out)) = (
            &self.router,
            &self.experts,
            &self.post_feedforward_layernorm_1,
            &self.pre_feedforward_layernorm_2,
            &self.post_feedforward_layernorm_2,
        ) else {
            return Ok(dense);
        };
        let (chosen, weights) = router.forward(x)?;
        let sparse = experts.forward(&norm_in.forward(x)?, &chosen, &weights)?;
        Ok((dense_norm.forward(&dense)? + norm_out.forward(&sparse)?)?)
    }

    /// Adds what the layer makes of the token's own embedding for it.
    fn with_own_embedding(&self, x: Array, own: &Array) -> Result<Array> {
        let (Some(gate), Some(projection), Some(norm)) = (
            &self.per_layer_input_gate,
            &self.per_layer_projection,
            &self.post_per_layer_input_norm,
        ) else {
            return Ok(x);
        };
        let gated = geglu(&gate.forward(&x)?, own)?;
        Ok((&x + norm.forward(&projection.forward(&gated)?)?)?)
    }
}

/// What each layer is given of the tokens besides the residual stream.
#[derive(Debug, Module)]
struct Gemma4 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    embed_tokens_per_layer: Option<Embedding>,
    per_layer_model_projection: Option<Linear>,
    per_layer_projection_norm: Option<RmsNorm>,
}

impl Gemma4 {
    /// A token's own embedding for each layer, `[B, L, layers, width]`: one looked up, one made of
    /// the embedding of the first layer.
    fn per_layer_inputs(&self, tokens: &Array, x: &Array, width: i32) -> Result<Option<Array>> {
        let (Some(table), Some(projection), Some(norm)) = (
            &self.embed_tokens_per_layer,
            &self.per_layer_model_projection,
            &self.per_layer_projection_norm,
        ) else {
            return Ok(None);
        };
        let by_layer = |x: &Array| unflatten(x, -1, &[-1, width]);
        let looked_up = (table.forward(tokens)? * f64::from(width).sqrt())?;
        let scale = f64::from(x.dim(-1)?).powf(-0.5);
        let made = by_layer(&(projection.forward(x)? * scale)?)?;
        let both = (norm.forward(&made)? + by_layer(&looked_up)?)?;
        Ok(Some((both * std::f64::consts::FRAC_1_SQRT_2)?))
    }
}

/// A Gemma 4 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Gemma4,
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
        let windows = config.windows()?;
        let layers = config.num_hidden_layers;
        let all = config
            .per_layer_width()
            .map(|width| (width, width.saturating_mul(layers)));
        let rows = config
            .vocab_size_per_layer_input
            .unwrap_or(config.vocab_size);
        let model = Gemma4 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers: (0..layers)
                .map(|layer| Block::new(&config, layer, &windows))
                .collect::<Result<_>>()?,
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
            embed_tokens_per_layer: all
                .map(|(_, all)| Embedding::placeholder(rows, all))
                .transpose()?,
            per_layer_model_projection: all
                .map(|(_, all)| Linear::placeholder(config.hidden_size, all, false))
                .transpose()?,
            per_layer_projection_norm: all
                .map(|(width, _)| RmsNorm::new(width, config.rms_norm_eps))
                .transpose()?,
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
        scaled_embeddings(&self.model.embed_tokens, tokens, self.config.hidden_size)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        let layers = &self.model.layers;
        let mut x = input.embedded(|tokens| self.embed(tokens))?; // [B, L, D]
        let length = x.dim(1)?;
        let first_shared = usize::try_from(self.config.first_shared()).unwrap_or(0);
        let windows = layers.iter().take(first_shared).map(|layer| layer.window);
        let masks = Masks::new(cache, windows, length)?;
        // Layers that share start where the others did before they wrote.
        let start = match cache.first().map(|first| first.positions()) {
            Some(Offset::Each(starts)) => Start::Each(starts.clone()),
            Some(Offset::Shared(start)) => Start::Shared(start),
            None => Start::Shared(0),
        };
        let width = self.config.per_layer_width().unwrap_or(0);
        let own = self.model.per_layer_inputs(input.tokens, &x, width)?;
        let mut kept: Vec<(Array, Array)> = Vec::with_capacity(layers.len());
        let mut caches = cache.iter_mut();
        for (layer, block) in (0..).zip(layers) {
            let own = own.as_ref().map(|all| of_layer(all, layer)).transpose()?;
            let shared = usize::try_from(block.source)
                .ok()
                .and_then(|source| kept.get(source));
            let mask = masks.of(block.window);
            let (next, own_kept) = block.forward(
                &x,
                own.as_ref(),
                start.offset(),
                mask,
                caches
                    .next()
                    .map(|cache| cache.as_mut() as &mut dyn LayerCache),
                shared,
            )?;
            x = next;
            kept.push(own_kept);
        }
        Ok(self.model.norm.forward(&x)?)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        let logits = match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.model.embed_tokens.as_linear(hidden)?,
        };
        softcap(logits, self.config.final_logit_softcapping)
    }

    /// Layers that share have no entry.
    fn make_cache(&self, options: &CacheOptions) -> Cache {
        let first_shared = usize::try_from(self.config.first_shared()).unwrap_or(0);
        self.model
            .layers
            .iter()
            .take(first_shared)
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

/// The positions that a pass starts from, kept while caches are written.
enum Start {
    Shared(i32),
    Each(Array),
}

impl Start {
    fn offset(&self) -> Offset<'_> {
        match self {
            Self::Shared(start) => Offset::Shared(*start),
            Self::Each(starts) => Offset::Each(starts),
        }
    }
}

/// One layer's part of `[B, L, layers, width]`.
fn of_layer(all: &Array, layer: i32) -> Result<Array> {
    let [batch, length, _, width] = *all.shape() else {
        return Err(Error::weights("per-layer embeddings have no four axes"));
    };
    let part = slice(all, &[0, 0, layer, 0], &[batch, length, layer + 1, width])?;
    Ok(squeeze_axes(&part, &[2])?)
}

/// Renames and drops weights so that exactly the model's own remain.
///
/// # Errors
/// Fails if two weights would end up under one key.
pub fn sanitize(config: &Config, weights: &mut Weights) -> Result<()> {
    sanitize::text_part(weights)?;
    sanitize::rotary_frequencies(weights);
    sanitize::tied_head(weights, config.tie_word_embeddings);
    // Ranges of activations, for other programs.
    for suffix in ["input_max", "input_min", "output_max", "output_min"] {
        weights.drop_suffix(suffix);
    }
    // Checkpoints keep the projections of layers that share, which nothing uses.
    let first_shared = config.first_shared();
    weights.drop_where(|key| {
        let layer = key
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next())
            .and_then(|number| number.parse::<i32>().ok());
        layer.is_some_and(|layer| layer >= first_shared)
            && ["k_proj", "v_proj", "k_norm"]
                .iter()
                .any(|part| key.contains(&format!(".self_attn.{part}.")))
    });
    if config.enable_moe_block {
        let (_, experts) = config.experts();
        sanitize::experts(weights, "experts", "experts.switch_glu", experts)?;
    }
    Ok(())
}
