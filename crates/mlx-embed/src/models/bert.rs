//! BERT ("BERT: Pre-training of Deep Bidirectional Transformers", 2018), which
//! also carries MiniLM, BGE, E5, GTE, mxbai and arctic-embed.
//!
//! Follows `models/bert/modeling_bert.py` of transformers 5.23. Normalisation
//! comes after each residual sum, positions are learned.

use mlx_core::ops::shape::{reshape, transpose_axes};
use mlx_core::{Array, Dtype};
use mlx_lm::registry::ConfigMap;
use mlx_nn::{
    Activation, Embedding, LayerNorm, Linear, Mask, Module, Weights, scaled_dot_product_attention,
};
use serde::Deserialize;

use crate::folder::parse_model;
use crate::{Error, Result, TextEncoder, TokenBatch};

/// The keys of `config.json` that shape a BERT model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub vocab_size: i32,
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub num_attention_heads: i32,
    pub intermediate_size: i32,
    pub max_position_embeddings: i32,
    #[serde(default = "default_act")]
    pub hidden_act: Activation,
    #[serde(default = "default_type_vocab_size")]
    pub type_vocab_size: i32,
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f32,
    #[serde(default)]
    pub position_embedding_type: Option<String>,
    #[serde(default)]
    pub is_decoder: bool,
}

const fn default_act() -> Activation {
    Activation::Gelu
}

const fn default_type_vocab_size() -> i32 {
    2
}

const fn default_eps() -> f32 {
    1e-12
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that is missing or unsupported.
    pub fn from_json(json: &ConfigMap) -> Result<Self> {
        let config: Self = parse_model(json)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::config("config.json", message));
        // Upper limits are beyond any model; each layer costs memory before a weight is looked at.
        for (field, value, limit) in [
            ("vocab_size", self.vocab_size, i32::MAX),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("num_hidden_layers", self.num_hidden_layers, 10_000),
            ("num_attention_heads", self.num_attention_heads, 1 << 20),
            ("intermediate_size", self.intermediate_size, i32::MAX),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                i32::MAX,
            ),
            ("type_vocab_size", self.type_vocab_size, i32::MAX),
        ] {
            if !(1..=limit).contains(&value) {
                return refuse(format!(
                    "field `{field}`: {value} is not within 1 to {limit}"
                ));
            }
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            return refuse(format!(
                "field `hidden_size`: {} is not a multiple of num_attention_heads = {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite()) {
            return refuse(format!(
                "field `layer_norm_eps`: {} is not positive",
                self.layer_norm_eps
            ));
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => {
                return refuse(format!(
                    "field `position_embedding_type`: `{other}` is not supported, only `absolute`"
                ));
            }
        }
        if self.is_decoder {
            return refuse("field `is_decoder`: a decoder is not supported".to_owned());
        }
        Ok(())
    }
}

#[derive(Debug, Module)]
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    #[module(name = "LayerNorm")]
    layer_norm: LayerNorm,
}

impl Embeddings {
    fn new(config: &Config) -> Result<Self> {
        let dim = config.hidden_size;
        Ok(Self {
            word_embeddings: Embedding::placeholder(config.vocab_size, dim)?,
            position_embeddings: Embedding::placeholder(config.max_position_embeddings, dim)?,
            token_type_embeddings: Embedding::placeholder(config.type_vocab_size, dim)?,
            layer_norm: LayerNorm::new(dim, config.layer_norm_eps)?,
        })
    }

    fn forward(&self, batch: &TokenBatch) -> Result<Array> {
        let positions = Array::arange_dtype(0.0, f64::from(batch.width()), 1.0, Dtype::Uint32)?;
        let words = self.word_embeddings.forward(batch.input_ids())?; // [B, L, D]
        let types = self.token_type_embeddings.forward(batch.token_type_ids())?; // [B, L, D]
        let positions = self.position_embeddings.forward(&positions)?; // [L, D]
        let sum = (words + types + positions)?;
        Ok(self.layer_norm.forward(&sum)?)
    }
}

#[derive(Debug, Module)]
struct SelfAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    num_attention_heads: i32,
    scale: f32,
}

