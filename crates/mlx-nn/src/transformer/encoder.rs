//! The encoder half of a transformer.

use mlx_core::Array;

use super::{Keys, TransformerOptions, feed_forward};
use crate::{
    Activation, Dropout, LayerNorm, Linear, Mask, Mode, Module, MultiHeadAttention, Result,
};

/// Self-attention and two linear layers, each with a residual connection.
///
/// Keys: `attention`, `ln1`, `ln2`, `linear1`, `linear2`.
#[derive(Debug, Clone, Module)]
pub struct TransformerEncoderLayer {
    attention: MultiHeadAttention,
    ln1: LayerNorm,
    ln2: LayerNorm,
    linear1: Linear,
    linear2: Linear,
    dropout1: Dropout,
    dropout2: Dropout,
    activation: Activation,
    norm_first: bool,
}

impl TransformerEncoderLayer {
    /// A fresh layer.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a size is not positive or the
    /// heads do not divide the features.
    pub fn new(options: &TransformerOptions) -> Result<Self> {
        let dims = options.dims;
        let mlp_dims = options.mlp_dims.unwrap_or(dims.saturating_mul(4));
        Ok(Self {
            attention: MultiHeadAttention::new(dims, options.num_heads)?,
            ln1: LayerNorm::new(dims, 1e-5)?,
            ln2: LayerNorm::new(dims, 1e-5)?,
            linear1: Linear::new(dims, mlp_dims, true)?,
            linear2: Linear::new(mlp_dims, dims, true)?,
            dropout1: Dropout::new(options.dropout)?,
            dropout2: Dropout::new(options.dropout)?,
            activation: options.activation,
            norm_first: options.norm_first,
        })
    }

    /// `[B, L, dims] → [B, L, dims]`
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) if the shapes do not fit.
    pub fn forward(&self, x: &Array, mask: &Mask, mode: Mode<'_>) -> Result<Array> {
        let [first, second] = Keys::split(mode)?;
        let attend = |x: &Array| {
            let y = self.attention.forward(x, x, x, mask)?;
            self.dropout1.forward(&y, first.mode())
        };
        let transform = |x: &Array| {
            let layers = (&self.linear1, &self.linear2);
            feed_forward(x, layers, self.activation, self.dropout2, second.mode())
        };
        if self.norm_first {
            let x = (x + attend(&self.ln1.forward(x)?)?)?;
            Ok((&x + transform(&self.ln2.forward(&x)?)?)?)
        } else {
            let x = self.ln1.forward(&(x + attend(x)?)?)?;
            self.ln2.forward(&(&x + transform(&x)?)?)
        }
    }
}

/// Encoder layers and a final normalisation; keys: `layers.N` and `ln`.
#[derive(Debug, Clone, Module)]
pub struct TransformerEncoder {
    layers: Vec<TransformerEncoderLayer>,
    ln: LayerNorm,
}

impl TransformerEncoder {
    /// A fresh encoder.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a size is not positive or the
    /// heads do not divide the features.
    pub fn new(num_layers: usize, options: &TransformerOptions) -> Result<Self> {
        let layers = (0..num_layers).map(|_| TransformerEncoderLayer::new(options));
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
            ln: LayerNorm::new(options.dims, 1e-5)?,
        })
    }

    /// `[B, L, dims] → [B, L, dims]`
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) if the shapes do not fit.
    pub fn forward(&self, x: &Array, mask: &Mask, mode: Mode<'_>) -> Result<Array> {
        let (mut x, mut rest) = (x.clone(), Keys::split::<1>(mode)?);
        for layer in &self.layers {
            let [own, next] = Keys::split(rest[0].mode())?;
            x = layer.forward(&x, mask, own.mode())?;
            rest = [next];
        }
        self.ln.forward(&x)
    }
}
