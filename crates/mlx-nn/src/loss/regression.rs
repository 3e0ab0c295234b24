//! Losses over numbers.

use std::f64::consts::{LN_2, TAU};

use mlx_core::{
    Array,
    ops::{
        arithmetic::{abs, divide, log, logaddexp, maximum, minimum, negative, square},
        comparison::less,
        indexing::r#where,
    },
};

use super::{Reduction, number, same_shape};
use crate::{Error, Result};

/// `|p − t|`; usual is the mean.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn l1_loss(predictions: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    same_shape("l1_loss", &[predictions, targets])?;
    reduction.apply(abs(&(predictions - targets)?)?)
}

/// `(p − t)²`; usual is the mean.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::loss::{Reduction, mse_loss};
///
/// let predictions = Array::from_slice::<f32>(&[1.0, 4.0], &[2])?;
/// let loss = mse_loss(&predictions, &Array::ones::<f32>(&[2])?, Reduction::Mean)?;
/// assert_eq!(loss.item::<f32>()?, 4.5);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn mse_loss(predictions: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    same_shape("mse_loss", &[predictions, targets])?;
    reduction.apply(square(&(predictions - targets)?)?)
}

/// Half the squared error over `beta` within `beta`, beyond it the absolute error less half of
/// `beta`; usual are 1 and the mean.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ or `beta` is not positive.
pub fn smooth_l1_loss(
    predictions: &Array,
    targets: &Array,
    beta: f64,
    reduction: Reduction,
) -> Result<Array> {
    same_shape("smooth_l1_loss", &[predictions, targets])?;
    if beta.is_nan() || beta <= 0.0 {
        return Err(Error::invalid(
            "smooth_l1_loss",
            format!("beta must be positive, found {beta}"),
        ));
    }
    let difference = abs(&(predictions - targets)?)?;
    let inside = ((square(&difference)? * 0.5_f64)? / beta)?;
    let outside = (&difference - 0.5 * beta)?;
    let loss = r#where(
        &less(&difference, &number(beta, &difference)?)?,
        &inside,
        &outside,
    )?;
    reduction.apply(loss)
}

/// Half the squared error within `delta`, linear beyond it; usual is 1.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn huber_loss(
    inputs: &Array,
    targets: &Array,
    delta: f64,
    reduction: Reduction,
) -> Result<Array> {
    same_shape("huber_loss", &[inputs, targets])?;
    let errors = abs(&(inputs - targets)?)?;
    let quadratic = minimum(&errors, &number(delta, &errors)?)?;
    let linear = (&errors - &quadratic)?;
    reduction.apply(((square(&quadratic)? * 0.5_f64)? + linear * delta)?)
}

/// `log cosh(x − t)`.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn log_cosh_loss(inputs: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    same_shape("log_cosh_loss", &[inputs, targets])?;
    let errors = (inputs - targets)?;
    reduction.apply((logaddexp(&errors, &negative(&errors)?)? - LN_2)?)
}

/// Minus the log-density of the targets under normal distributions, of which `variances` below
/// `eps` are raised to it; `full` adds the constant term. Usual are 1e-6 and the mean.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn gaussian_nll_loss(
    inputs: &Array,
    targets: &Array,
    variances: &Array,
    full: bool,
    eps: f64,
    reduction: Reduction,
) -> Result<Array> {
    same_shape("gaussian_nll_loss", &[inputs, targets, variances])?;
    let variances = maximum(variances, &number(eps, variances)?)?;
    let squares = square(&(targets - inputs)?)?;
    let mut loss = ((log(&variances)? + divide(&squares, &variances))? * 0.5_f64)?;
    if full {
        loss = (loss + 0.5 * TAU.ln())?;
    }
    reduction.apply(loss)
}
