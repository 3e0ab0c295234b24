//! The head for the token after the next one that DeepSeek-V3 and GLM-4.5 keep behind their last
//! layer ("DeepSeek-V3 Technical Report", 2024, section 2.2): a layer like the others, with a
//! projection before it that joins a hidden state and the embedding of the token that follows.
//!
//! Follows vLLM's `deepseek_mtp.py` and `glm4_moe_mtp.py`. What a further step is fed is normalised,
//! as the hidden states of the model are.

use mlx_core::Array;
use mlx_core::ops::shape::concatenate;
use mlx_nn::{Embedding, KeyPath, Linear, Mask, Module, RmsNorm, Visitor, VisitorMut, Weights};

use super::sanitize;
use crate::cache::{LayerCache, Masks};
use crate::{Error, Result};

/// What a checkpoint has of the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its own copy of the embeddings, beside those of the model.
    embed_tokens: bool,
    /// Its own output matrix.
    head: bool,
}

/// Leaves out the layers from `num_hidden_layers` on but the first, which is a head if its weights
/// are all there, and tells what they are. Published checkpoints have one such layer at most.
pub(super) fn keep(weights: &mut Weights, num_hidden_layers: i32) -> Option<Stored> {
    let has = |name: &str| weights.contains(&format!("model.layers.{num_hidden_layers}.{name}"));
    let stored = has("eh_proj.weight").then(|| Stored {
        embed_tokens: has("embed_tokens.weight"),
        head: has("shared_head.head.weight"),
    });
    let kept = num_hidden_layers.saturating_add(i32::from(stored.is_some()));
    sanitize::later_layers(weights, kept);
    stored
}

/// What is wrong if a model without the head is asked to use it.
pub(super) fn missing() -> Error {
    Error::weights("there is no head for the token after the next one")
}

/// The head, whose layer is a `B`.
#[derive(Debug)]
pub(super) struct NextToken<B> {
    /// Its number among the model's layers, which its keys have.
    layer: usize,
    pub(super) block: B,
    parts: Parts,
}

/// What it has that other layers have not, under keys beside those of the layer.
#[derive(Debug, Module)]
struct Parts {
    enorm: RmsNorm,
    hnorm: RmsNorm,
    eh_proj: Linear,
    embed_tokens: Option<Embedding>,
    shared_head: SharedHead,
}

#[derive(Debug, Module)]
struct SharedHead {
    norm: RmsNorm,
    head: Option<Linear>,
}

impl<B: Module> Module for NextToken<B> {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        let path = path.index(self.layer);
        self.block.visit(&path, visitor);
        self.parts.visit(&path, visitor);
    }

    fn visit_mut(
        &mut self,
        path: &KeyPath<'_>,
        visitor: &mut dyn VisitorMut,
    ) -> mlx_nn::Result<()> {
        let path = path.index(self.layer);
        self.block.visit_mut(&path, visitor)?;
        self.parts.visit_mut(&path, visitor)
    }
}

impl<B> NextToken<B> {
    /// The head at the place of layer `layer`, with `block` as that layer.
    pub(super) fn new(
        layer: i32,
        block: B,
        stored: Stored,
        (hidden_size, vocab_size): (i32, i32),
        rms_norm_eps: f32,
    ) -> Result<Self> {
        let norm = || RmsNorm::new(hidden_size, rms_norm_eps);
        let embeddings = || Embedding::placeholder(vocab_size, hidden_size);
        let head = || Linear::placeholder(hidden_size, vocab_size, false);
        Ok(Self {
            layer: usize::try_from(layer).unwrap_or(0),
            block,
            parts: Parts {
                enorm: norm()?,
                hnorm: norm()?,
                eh_proj: Linear::placeholder(hidden_size.saturating_mul(2), hidden_size, false)?,
                embed_tokens: stored.embed_tokens.then(embeddings).transpose()?,
                shared_head: SharedHead {
                    norm: norm()?,
                    head: stored.head.then(head).transpose()?,
                },
            },
        })
    }

    /// Hidden states and the tokens that follow, both `[B, L, ..]`, to the head's own hidden states.
    ///
    /// `embed` is the model's embedding, `forward` the block's.
    pub(super) fn hidden(
        &self,
        hidden: &Array,
        tokens: &Array,
        cache: &mut [Box<dyn LayerCache>],
        embed: impl FnOnce(&Array) -> Result<Array>,
        forward: impl FnOnce(&B, &Array, &Mask, &mut dyn LayerCache) -> Result<Array>,
    ) -> Result<Array> {
        let parts = &self.parts;
        let embedded = match &parts.embed_tokens {
            Some(embed_tokens) => embed_tokens.forward(tokens)?,
            None => embed(tokens)?,
        };
        let joined = [
            &parts.enorm.forward(&embedded)?,
            &parts.hnorm.forward(hidden)?,
        ];
        let x = parts.eh_proj.forward(&concatenate(&joined, -1)?)?;
        let masks = Masks::new(cache, std::iter::once(None), x.dim(1)?)?;
        let x = match cache.first_mut() {
            Some(cache) => forward(&self.block, &x, masks.of(None), cache.as_mut())?,
            None => x,
        };
        Ok(parts.shared_head.norm.forward(&x)?)
    }

    /// Logits by the head's own output matrix, or by the model's.
    pub(super) fn logits(
        &self,
        hidden: &Array,
        shared: impl FnOnce(&Array) -> Result<Array>,
    ) -> Result<Array> {
        match &self.parts.shared_head.head {
            Some(head) => Ok(head.forward(hidden)?),
            None => shared(hidden),
        }
    }
}
