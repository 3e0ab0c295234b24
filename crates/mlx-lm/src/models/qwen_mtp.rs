//! The head for the token after the next one of Qwen3-Next and Qwen3.5, under the keys `mtp.…`: a
//! layer of gated attention, with a projection before it that joins a hidden state and the
//! embedding of the token that follows.
//!
//! Follows vLLM's `qwen3_next_mtp.py`. Embeddings and output matrix are the model's.

use mlx_core::Array;
use mlx_core::ops::shape::concatenate;
use mlx_nn::{Linear, Module, RmsNorm, Weights};

use super::qwen3_next::{Attention, AttentionConfig, FeedForward};
use crate::Result;
use crate::cache::{KindMasks, LayerCache, LayerKind};

/// What a checkpoint has of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Whether its layer has experts.
    pub(super) sparse: bool,
}

/// Brings the head's weights under `mtp.`, whatever a wrapper put before that, leaves out those of
/// a second layer, and tells what they are; without a whole head, leaves out all of them.
pub(super) fn keep(weights: &mut Weights) -> Result<Option<Stored>> {
    weights.rename_with(|key| {
        let (_, rest) = key.split_once(".mtp.")?;
        Some(format!("mtp.{rest}"))
    })?;
    let has = |name: &str| weights.contains(&format!("mtp.{name}.weight"));
    let sparse = has("layers.0.mlp.gate");
    let stored = has("fc").then_some(Stored { sparse });
    weights.drop_where(|key| {
        let own = key.strip_prefix("mtp.");
        own.is_some_and(|own| {
            stored.is_none() || (own.starts_with("layers.") && !own.starts_with("layers.0."))
        })
    });
    Ok(stored)
}

/// Takes the head's weights out, so that what concerns the text part of a multimodal checkpoint
/// does not find them.
pub(super) fn set_aside(weights: &mut Weights) -> Vec<(String, Array)> {
    let keys = weights.keys().filter(|key| key.starts_with("mtp."));
    let keys: Vec<String> = keys.map(str::to_owned).collect();
    let taken = keys.into_iter().filter_map(|key| {
        let array = weights.take(&key)?;
        Some((key, array))
    });
    taken.collect()
}

/// The head.
#[derive(Debug, Module)]
pub(super) struct Mtp {
    pre_fc_norm_embedding: RmsNorm,
    pre_fc_norm_hidden: RmsNorm,
    fc: Linear,
    layers: Vec<Block>,
    norm: RmsNorm,
}

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    mlp: FeedForward,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl Mtp {
    pub(super) fn new(attention: &AttentionConfig, mlp: FeedForward) -> Result<Self> {
        let dim = attention.hidden_size;
        let norm = || RmsNorm::new(dim, attention.rms_norm_eps);
        Ok(Self {
            pre_fc_norm_embedding: norm()?,
            pre_fc_norm_hidden: norm()?,
            fc: Linear::placeholder(dim.saturating_mul(2), dim, false)?,
            layers: vec![Block {
                self_attn: Attention::new(attention)?,
                mlp,
                input_layernorm: norm()?,
                post_attention_layernorm: norm()?,
            }],
            norm: norm()?,
        })
    }

    /// Hidden states `[B, L, D]` and embeddings of the tokens that follow to the head's own hidden
    /// states.
    pub(super) fn hidden(
        &self,
        hidden: &Array,
        embedded: &Array,
        cache: &mut [Box<dyn LayerCache>],
    ) -> Result<Array> {
        let joined = [
            &self.pre_fc_norm_embedding.forward(embedded)?,
            &self.pre_fc_norm_hidden.forward(hidden)?,
        ];
        let mut x = self.fc.forward(&concatenate(&joined, -1)?)?;
        let kinds = self.layers.iter().map(|_| LayerKind::Full);
        let masks = KindMasks::new(cache, kinds, x.dim(1)?)?;
        for (layer, cache) in self.layers.iter().zip(cache) {
            let normed = layer.input_layernorm.forward(&x)?;
            let mask = masks.of(LayerKind::Full);
            let attended = layer.self_attn.forward(&normed, mask, cache.as_mut())?;
            x = (x + attended)?;
            let normed = layer.post_attention_layernorm.forward(&x)?;
            let transformed = layer.mlp.forward(&normed)?;
            x = (x + transformed)?;
        }
        Ok(self.norm.forward(&x)?)
    }
}
