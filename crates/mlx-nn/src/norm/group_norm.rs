//! Group normalisation.

use mlx_core::{
    Array,
    ops::{
        arithmetic::rsqrt,
        fast,
        reduction::{mean_axes, var_axes},
        shape::{reshape, transpose_axes},
    },
};

use super::{affine, check_eps};
use crate::{Error, Module, Result, UnaryLayer, linear::check_dims};

/// Normalises groups of features, each over all positions.
///
/// Keys: `weight [dims]` and `bias [dims]`. From "Group Normalization" (2018).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::GroupNorm;
///
/// let norm = GroupNorm::new(2, 4)?;
/// assert_eq!(norm.forward(&Array::ones::<f32>(&[1, 3, 3, 4])?)?.shape(), [1, 3, 3, 4]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct GroupNorm {
    /// The factor of each feature.
    pub weight: Option<Array>,
    /// The offset of each feature.
    pub bias: Option<Array>,
    num_groups: i32,
    dims: i32,
    eps: f32,
    pytorch_compatible: bool,
}

impl GroupNorm {
    /// A layer with factors and offsets and `eps` 1e-5, whose groups interleave: feature `i`
    /// belongs to group `i mod num_groups`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a number is not positive or `num_groups` does not divide
    /// `dims`.
    pub fn new(num_groups: i32, dims: i32) -> Result<Self> {
        check_dims("GroupNorm", &[num_groups, dims])?;
        if dims % num_groups != 0 {
            let message = format!("{num_groups} groups do not divide {dims} features");
            return Err(Error::invalid("GroupNorm", message));
        }
        Ok(Self {
            weight: Some(Array::ones::<f32>(&[dims])?),
            bias: Some(Array::zeros::<f32>(&[dims])?),
            num_groups,
            dims,
            eps: 1e-5,
            pytorch_compatible: false,
        })
    }

    /// Sets `eps`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is not positive.
    pub fn eps(mut self, eps: f32) -> Result<Self> {
        check_eps("GroupNorm", eps)?;
        self.eps = eps;
        Ok(self)
    }

    /// Groups neighbouring features, as PyTorch's checkpoints expect.
    #[must_use]
    pub fn pytorch_compatible(mut self, pytorch_compatible: bool) -> Self {
        self.pytorch_compatible = pytorch_compatible;
        self
    }

    /// Leaves out factors and offsets.
    #[must_use]
    pub fn without_parameters(mut self) -> Self {
        (self.weight, self.bias) = (None, None);
        self
    }

    /// Normalises `[N, .., dims]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the last axis is not `dims` long.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let shape = x.shape();
        let (Some(&batch), Some(&dims)) = (shape.first(), shape.last()) else {
            return Err(Error::invalid("GroupNorm", "a number has no features"));
        };
        if dims != self.dims || shape.len() < 2 {
            let message = format!("expected [N, .., {}], found {shape:?}", self.dims);
            return Err(Error::invalid("GroupNorm", message));
        }
        let (groups, size) = (self.num_groups, dims / self.num_groups);
        let y = if self.pytorch_compatible {
            let y = transpose_axes(&reshape(x, &[batch, -1, groups, size])?, &[0, 2, 1, 3])?;
            let y = fast::layer_norm(&reshape(&y, &[batch, groups, -1])?, None, None, self.eps)?;
            transpose_axes(&reshape(&y, &[batch, groups, -1, size])?, &[0, 2, 1, 3])?
        } else {
            let y = reshape(x, &[batch, -1, groups])?;
            let centred = (&y - mean_axes(&y, &[1], true))?;
            (centred * rsqrt(&(var_axes(&y, &[1], true, 0)? + self.eps)?))?
        };
        affine(
            reshape(&y, &shape)?,
            self.weight.as_ref(),
            self.bias.as_ref(),
        )
    }
}

impl UnaryLayer for GroupNorm {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
