//! What the Gemma models have in common.

use mlx_core::Array;
use mlx_core::ops::arithmetic::tanh;
use mlx_core::ops::fast::rms_norm;
use mlx_nn::{Embedding, Module};

use crate::{Error, Result};

/// A normalisation of which the stored weight is zero-centred: it scales by `1 + weight`.
#[derive(Debug, Clone, Module)]
pub(super) struct GemmaRmsNorm {
    weight: Array,
    eps: f32,
}

impl GemmaRmsNorm {
    pub(super) fn new(dims: i32, eps: f32) -> Result<Self> {
        Ok(Self {
            weight: Array::zeros::<f32>(&[dims])?,
            eps,
        })
    }

    pub(super) fn forward(&self, x: &Array) -> Result<Array> {
        Ok(rms_norm(x, Some(&(&self.weight + 1.0)?), self.eps)?)
    }
}

/// The embeddings times √D, in the dtype that they have.
pub(super) fn scaled_embeddings(
    embed_tokens: &Embedding,
    tokens: &Array,
    hidden_size: i32,
) -> Result<Array> {
    Ok((embed_tokens.forward(tokens)? * f64::from(hidden_size).sqrt())?)
}

/// Bounds logits to ±cap.
pub(super) fn softcap(logits: Array, cap: Option<f32>) -> Result<Array> {
    match cap {
        Some(cap) => Ok((tanh(&(logits / cap)?)? * cap)?),
        None => Ok(logits),
    }
}

/// Fails unless the activation is the tanh-approximated GELU. `hidden_act` is a leftover that says
/// `gelu` in early checkpoints, which mean the same.
pub(super) fn activation(hidden_activation: Option<&str>, hidden_act: Option<&str>) -> Result<()> {
    match (hidden_activation, hidden_act) {
        (Some("gelu_pytorch_tanh") | None, _) => Ok(()),
        (Some(other), _) => Err(Error::config(
            "hidden_activation",
            format!("`{other}` is not supported, only `gelu_pytorch_tanh`"),
        )),
    }
}
