//! GPT-2 ("Language Models are Unsupervised Multitask Learners", 2019): learned positions, norms with
//! an offset, one matrix for queries, keys and values.
//!
//! Follows `mlx_lm/models/gpt2.py` of mlx-lm 0.32.2.

use mlx_core::ops::shape::{expand_dims, split, swapaxes};
use mlx_core::{Array, Dtype};
use mlx_nn::activation::gelu_approx;
use mlx_nn::{Embedding, LayerNorm, Linear, Mask, Module, Offset, Weights};
use serde::Deserialize;

use super::parts::three;
use super::{heads, sanitize};
use crate::cache::{Attend, Cache, CacheOptions, LayerCache, Masks, attention_cache};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a GPT-2 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub model_type: String,
    pub n_embd: i32,
    pub n_layer: i32,
    pub n_head: i32,
    pub n_positions: i32,
    #[serde(default)]
    pub n_ctx: Option<i32>,
    #[serde(default)]
    pub n_inner: Option<i32>,
    pub layer_norm_epsilon: f32,
    pub vocab_size: i32,
    #[serde(default)]
    pub activation_function: Option<String>,
    #[serde(default = "config::yes")]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub scale_attn_by_inverse_layer_idx: bool,
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
        config::positive("n_embd", self.n_embd)?;
        config::layers(self.n_layer)?;
        config::positive("n_head", self.n_head)?;
        config::divisible("n_embd", self.n_embd, "n_head", self.n_head)?;
        config::positive("n_positions", self.n_positions)?;
        config::positive("vocab_size", self.vocab_size)?;
        config::positive("n_inner", self.hidden_dim())?;
        config::only(
            "activation_function",
            self.activation_function.as_deref(),
            "gelu_new",
        )?;
        match self.scale_attn_by_inverse_layer_idx {
            true => Err(Error::config(
                "scale_attn_by_inverse_layer_idx",
                "is not supported",
            )),
            false => Ok(()),
        }
    }

    fn hidden_dim(&self) -> i32 {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }
}

#[derive(Debug, Module)]
struct Attention {
    c_attn: Linear,
    c_proj: Linear,
    n_head: i32,
    scale: f32,
}

impl Attention {
    fn new(config: &Config) -> Result<Self> {
        let dim = config.n_embd;
        Ok(Self {
            c_attn: Linear::placeholder(dim, 3 * dim, true)?,
            c_proj: Linear::placeholder(dim, dim, true)?,
            n_head: config.n_head,
            scale: config::attention_scale(dim / config.n_head),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let [queries, keys, values] = three(split(&self.c_attn.forward(x)?, 3, -1)?)?;
        let queries = heads::split(&queries, self.n_head)?;
        let keys = heads::split(&keys, self.n_head)?;
        let values = heads::split(&values, self.n_head)?;
        let output = cache.attend(&queries, &keys, &values, Attend::new(self.scale, mask))?;
        Ok(self.c_proj.forward(&heads::merge(&output)?)?)
    }
}

#[derive(Debug, Module)]
struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
}

impl Mlp {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.n_embd, config.hidden_dim());
        Ok(Self {
            c_fc: Linear::placeholder(dim, hidden_dim, true)?,
            c_proj: Linear::placeholder(hidden_dim, dim, true)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        Ok(self.c_proj.forward(&gelu_approx(&self.c_fc.forward(x)?)?)?)
    }
}

#[derive(Debug, Module)]
struct Block {
    attn: Attention,
    mlp: Mlp,
    ln_1: LayerNorm,
    ln_2: LayerNorm,
}

impl Block {
    fn new(config: &Config) -> Result<Self> {
        Ok(Self {
            attn: Attention::new(config)?,
            mlp: Mlp::new(config)?,
            ln_1: LayerNorm::new(config.n_embd, config.layer_norm_epsilon)?,
            ln_2: LayerNorm::new(config.n_embd, config.layer_norm_epsilon)?,
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let attended = self.attn.forward(&self.ln_1.forward(x)?, mask, cache)?;
        let x = (x + attended)?;
        let transformed = self.mlp.forward(&self.ln_2.forward(&x)?)?;
        Ok((x + transformed)?)
    }
}

#[derive(Debug, Module)]
struct Gpt2 {
    wte: Embedding,
    wpe: Embedding,
    h: Vec<Block>,
    ln_f: LayerNorm,
}

/// A GPT-2 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: Gpt2,
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
        let model = Gpt2 {
            wte: Embedding::placeholder(config.vocab_size, config.n_embd)?,
            wpe: Embedding::placeholder(config.n_positions, config.n_embd)?,
            h: (0..config.n_layer)
                .map(|_| Block::new(&config))
                .collect::<Result<_>>()?,
            ln_f: LayerNorm::new(config.n_embd, config.layer_norm_epsilon)?,
        };
        let head = || Linear::placeholder(config.n_embd, config.vocab_size, false);
        let lm_head = (!config.tie_word_embeddings).then(head).transpose()?;
        Ok(Self {
            model,
            lm_head,
            config,
        })
    }

