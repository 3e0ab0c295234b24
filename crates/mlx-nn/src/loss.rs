//! Loss functions.
//!
//! Each takes what the model gave and what it should have given, and a [`Reduction`]; shapes that
//! differ are errors rather than broadcast. Defaults of Python MLX are named in each description.

mod classification;
mod regression;
mod similarity;

use mlx_core::{
    Array,
    ops::reduction::{mean, sum},
};

pub use classification::{
    CrossEntropyOptions, binary_cross_entropy, cross_entropy, hinge_loss, kl_div_loss, nll_loss,
};
pub use regression::{
    gaussian_nll_loss, huber_loss, l1_loss, log_cosh_loss, mse_loss, smooth_l1_loss,
};
pub use similarity::{TripletOptions, cosine_similarity_loss, margin_ranking_loss, triplet_loss};

use crate::{Error, Result};

/// What becomes of the losses of the single elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// They are returned as they are.
    #[default]
    None,
    /// Their mean is.
    Mean,
    /// Their sum is.
    Sum,
}

impl Reduction {
    fn apply(self, loss: Array) -> Result<Array> {
        match self {
            Self::None => Ok(loss),
            Self::Mean => Ok(mean(&loss, false)?),
            Self::Sum => Ok(sum(&loss, false)?),
        }
    }
}

/// Refuses operands of different shapes.
fn same_shape(loss: &'static str, arrays: &[&Array]) -> Result<()> {
    if arrays
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if a.shape() == b.shape()))
    {
        return Ok(());
    }
    let shapes: Vec<_> = arrays
        .iter()
        .map(|array| format!("{:?}", array.shape()))
        .collect();
    Err(Error::invalid(
        loss,
        format!("the shapes {} differ", shapes.join(" and ")),
    ))
}

/// Multiplies element losses by weights of the same shape.
fn weighted(name: &'static str, loss: Array, weights: Option<&Array>) -> Result<Array> {
    match weights {
        Some(weights) => {
            same_shape(name, &[weights, &loss])?;
            Ok((loss * weights)?)
        }
        None => Ok(loss),
    }
}

/// A number in the dtype of `like`.
fn number(value: f64, like: &Array) -> Result<Array> {
    Ok(Array::scalar_dtype(value, like.dtype())?)
}
