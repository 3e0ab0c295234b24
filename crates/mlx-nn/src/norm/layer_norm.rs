//! Layer normalisation.

use mlx_core::{Array, ops::fast};

use super::check_eps;
use crate::{Module, Result, UnaryLayer, linear::check_dims};

/// Normalises the last axis to mean zero and variance one:
/// `y = (x − E[x]) / √(Var[x] + eps) · weight + bias`.
///
/// The result keeps the dtype of `x`. Keys: `weight [dims]` and `bias [dims]`, where present.
/// From "Layer Normalization" (2016).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::LayerNorm;
///
/// let norm = LayerNorm::new(2, 1e-5)?;
/// let y = norm.forward(&Array::from_slice::<f32>(&[1.0, 3.0], &[1, 2])?)?;
/// assert!((y.to_vec::<f32>()?[1] - 1.0).abs() < 1e-4);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct LayerNorm {
    /// The factor of each feature, `[dims]`.
    pub weight: Option<Array>,
    /// The offset of each feature, `[dims]`.
    pub bias: Option<Array>,
    eps: f32,
}

impl LayerNorm {
    /// A layer for `dims` features with factors of one and offsets of zero.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `dims` or `eps` is not
    /// positive.
    pub fn new(dims: i32, eps: f32) -> Result<Self> {
        let mut layer = Self::without_bias(dims, eps)?;
        layer.bias = Some(Array::zeros::<f32>(&[dims])?);
        Ok(layer)
    }

    /// A layer with factors but no offsets.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `dims` or `eps` is not
    /// positive.
    pub fn without_bias(dims: i32, eps: f32) -> Result<Self> {
        check_dims("LayerNorm", &[dims])?;
        let mut layer = Self::without_parameters(eps)?;
        layer.weight = Some(Array::ones::<f32>(&[dims])?);
        Ok(layer)
    }

    /// A layer that only normalises.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `eps` is not positive.
    pub fn without_parameters(eps: f32) -> Result<Self> {
        check_eps("LayerNorm", eps)?;
        Ok(Self {
            weight: None,
            bias: None,
            eps,
        })
    }

    /// Normalises the last axis: `[.., dims] → [.., dims]`.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) if the last axis is not `dims` long or `x` is not
    /// floating point.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        Ok(fast::layer_norm(
            x,
            self.weight.as_ref(),
            self.bias.as_ref(),
            self.eps,
        )?)
    }
}

impl UnaryLayer for LayerNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
