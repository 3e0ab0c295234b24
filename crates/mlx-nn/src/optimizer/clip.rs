//! Limits on gradients.

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{clip, divide, minimum, sqrt, square},
        reduction::sum,
    },
};

use super::check_positive;
use crate::{Gradients, Result};

/// Scales all gradients so that together they are no longer than `max_norm`; returns them and
/// their length before.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::optimizer::clip_grad_norm;
///
/// let gradients = [("w".to_owned(), Array::from_slice::<f32>(&[3.0, 4.0], &[2])?)].into();
/// let (clipped, norm) = clip_grad_norm(&gradients, 1.0)?;
/// assert_eq!(norm.item::<f32>()?, 5.0);
/// assert!((clipped["w"].to_vec::<f32>()?[1] - 0.8).abs() < 1e-5);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `max_norm` is negative.
pub fn clip_grad_norm(gradients: &Gradients, max_norm: f64) -> Result<(Gradients, Array)> {
    check_positive("clip_grad_norm", "max_norm", max_norm, true)?;
    let mut squares = Array::scalar::<f32>(0.0)?;
    for gradient in gradients.values() {
        // The squares of half-precision gradients would soon overflow.
        let gradient = match gradient.dtype() {
            Dtype::Float16 => gradient.astype(Dtype::Float32)?,
            _ => gradient.clone(),
        };
        squares = (squares + sum(&square(&gradient)?, false))?;
    }
    let norm = sqrt(&squares)?;
    let limit = Array::scalar_dtype(max_norm, Dtype::Float32)?;
    let ratio = divide(&limit, &(&norm + 1e-6_f64)?)?;
    let factor = minimum(&ratio, &Array::scalar::<f32>(1.0)?)?;
    let scale = |(key, gradient): (&String, &Array)| -> Result<(String, Array)> {
        Ok((key.clone(), (gradient * &factor)?.astype(gradient.dtype())?))
    };
    Ok((gradients.iter().map(scale).collect::<Result<_>>()?, norm))
}

/// Limits each number of each gradient to ±`max_value`.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `max_value` is negative.
pub fn clip_grad_value(gradients: &Gradients, max_value: f64) -> Result<Gradients> {
    check_positive("clip_grad_value", "max_value", max_value, true)?;
    let limit = |(key, gradient): (&String, &Array)| -> Result<(String, Array)> {
        let [low, high] =
            [-max_value, max_value].map(|value| Array::scalar_dtype(value, gradient.dtype()));
        Ok((key.clone(), clip(gradient, Some(&low?), Some(&high?))?))
    };
    gradients.iter().map(limit).collect()
}
