//! The bilinear layer.

use mlx_core::{
    Array,
    ops::{
        linalg_basic::matmul,
        shape::{reshape, squeeze_axes, swapaxes, transpose},
    },
};

use crate::{Error, Module, Result, init, linear::check_dims};

/// `yᵢ = x₂ᵀ Wᵢ x₁ + bᵢ`: `[.., in1]` and `[.., in2]` → `[.., out]`.
///
/// Keys: `weight [out, in2, in1]` and, if there is one, `bias [out]`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Bilinear;
///
/// let layer = Bilinear::new(3, 4, 2, true)?;
/// let (x1, x2) = (Array::ones::<f32>(&[5, 3])?, Array::ones::<f32>(&[5, 4])?);
/// assert_eq!(layer.forward(&x1, &x2)?.shape(), [5, 2]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct Bilinear {
    /// One matrix for each output.
    pub weight: Array,
    /// The offset of each output.
    pub bias: Option<Array>,
}

impl Bilinear {
    /// A layer drawn uniformly from ±√(1 / `input1_dims`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn new(input1_dims: i32, input2_dims: i32, output_dims: i32, bias: bool) -> Result<Self> {
        check_dims("Bilinear", &[input1_dims, input2_dims, output_dims])?;
        let bound = init::reciprocal_sqrt(input1_dims);
        let shape = [output_dims, input2_dims, input1_dims];
        Ok(Self {
            weight: init::symmetric_uniform(bound, &shape)?,
            bias: bias
                .then(|| init::symmetric_uniform(bound, &[output_dims]))
                .transpose()?,
        })
    }

    /// Runs the layer.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the leading axes of the inputs differ; [`Error::Core`] if
    /// their last axes do not fit.
    pub fn forward(&self, x1: &Array, x2: &Array) -> Result<Array> {
        let (Some((_, leading)), Some((_, other))) =
            (x1.shape().split_last(), x2.shape().split_last())
        else {
            return Err(Error::invalid("Bilinear", "a number has no features"));
        };
        if leading != other {
            let message = format!("the inputs {:?} and {:?} differ", x1.shape(), x2.shape());
            return Err(Error::invalid("Bilinear", message));
        }
        let &[output, in2, in1] = self.weight.shape() else {
            let message = format!("weight {:?} is not [out, in2, in1]", self.weight.shape());
            return Err(Error::invalid("Bilinear", message));
        };
        let rows = reshape(&self.weight, &[-1, in1])?; // [out · in2, in1]
        let y = matmul(&reshape(x1, &[-1, in1])?, &transpose(&rows)?)?;
        let y = swapaxes(&reshape(&y, &[-1, output, in2])?, -2, -1)?; // [N, in2, out]
        let y = squeeze_axes(&matmul(&reshape(x2, &[-1, 1, in2])?, &y)?, &[1])?;
        let y = reshape(&y, &[leading, &[output]].concat())?;
        match &self.bias {
            Some(bias) => Ok((y + bias)?),
            None => Ok(y),
        }
    }
}
