//! The decoder half of a transformer.

use mlx_core::Array;

use super::{Keys, TransformerOptions, feed_forward};
use crate::{
    Activation, Dropout, LayerNorm, Linear, Mask, Mode, Module, MultiHeadAttention, Result,
};

/// Self-attention, attention to a memory, and two linear layers, each with a residual connection.
///
/// Keys: `self_attention`, `cross_attention`, `ln1`, `ln2`, `ln3`, `linear1`, `linear2`.
#[derive(Debug, Clone, Module)]
pub struct TransformerDecoderLayer {
    self_attention: MultiHeadAttention,
    cross_attention: MultiHeadAttention,
    ln1: LayerNorm,
    ln2: LayerNorm,
    ln3: LayerNorm,
    linear1: Linear,
    linear2: Linear,
    dropout1: Dropout,
    dropout2: Dropout,
    dropout3: Dropout,
    activation: Activation,
    norm_first: bool,
}

impl TransformerDecoderLayer {
    /// A fresh layer.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a size is not positive or the
    /// heads do not divide the features.
    pub fn new(options: &TransformerOptions) -> Result<Self> {
        let dims = options.dims;
        let mlp_dims = options.mlp_dims.unwrap_or(dims.saturating_mul(4));
        Ok(Self {
            self_attention: MultiHeadAttention::new(dims, options.num_heads)?,
            cross_attention: MultiHeadAttention::new(dims, options.num_heads)?,
            ln1: LayerNorm::new(dims, 1e-5)?,
            ln2: LayerNorm::new(dims, 1e-5)?,
            ln3: LayerNorm::new(dims, 1e-5)?,
            linear1: Linear::new(dims, mlp_dims, true)?,
            linear2: Linear::new(mlp_dims, dims, true)?,
            dropout1: Dropout::new(options.dropout)?,
            dropout2: Dropout::new(options.dropout)?,
            dropout3: Dropout::new(options.dropout)?,
            activation: options.activation,
            norm_first: options.norm_first,
        })
    }

    /// `[B, T, dims]` with a memory `[B, S, dims]` → `[B, T, dims]`.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) if the shapes do not fit.
    pub fn forward(
        &self,
        x: &Array,
        memory: &Array,
        mask: &Mask,
        memory_mask: &Mask,
        mode: Mode<'_>,
    ) -> Result<Array> {
        let [first, second, third] = Keys::split(mode)?;
        let attend = |x: &Array| {
            let y = self.self_attention.forward(x, x, x, mask)?;
            self.dropout1.forward(&y, first.mode())
        };
        let look_back = |x: &Array| {
            let y = self
                .cross_attention
                .forward(x, memory, memory, memory_mask)?;
            self.dropout2.forward(&y, second.mode())
        };
        let transform = |x: &Array| {
            let layers = (&self.linear1, &self.linear2);
            feed_forward(x, layers, self.activation, self.dropout3, third.mode())
        };
        if self.norm_first {
            let x = (x + attend(&self.ln1.forward(x)?)?)?;
            let x = (&x + look_back(&self.ln2.forward(&x)?)?)?;
            Ok((&x + transform(&self.ln3.forward(&x)?)?)?)
        } else {
            let x = self.ln1.forward(&(x + attend(x)?)?)?;
            let x = self.ln2.forward(&(&x + look_back(&x)?)?)?;
            self.ln3.forward(&(&x + transform(&x)?)?)
        }
    }
}

/// Decoder layers and a final normalisation; keys: `layers.N` and `ln`.
#[derive(Debug, Clone, Module)]
pub struct TransformerDecoder {
    layers: Vec<TransformerDecoderLayer>,
    ln: LayerNorm,
}

impl TransformerDecoder {
    /// A fresh decoder.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a size is not positive or the
    /// heads do not divide the features.
    pub fn new(num_layers: usize, options: &TransformerOptions) -> Result<Self> {
        let layers = (0..num_layers).map(|_| TransformerDecoderLayer::new(options));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            ln: LayerNorm::new(options.dims, 1e-5)?,
        })
    }

    /// `[B, T, dims]` with a memory `[B, S, dims]` → `[B, T, dims]`.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) if the shapes do not fit.
    pub fn forward(
        &self,
        x: &Array,
        memory: &Array,
        mask: &Mask,
        memory_mask: &Mask,
        mode: Mode<'_>,
    ) -> Result<Array> {
        let (mut x, mut rest) = (x.clone(), Keys::split::<1>(mode)?);
        for layer in &self.layers {
            let [own, next] = Keys::split(rest[0].mode())?;
            x = layer.forward(&x, memory, mask, memory_mask, own.mode())?;
            rest = [next];
        }
        self.ln.forward(&x)
    }
}
