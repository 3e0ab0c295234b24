//! One layer's way of attending, as the cache of any kind needs to know it.

use mlx_core::ops::arithmetic::tanh;
use mlx_core::ops::fast::{self, AttentionMask};
use mlx_core::ops::indexing::r#where;
use mlx_core::ops::linalg_basic::matmul;
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with};
use mlx_core::ops::shape::{expand_dims, reshape, swapaxes};
use mlx_core::{Array, Dtype};
use mlx_nn::{Mask, create_causal_mask};

use crate::Result;

/// `softmax(cap · tanh(scale · Q Kᵀ / cap) + mask) V`, with optional sinks.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub struct Attend<'a> {
    /// What scores are multiplied with.
    pub scale: f32,
    /// Which keys each query sees.
    pub mask: &'a Mask,
    /// One logit per head, `[H]`, that takes its share of the softmax and
    /// contributes no value, as gpt-oss has them.
    pub sinks: Option<&'a Array>,
    /// Bounds scores to ±cap before the mask, as Gemma 2 does.
    pub softcap: Option<f32>,
}

impl<'a> Attend<'a> {
    /// Plain attention.
    pub const fn new(scale: f32, mask: &'a Mask) -> Self {
        Self {
            scale,
            mask,
            sinks: None,
            softcap: None,
        }
    }

    /// Adds a sink to each head.
    pub const fn sinks(mut self, sinks: Option<&'a Array>) -> Self {
        self.sinks = sinks;
        self
    }

    /// Bounds the scores.
    pub const fn softcap(mut self, cap: Option<f32>) -> Self {
        self.softcap = cap;
        self
    }

    /// Attends with `[B, Hq, L, D]` queries to `[B, H, S, D]` keys and
    /// `[B, H, S, Dv]` values: `[B, Hq, L, Dv]`.
    ///
    /// # Errors
    /// Fails if the shapes do not fit one another, or for sinks with a cap,
    /// which no model has.
    pub fn compute(&self, queries: &Array, keys: &Array, values: &Array) -> Result<Array> {
        match (self.softcap, self.sinks) {
            (None, sinks) => {
                let mask = match self.mask {
                    Mask::Causal => AttentionMask::Causal,
                    Mask::Array(mask) => AttentionMask::Array(mask),
                    _ => AttentionMask::None,
                };
                Ok(fast::scaled_dot_product_attention(
                    queries, keys, values, self.scale, mask, sinks,
                )?)
            }
            (Some(cap), None) => self.capped(queries, keys, values, cap),
            (Some(_), Some(_)) => Err(crate::Error::Option {
                option: "softcap",
                message: "cannot be combined with sinks".to_owned(),
            }),
        }
    }

    /// The fused kernels know no cap, so the scores are materialised.
    fn capped(&self, queries: &Array, keys: &Array, values: &Array, cap: f32) -> Result<Array> {
        let (batch, heads, length) = (queries.dim(0)?, queries.dim(1)?, queries.dim(2)?);
        let (kv_heads, total) = (keys.dim(1)?, keys.dim(2)?);
        // A head axis of its own for the queries that share a key head.
        let grouped = [batch, kv_heads, -1, length, queries.dim(3)?];
        let queries = reshape(&(queries * self.scale)?, &grouped)?;
        let keys = expand_dims(&swapaxes(keys, -1, -2)?, &[2])?;
        let scores = matmul(&queries, &keys)?;
        let scores = (tanh(&(scores / cap)?)? * cap)?;
        let mask = match self.mask {
            Mask::Causal => Some(create_causal_mask(length, total - length, None)?),
            // `[B, H, L, S]` masks have to meet the grouped heads.
            Mask::Array(mask) if mask.ndim() == 4 && mask.dim(1)? == heads && heads > 1 => Some(
                reshape(mask, &[mask.dim(0)?, kv_heads, -1, mask.dim(2)?, total])?,
            ),
            Mask::Array(mask) if mask.ndim() == 4 => Some(expand_dims(mask, &[2])?),
            Mask::Array(mask) => Some(mask.clone()),
            _ => None,
        };
        let scores = match mask {
            None => scores,
            Some(mask) if mask.dtype() == Dtype::Bool => {
                let hidden = Array::scalar(f32::NEG_INFINITY)?;
                r#where(&mask, &scores, &hidden.astype(scores.dtype())?)?
            }
            Some(mask) => (scores + mask)?,
        };
        let weights = softmax_with(&scores, &[-1], SoftmaxOptions::default().precise(true))?;
        let output = matmul(&weights, &expand_dims(values, &[2])?)?;
        Ok(reshape(&output, &[batch, heads, length, values.dim(3)?])?)
    }
}