    /// The learned embeddings of the next `length` positions, `[1, L, D]` or `[B, L, D]`.
    fn positions(&self, start: Offset<'_>, length: i32) -> Result<Array> {
        let steps = Array::arange_dtype(0.0, f64::from(length), 1.0, Dtype::Int32)?;
        let positions = match start {
            Offset::Shared(start) => expand_dims(&(steps + start)?, &[0])?,
            Offset::Each(starts) => (expand_dims(&starts.astype(Dtype::Int32)?, &[1])? + steps)?,
        };
        Ok(self.model.wpe.forward(&positions)?)
    }
}

impl LanguageModel for Model {
    fn embed(&self, tokens: &Array) -> Result<Array> {
        Ok(self.model.wte.forward(tokens)?)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        let layers = &self.model.h;
        let mut x = input.embedded(|tokens| self.embed(tokens))?; // [B, L, D]
        let masks = Masks::new(cache, layers.iter().map(|_| None), x.dim(1)?)?;
        if let Some(first) = cache.first() {
            x = (&x + self.positions(first.positions(), x.dim(1)?)?)?;
        }
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, masks.of(None), cache.as_mut())?;
        }
        Ok(self.model.ln_f.forward(&x)?)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        Ok(match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.model.wte.as_linear(hidden)?,
        })
    }

    fn make_cache(&self, options: &CacheOptions) -> Cache {
        self.model
            .h
            .iter()
            .map(|_| attention_cache(None, options))
            .collect()
    }

    fn vocab_size(&self) -> i32 {
        self.config.vocab_size
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        Some(self.config.n_positions)
    }
}

/// Renames and drops weights so that exactly the model's own remain.
///
/// # Errors
/// Fails if two weights would end up under one key.
pub fn sanitize(config: &Config, weights: &mut Weights) -> Result<()> {
    // The checkpoint of the language model alone has no prefix; that of the whole model has one.
    let bare = weights.contains("wte.weight");
    if bare || weights.contains("transformer.wte.weight") {
        weights.rename_prefix("transformer.", "")?;
        weights.drop_where(|key| key.ends_with(".attn.bias") || key.ends_with(".masked_bias"));
        weights
            .rename_with(|key| (!key.starts_with("lm_head.")).then(|| format!("model.{key}")))?;
        // OpenAI's matrices are stored `[in, out]`.
        let matrices = ["c_attn.weight", "c_proj.weight", "c_fc.weight"];
        let keys: Vec<String> = weights
            .keys()
            .filter(|key| matrices.iter().any(|matrix| key.ends_with(matrix)))
            .map(str::to_owned)
            .collect();
        for key in keys {
            if let Some(matrix) = weights.take(&key) {
                weights.insert(key, swapaxes(&matrix, 0, 1)?)?;
            }
        }
    }
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}
