//! One layer's way of attending, as the cache of any kind needs to know it.

use mlx_core::ops::arithmetic::tanh;
use mlx_core::ops::fast::{self, AttentionMask};
use mlx_core::ops::indexing::{slice, r#where};
use mlx_core::ops::linalg_basic::matmul;
use mlx_core::ops::misc::astype;
use mlx_core::ops::quantized::{QuantizationLayout, quantized_matmul};
use mlx_core::ops::reduction::{SoftmaxOptions, softmax_with};
use mlx_core::ops::shape::{broadcast_to, concatenate, expand_dims, reshape, swapaxes};
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
    /// Fails if the shapes do not fit one another.
    pub fn compute(&self, queries: &Array, keys: &Array, values: &Array) -> Result<Array> {
        if self.softcap.is_some() {
            return self.capped(queries, keys, values);
        }
        let mask = match self.mask {
            Mask::Causal => AttentionMask::Causal,
            Mask::Array(mask) => AttentionMask::Array(mask),
            _ => AttentionMask::None,
        };
        Ok(fast::scaled_dot_product_attention(
            queries, keys, values, self.scale, mask, self.sinks,
        )?)
    }

    /// The fused kernels know no cap, so the scores are materialised.
    fn capped(&self, queries: &Array, keys: &Array, values: &Array) -> Result<Array> {
        let grouped = self.grouped(queries, keys.dim(1)?)?;
        let keys = expand_dims(&swapaxes(keys, -1, -2)?, &[2])?;
        let weights = self.weights(&matmul(&grouped, &keys)?)?;
        let output = matmul(&weights, &expand_dims(values, &[2])?)?;
        ungrouped(&output, queries)
    }

    /// The same with packed keys and values: codes, scales and biases each.
    pub(super) fn quantized(
        &self,
        queries: &Array,
        keys: [&Array; 3],
        values: [&Array; 3],
        layout: QuantizationLayout,
    ) -> Result<Array> {
        let product = |x: &Array, packed: [&Array; 3], transpose| -> Result<Array> {
            let [codes, scales, biases] = packed;
            let biases = expand_dims(biases, &[2])?;
            Ok(quantized_matmul(
                x,
                &expand_dims(codes, &[2])?,
                &expand_dims(scales, &[2])?,
                Some(&biases),
                transpose,
                layout,
            )?)
        };
        let grouped = self.grouped(queries, keys[0].dim(1)?)?;
        let weights = self.weights(&product(&grouped, keys, true)?)?;
        ungrouped(&product(&weights, values, false)?, queries)
    }

    /// Scaled queries with an axis of their own for those that share a key
    /// head, `[B, H, Hq / H, L, D]`.
    fn grouped(&self, queries: &Array, kv_heads: i32) -> Result<Array> {
        let (batch, length) = (queries.dim(0)?, queries.dim(2)?);
        let shape = [batch, kv_heads, -1, length, queries.dim(3)?];
        Ok(reshape(&(queries * self.scale)?, &shape)?)
    }

    /// Scores `[B, H, R, L, S]` to weights of the same shape.
    fn weights(&self, scores: &Array) -> Result<Array> {
        let (kv_heads, repeats) = (scores.dim(1)?, scores.dim(2)?);
        let (length, total) = (scores.dim(3)?, scores.dim(4)?);
        let scores = match self.softcap {
            Some(cap) => (tanh(&(scores / cap)?)? * cap)?,
            None => scores.clone(),
        };
        let heads = kv_heads * repeats;
        let mask = match self.mask {
            Mask::Causal => Some(create_causal_mask(length, total - length, None)?),
            // `[B, H, L, S]` masks have to meet the grouped heads.
            Mask::Array(mask) if mask.ndim() == 4 && mask.dim(1)? == heads && heads > 1 => {
                let shape = [mask.dim(0)?, kv_heads, repeats, mask.dim(2)?, total];
                Some(reshape(mask, &shape)?)
            }
            Mask::Array(mask) if mask.ndim() == 4 => Some(expand_dims(mask, &[2])?),
            Mask::Array(mask) => Some(mask.clone()),
            _ => None,
        };
        let scores = match mask {
            None => scores,
            Some(mask) if mask.dtype() == Dtype::Bool => {
                let hidden = Array::scalar_dtype(f64::NEG_INFINITY, scores.dtype())?;
                r#where(&mask, &scores, &hidden)?
            }
            Some(mask) => (scores + mask)?,
        };
        let softmax =
            |scores: &Array| softmax_with(scores, &[-1], SoftmaxOptions::default().precise(true));
        let Some(sinks) = self.sinks else {
            return Ok(softmax(&scores)?);
        };
        // A sink is one more key that has no value.
        let batch = scores.dim(0)?;
        let sinks = reshape(sinks, &[1, kv_heads, repeats, 1, 1])?;
        let sinks = broadcast_to(&sinks, &[batch, kv_heads, repeats, length, 1])?;
        let with_sinks = concatenate(&[&scores, &astype(&sinks, scores.dtype())?], -1)?;
        let weights = softmax(&with_sinks)?;
        let stops = [batch, kv_heads, repeats, length, total];
        Ok(slice(&weights, &[0, 0, 0, 0, 0], &stops)?)
    }
}

/// `[B, H, R, L, Dv]` as `[B, Hq, L, Dv]`.
fn ungrouped(output: &Array, queries: &Array) -> Result<Array> {
    let (batch, heads, length) = (queries.dim(0)?, queries.dim(1)?, queries.dim(2)?);
    Ok(reshape(output, &[batch, heads, length, output.dim(-1)?])?)
}
