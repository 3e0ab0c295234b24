//! Recurrent layers over `[.., T, D]`, which return every step.

mod gru;
mod lstm;
mod rnn;

pub use gru::Gru;
pub use lstm::{Lstm, LstmSteps};
pub use rnn::Rnn;

use mlx_core::{
    Array,
    ops::{
        linalg_basic::{addmm, matmul},
        shape::{swapaxes, unstack},
    },
};

use crate::{Error, Result, init};

/// A matrix `[rows, columns]` drawn uniformly from ±1 / √hidden.
fn fresh(hidden: i32, shape: &[i32]) -> Result<Array> {
    init::symmetric_uniform(init::reciprocal_sqrt(hidden), shape)
}

/// `x Wᵀ + b`.
fn project(x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
    let transposed = swapaxes(weight, -1, -2)?;
    match bias {
        Some(bias) => Ok(addmm(bias, x, &transposed, 1.0, 1.0)?),
        None => Ok(matmul(x, &transposed)?),
    }
}

/// The steps `[.., D]` of a sequence `[.., T, D]` with at least one.
fn steps(layer: &'static str, x: &Array) -> Result<Vec<Array>> {
    if x.ndim() < 2 || x.dim(-2)? == 0 {
        let message = format!("expected [.., T, D] with T > 0, found {:?}", x.shape());
        return Err(Error::invalid(layer, message));
    }
    Ok(unstack(x, -2)?)
}

/// Steps `[.., H]` as a sequence `[.., T, H]`.
fn sequence(steps: &[Array]) -> Result<Array> {
    Ok(mlx_core::ops::shape::stack(
        &steps.iter().collect::<Vec<_>>(),
        -2,
    )?)
}
