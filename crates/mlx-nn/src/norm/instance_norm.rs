//! Instance normalisation.

use mlx_core::{
    Array,
    ops::{
        fast,
        shape::{moveaxis, reshape},
    },
};

use super::{affine, check_eps};
use crate::{Error, Module, Result, UnaryLayer, linear::check_dims};

/// Normalises each feature of each example over its positions.
///
/// Keys, where it has parameters: `weight [dims]` and `bias [dims]`. From "Instance Normalization:
/// The Missing Ingredient for Fast Stylization" (2016).
#[derive(Debug, Clone, Module)]
pub struct InstanceNorm {
    /// The factor of each feature.
    pub weight: Option<Array>,
    /// The offset of each feature.
    pub bias: Option<Array>,
    eps: f32,
}

impl InstanceNorm {
    /// A layer without parameters; the usual `eps` is 1e-5.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `eps` is not positive.
    pub fn new(eps: f32) -> Result<Self> {
        check_eps("InstanceNorm", eps)?;
        Ok(Self {
            weight: None,
            bias: None,
            eps,
        })
    }

    /// A layer with factors and offsets.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `dims` or `eps` is not positive.
    pub fn affine(dims: i32, eps: f32) -> Result<Self> {
        check_dims("InstanceNorm", &[dims])?;
        let mut layer = Self::new(eps)?;
        layer.weight = Some(Array::ones::<f32>(&[dims])?);
        layer.bias = Some(Array::zeros::<f32>(&[dims])?);
        Ok(layer)
    }

    /// Normalises `[N, .., C]`, which must have at least one spatial axis.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it has none.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if x.ndim() < 3 {
            let message = format!("expected [N, .., C] with positions, found {:?}", x.shape());
            return Err(Error::invalid("InstanceNorm", message));
        }
        let channels_first = moveaxis(x, -1, 1)?;
        let rows = reshape(&channels_first, &[x.dim(0)?, x.dim(-1)?, -1])?;
        let rows = fast::layer_norm(&rows, None, None, self.eps)?;
        let y = moveaxis(&reshape(&rows, &channels_first.shape())?, 1, -1)?;
        affine(y, self.weight.as_ref(), self.bias.as_ref())
    }
}

impl UnaryLayer for InstanceNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
