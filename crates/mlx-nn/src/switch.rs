//! Layers of many experts, of which each token uses a few.

mod mlp;

use mlx_core::{
    Array, Dtype,
    ops::{indexing::take, shape::expand_dims},
};

pub use mlp::{SwitchGlu, SwitchMlp};

use crate::{
    Error, KeyPath, Module, Result, Visitor, VisitorMut, Weight, init, linear::check_dims,
};

/// A stack of affine maps of which an index chooses one for each row: `y = x W[e]ᵀ + b[e]`.
///
/// The weight may be dense or quantised; see [`Weight`]. Keys: `weight [experts, out, in]`, and if
/// there is one `bias [experts, out]`. The mixture of experts of "Outrageously Large Neural
/// Networks" (2017).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::SwitchLinear;
///
/// let layer = SwitchLinear::new(4, 3, 8, true)?;
/// let x = Array::ones::<f32>(&[5, 1, 1, 4])?; // five tokens
/// let experts = Array::zeros::<u32>(&[5, 2])?; // two experts for each
/// assert_eq!(layer.forward(&x, &experts, false)?.shape(), [5, 2, 1, 3]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SwitchLinear {
    /// The matrices `[experts, out, in]`.
    pub weight: Weight,
    /// The offsets `[experts, out]`.
    pub bias: Option<Array>,
}

impl SwitchLinear {
    /// A layer with weights drawn uniformly from ±√(1 / `input_dims`) and offsets of zero.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn new(input_dims: i32, output_dims: i32, num_experts: i32, bias: bool) -> Result<Self> {
        let mut layer = Self::placeholder(input_dims, output_dims, num_experts, bias)?;
        let bound = init::reciprocal_sqrt(input_dims);
        layer.weight = Weight::Dense(init::symmetric_uniform(
            bound,
            &[num_experts, output_dims, input_dims],
        )?);
        Ok(layer)
    }

    /// A layer that only knows its shapes, for a model that is about to be loaded.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn placeholder(
        input_dims: i32,
        output_dims: i32,
        num_experts: i32,
        bias: bool,
    ) -> Result<Self> {
        check_dims("SwitchLinear", &[input_dims, output_dims, num_experts])?;
        Ok(Self {
            weight: Weight::placeholder(&[num_experts, output_dims, input_dims]),
            bias: bias
                .then(|| Array::zeros_dtype(&[num_experts, output_dims], Dtype::Float32))
                .transpose()?,
        })
    }

    /// A layer from dense weights `[experts, out, in]` and offsets `[experts, out]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the shapes do not fit each other.
    pub fn from_weights(weight: Array, bias: Option<Array>) -> Result<Self> {
        let bias_shape = bias.as_ref().map(Array::shape);
        let fits = match (weight.shape(), bias_shape) {
            ([_, _, _], None) => true,
            ([experts, output_dims, _], Some(found)) => found == [*experts, *output_dims],
            _ => false,
        };
        if !fits {
            let message = format!(
                "weight {:?} and bias {bias_shape:?} are not [experts, out, in] and [experts, out]",
                weight.shape()
            );
            return Err(Error::invalid("SwitchLinear", message));
        }
        Ok(Self {
            weight: Weight::Dense(weight),
            bias,
        })
    }

    /// Runs expert `indices[i]` on the rows `x[i]`: `x [.., M, in]` and `indices [..] → [.., M, out]`,
    /// where the leading axes broadcast.
    ///
    /// `sorted` promises that the flattened indices ascend, which makes GPUs faster; see
    /// [`SwitchGlu`], which sorts them.
    ///
    /// # Errors
    /// [`Error::NotLoaded`], or [`Error::Core`] if the last axis of `x` is not `in` long, the
    /// leading axes do not broadcast, or an index is no expert.
    pub fn forward(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        let y = self
            .weight
            .apply_experts("SwitchLinear", x, indices, sorted)?;
        match &self.bias {
            Some(bias) => Ok((y + expand_dims(&take(bias, indices, 0)?, &[-2])?)?),
            None => Ok(y),
        }
    }
}

impl Module for SwitchLinear {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.weight.visit(path, visitor);
        self.bias.visit(&path.child("bias"), visitor);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.weight.visit_mut(path, visitor)?;
        self.bias.visit_mut(&path.child("bias"), visitor)
    }
}
