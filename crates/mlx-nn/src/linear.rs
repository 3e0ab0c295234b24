//! The affine layer.

use mlx_core::{Array, Dtype};

use crate::{Error, KeyPath, Module, Result, UnaryLayer, Visitor, VisitorMut, Weight, init};

/// Applies an affine map to the last axis: `y = x Wᵀ + b`, `[.., in] → [.., out]`.
///
/// The weight may be dense or quantised; see [`Weight`]. Keys: `weight [out, in]`, and if there
/// is one `bias [out]`. The result has the promoted dtype of input and weight.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Linear;
///
/// let layer = Linear::new(4, 3, true)?;
/// assert_eq!(layer.forward(&Array::ones::<f32>(&[2, 4])?)?.shape(), [2, 3]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Linear {
    /// The matrix `[out, in]`.
    pub weight: Weight,
    /// The offset `[out]`.
    pub bias: Option<Array>,
}

impl Linear {
    /// A layer with weight and bias drawn uniformly from ±√(1 / `input_dims`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn new(input_dims: i32, output_dims: i32, bias: bool) -> Result<Self> {
        check_dims("Linear", &[input_dims, output_dims])?;
        let bound = init::reciprocal_sqrt(input_dims);
        Ok(Self {
            weight: Weight::Dense(init::symmetric_uniform(bound, &[output_dims, input_dims])?),
            bias: bias
                .then(|| init::symmetric_uniform(bound, &[output_dims]))
                .transpose()?,
        })
    }

    /// A layer that only knows its shapes, for a model that is about to be loaded.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn placeholder(input_dims: i32, output_dims: i32, bias: bool) -> Result<Self> {
        check_dims("Linear", &[input_dims, output_dims])?;
        Ok(Self {
            weight: Weight::placeholder(&[output_dims, input_dims]),
            bias: bias
                .then(|| Array::zeros_dtype(&[output_dims], Dtype::Float32))
                .transpose()?,
        })
    }

    /// A layer from a dense weight `[out, in]` and a bias `[out]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the shapes do not fit each other.
    pub fn from_weights(weight: Array, bias: Option<Array>) -> Result<Self> {
        let fits = match (weight.shape(), bias.as_ref().map(Array::shape)) {
            ([_, _], None) => true,
            ([output_dims, _], Some(bias)) => bias == [*output_dims],
            _ => false,
        };
        if !fits {
            let bias = bias
                .as_ref()
                .map_or_else(|| "none".to_owned(), |b| format!("{:?}", b.shape()));
            return Err(Error::invalid(
                "Linear",
                format!(
                    "weight {:?} and bias {bias} are not [out, in] and [out]",
                    weight.shape()
                ),
            ));
        }
        Ok(Self {
            weight: Weight::Dense(weight),
            bias,
        })
    }

    /// Runs the layer: `[.., in] → [.., out]`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`], or [`Error::Core`] if the last axis of `x` is not `in` long.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.weight.apply("Linear", x, self.bias.as_ref())
    }
}

/// Refuses dimensions that are not positive.
pub(crate) fn check_dims(layer: &'static str, dims: &[i32]) -> Result<()> {
    if dims.iter().all(|&dim| dim > 0) {
        Ok(())
    } else {
        Err(Error::invalid(
            layer,
            format!("dimensions must be positive, found {dims:?}"),
        ))
    }
}

impl Module for Linear {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.weight.visit(path, visitor);
        self.bias.visit(&path.child("bias"), visitor);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.weight.visit_mut(path, visitor)?;
        self.bias.visit_mut(&path.child("bias"), visitor)
    }
}

impl UnaryLayer for Linear {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
