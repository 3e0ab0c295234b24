//! Root-mean-square normalisation.

use mlx_core::{Array, ops::fast};

use super::check_eps;
use crate::{Module, Result, UnaryLayer, linear::check_dims};

/// Scales the last axis to a root mean square of one: `y = x / √(E[x²] + eps) · weight`.
///
/// The mean is taken in 32 bits whatever the dtype; the result keeps the dtype of `x`.
/// Key: `weight [dims]`. From "Root Mean Square Layer Normalization" (2019).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::RmsNorm;
///
/// let norm = RmsNorm::new(4, 1e-5)?;
/// let y = norm.forward(&Array::full::<f32>(&[2, 4], 3.0)?)?;
/// assert!(y.to_vec::<f32>()?.iter().all(|v| (v - 1.0).abs() < 1e-5));
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[doc(alias = "RMSNorm")]
#[derive(Debug, Clone, Module)]
pub struct RmsNorm {
    /// The factor of each feature, `[dims]`.
    pub weight: Array,
    eps: f32,
}

impl RmsNorm {
    /// A layer for `dims` features, with factors of one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `dims` or `eps` is not
    /// positive.
    pub fn new(dims: i32, eps: f32) -> Result<Self> {
        check_dims("RmsNorm", &[dims])?;
        Self::from_weight(Array::ones::<f32>(&[dims])?, eps)
    }

    /// A layer with the given factors.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `eps` is not positive.
    pub fn from_weight(weight: Array, eps: f32) -> Result<Self> {
        check_eps("RmsNorm", eps)?;
        Ok(Self { weight, eps })
    }

    /// Normalises the last axis: `[.., dims] → [.., dims]`.
    ///
    /// # Errors
    /// [`Error::Core`](crate::Error::Core) if the last axis is not `dims` long or `x` is not
    /// floating point.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        Ok(fast::rms_norm(x, Some(&self.weight), self.eps)?)
    }
}

impl UnaryLayer for RmsNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
