//! The original transformer and its parts.
//!
//! From "Attention Is All You Need" (2017).

mod decoder;
mod encoder;
mod multi_head_attention;

use mlx_core::{Array, ops::random};

pub use decoder::{TransformerDecoder, TransformerDecoderLayer};
pub use encoder::{TransformerEncoder, TransformerEncoderLayer};
pub use multi_head_attention::{MultiHeadAttention, MultiHeadAttentionDims};

use crate::{Activation, Dropout, Linear, Mask, Mode, Module, Result};

/// The sizes and choices that all layers of a transformer share.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct TransformerOptions {
    /// The features of a position; 512 by default.
    pub dims: i32,
    /// The attention heads; 8 by default.
    pub num_heads: i32,
    /// The features between the two linear layers; four times `dims` by default.
    pub mlp_dims: Option<i32>,
    /// The probability of dropout; 0 by default.
    pub dropout: f32,
    /// What stands between the two linear layers; [`Activation::Relu`] by default.
    pub activation: Activation,
    /// Whether layers normalise their input, as is the default, or their output.
    pub norm_first: bool,
}

impl Default for TransformerOptions {
    fn default() -> Self {
        Self {
            dims: 512,
            num_heads: 8,
            mlp_dims: None,
            dropout: 0.0,
            activation: Activation::Relu,
            norm_first: true,
        }
    }
}

impl TransformerOptions {
    /// The usual choices for `dims` features and `num_heads` heads.
    pub fn new(dims: i32, num_heads: i32) -> Self {
        Self {
            dims,
            num_heads,
            ..Self::default()
        }
    }

    /// Sets the features between the two linear layers.
    pub fn mlp_dims(mut self, mlp_dims: i32) -> Self {
        self.mlp_dims = Some(mlp_dims);
        self
    }

    /// Sets the probability of dropout.
    pub fn dropout(mut self, dropout: f32) -> Self {
        self.dropout = dropout;
        self
    }

    /// Sets what stands between the two linear layers.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// Sets whether layers normalise their input or their output.
    pub fn norm_first(mut self, norm_first: bool) -> Self {
        self.norm_first = norm_first;
        self
    }
}

/// Encoder and decoder; keys start with `encoder.` and `decoder.`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Mask, Mode, Transformer, TransformerOptions};
///
/// let model = Transformer::new(1, 1, &TransformerOptions::new(8, 2))?;
/// let (source, target) = (Array::ones::<f32>(&[1, 5, 8])?, Array::ones::<f32>(&[1, 3, 8])?);
/// let y = model.forward(&source, &target, &Mask::None, &Mask::Causal, &Mask::None, Mode::Evaluate)?;
/// assert_eq!(y.shape(), [1, 3, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct Transformer {
    /// Reads the source.
    pub encoder: TransformerEncoder,
    /// Continues the target.
    pub decoder: TransformerDecoder,
}

impl Transformer {
    /// A fresh transformer.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a size is not positive or the
    /// heads do not divide the features.
    pub fn new(
        num_encoder_layers: usize,
        num_decoder_layers: usize,
        options: &TransformerOptions,
    ) -> Result<Self> {
        Ok(Self {
            encoder: TransformerEncoder::new(num_encoder_layers, options)?,
            decoder: TransformerDecoder::new(num_decoder_layers, options)?,
        })
    }

    /// `[B, S, dims]` and `[B, T, dims]` → `[B, T, dims]`.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) if the shapes do not fit.
    pub fn forward(
        &self,
        source: &Array,
        target: &Array,
        source_mask: &Mask,
        target_mask: &Mask,
        memory_mask: &Mask,
        mode: Mode<'_>,
    ) -> Result<Array> {
        let [encoder, decoder] = Keys::split(mode)?;
        let memory = self.encoder.forward(source, source_mask, encoder.mode())?;
        self.decoder
            .forward(target, &memory, target_mask, memory_mask, decoder.mode())
    }
}

/// A mode of its own for a part, so that no two parts draw the same random numbers.
struct Keys(Option<Array>);

impl Keys {
    fn split<const N: usize>(mode: Mode<'_>) -> Result<[Self; N]> {
        let Mode::Train(key) = mode else {
            return Ok(std::array::from_fn(|_| Self(None)));
        };
        let mut key = key.clone();
        let mut keys = [const { Self(None) }; N];
        for part in &mut keys {
            let (own, rest) = random::split(&key)?;
            part.0 = Some(own);
            key = rest;
        }
        Ok(keys)
    }

    fn mode(&self) -> Mode<'_> {
        self.0.as_ref().map_or(Mode::Evaluate, Mode::Train)
    }
}

/// `linear2(dropout(activation(linear1(x))))`, shared by encoder and decoder layers.
fn feed_forward(
    x: &Array,
    layers: (&Linear, &Linear),
    activation: Activation,
    dropout: Dropout,
    mode: Mode<'_>,
) -> Result<Array> {
    let y = activation.forward(&layers.0.forward(x)?)?;
    layers.1.forward(&dropout.forward(&y, mode)?)
}