impl SelfAttention {
    fn new(config: &Config) -> Result<Self> {
        let dim = config.hidden_size;
        Ok(Self {
            query: Linear::placeholder(dim, dim, true)?,
            key: Linear::placeholder(dim, dim, true)?,
            value: Linear::placeholder(dim, dim, true)?,
            num_attention_heads: config.num_attention_heads,
            scale: attention_scale(dim / config.num_attention_heads),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask) -> Result<Array> {
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let split = |projected: Array| -> Result<Array> {
            let heads_last = reshape(&projected, &[batch, length, self.num_attention_heads, -1])?;
            Ok(transpose_axes(&heads_last, &[0, 2, 1, 3])?) // [B, H, L, D / H]
        };
        let queries = split(self.query.forward(x)?)?;
        let keys = split(self.key.forward(x)?)?;
        let values = split(self.value.forward(x)?)?;
        let output = scaled_dot_product_attention(&queries, &keys, &values, self.scale, mask)?;
        Ok(reshape(
            &transpose_axes(&output, &[0, 2, 1, 3])?,
            &[batch, length, -1],
        )?)
    }
}

/// The projection after attention or the MLP, with the residual sum and its norm.
#[derive(Debug, Module)]
struct Output {
    dense: Linear,
    #[module(name = "LayerNorm")]
    layer_norm: LayerNorm,
}

impl Output {
    fn new(input_dims: i32, config: &Config) -> Result<Self> {
        Ok(Self {
            dense: Linear::placeholder(input_dims, config.hidden_size, true)?,
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps)?,
        })
    }

    fn forward(&self, x: &Array, residual: &Array) -> Result<Array> {
        let sum = (self.dense.forward(x)? + residual)?;
        Ok(self.layer_norm.forward(&sum)?)
    }
}

#[derive(Debug, Module)]
struct Attention {
    #[module(name = "self")]
    self_attention: SelfAttention,
    output: Output,
}

#[derive(Debug, Module)]
struct Intermediate {
    dense: Linear,
}

#[derive(Debug, Module)]
struct Layer {
    attention: Attention,
    intermediate: Intermediate,
    output: Output,
    hidden_act: Activation,
}

impl Layer {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            attention: Attention {
                self_attention: SelfAttention::new(config)?,
                output: Output::new(dim, config)?,
            },
            intermediate: Intermediate {
                dense: Linear::placeholder(dim, hidden_dim, true)?,
            },
            output: Output::new(hidden_dim, config)?,
            hidden_act: config.hidden_act,
        })
    }

    fn forward(&self, x: &Array, mask: &Mask) -> Result<Array> {
        let attended = self.attention.self_attention.forward(x, mask)?;
        let x = self.attention.output.forward(&attended, x)?;
        let hidden = self.intermediate.dense.forward(&x)?;
        self.output.forward(&self.hidden_act.forward(&hidden)?, &x)
    }
}

#[derive(Debug, Module)]
struct Encoder {
    layer: Vec<Layer>,
}

/// A BERT encoder without heads.
#[derive(Debug, Module)]
pub struct Model {
    embeddings: Embeddings,
    encoder: Encoder,
    hidden_size: i32,
    max_position_embeddings: i32,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Nn`] if a dimension is not positive.
    pub fn new(config: &Config) -> Result<Self> {
        let layers = (0..config.num_hidden_layers).map(|_| Layer::new(config));
        Ok(Self {
            embeddings: Embeddings::new(config)?,
            encoder: Encoder {
                layer: layers.collect::<Result<_>>()?,
            },
            hidden_size: config.hidden_size,
            max_position_embeddings: config.max_position_embeddings,
        })
    }
}

impl TextEncoder for Model {
    fn forward(&self, batch: &TokenBatch) -> Result<Array> {
        if batch.width() > self.max_position_embeddings {
            let message = format!(
                "{} tokens, but there are {} positions",
                batch.width(),
                self.max_position_embeddings
            );
            return Err(mlx_nn::Error::InvalidArgument {
                layer: "Bert",
                message,
            }
            .into());
        }
        let mut x = self.embeddings.forward(batch)?; // [B, L, D]
        let mask = batch.attention_bias(x.dtype())?;
        for layer in &self.encoder.layer {
            x = layer.forward(&x, &mask)?;
        }
        Ok(x)
    }

    fn hidden_size(&self) -> i32 {
        self.hidden_size
    }

    fn max_position_embeddings(&self) -> i32 {
        self.max_position_embeddings
    }
}

/// Renames and drops weights so that exactly the encoder's own remain.
///
/// # Errors
/// Fails if two weights would end up under one key.
pub fn sanitize(_config: &Config, weights: &mut Weights) -> Result<()> {
    // Checkpoints saved with a head, such as bert-base-uncased, nest the encoder.
    weights.rename_prefix("bert.", "")?;
    // Those converted from TensorFlow name the parts of a norm after the paper.
    weights.rename_suffix(".LayerNorm.gamma", ".LayerNorm.weight")?;
    weights.rename_suffix(".LayerNorm.beta", ".LayerNorm.bias")?;
    // A saved constant, 0 to max_position_embeddings − 1.
    weights.drop_suffix("embeddings.position_ids");
    // The pooler is a projection trained for next-sentence prediction, and `cls.` holds the heads
    // of pre-training; sentence embeddings are pooled from the tokens' vectors instead.
    weights.drop_prefix("pooler.");
    weights.drop_prefix("cls.");
    Ok(())
}

/// `head_dim ** -0.5`, rounded once.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is what is wanted"
)]
fn attention_scale(head_dim: i32) -> f32 {
    f64::from(head_dim).powf(-0.5) as f32
}
