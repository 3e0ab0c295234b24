//! Initialisers that keep variances through a layer.

use mlx_core::Array;

use super::{normal, uniform};
use crate::{Error, Result};

/// Whether variance is kept forwards or backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fan {
    /// Forwards: by the number of inputs.
    #[default]
    In,
    /// Backwards: by the number of outputs.
    Out,
}

/// Normal with variance `gain² · 2 / (fan_in + fan_out)`, from "Understanding the difficulty of
/// training deep feedforward neural networks" (2010).
///
/// ```
/// let weight = mlx_nn::init::glorot_normal(&[16, 8], 1.0, None)?;
/// assert_eq!(weight.shape(), [16, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] if the shape has fewer than two axes.
pub fn glorot_normal(shape: &[i32], gain: f64, key: Option<&Array>) -> Result<Array> {
    let (fan_in, fan_out) = fans(shape)?;
    normal(
        shape,
        0.0,
        to_f32(gain * (2.0 / (fan_in + fan_out)).sqrt()),
        key,
    )
}

/// Uniform with the variance of [`glorot_normal`].
///
/// # Errors
/// [`Error::InvalidArgument`] if the shape has fewer than two axes.
pub fn glorot_uniform(shape: &[i32], gain: f64, key: Option<&Array>) -> Result<Array> {
    let (fan_in, fan_out) = fans(shape)?;
    let limit = to_f32(gain * (6.0 / (fan_in + fan_out)).sqrt());
    uniform(shape, -limit, limit, key)
}

/// Normal with variance `gain² / fan`, from "Delving Deep into Rectifiers: Surpassing Human-Level
/// Performance on ImageNet Classification" (2015).
///
/// # Errors
/// [`Error::InvalidArgument`] if the shape has fewer than two axes.
pub fn he_normal(shape: &[i32], fan: Fan, gain: f64, key: Option<&Array>) -> Result<Array> {
    normal(shape, 0.0, to_f32(gain / choose(shape, fan)?.sqrt()), key)
}

/// Uniform with the variance of [`he_normal`].
///
/// # Errors
/// [`Error::InvalidArgument`] if the shape has fewer than two axes.
pub fn he_uniform(shape: &[i32], fan: Fan, gain: f64, key: Option<&Array>) -> Result<Array> {
    let limit = to_f32(gain * (3.0 / choose(shape, fan)?).sqrt());
    uniform(shape, -limit, limit, key)
}

/// How many inputs and outputs a weight `[out, kernel.., in]` connects.
fn fans(shape: &[i32]) -> Result<(f64, f64)> {
    let [output, kernel @ .., input] = shape else {
        let message = format!("{shape:?} has no inputs and outputs");
        return Err(Error::invalid("init", message));
    };
    let field: f64 = kernel.iter().map(|&dim| f64::from(dim)).product();
    Ok((f64::from(*input) * field, f64::from(*output) * field))
}

fn choose(shape: &[i32], fan: Fan) -> Result<f64> {
    let (fan_in, fan_out) = fans(shape)?;
    Ok(match fan {
        Fan::In => fan_in,
        Fan::Out => fan_out,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding a scale to the dtype it is used in"
)]
const fn to_f32(scale: f64) -> f32 {
    scale as f32
}

#[cfg(test)]
mod tests {
    use super::fans;

    #[test]
    fn kernels_count_for_inputs_and_outputs() {
        assert_eq!(fans(&[8, 3, 5, 4]).ok(), Some((60.0, 120.0)));
        assert_eq!(fans(&[8, 4]).ok(), Some((4.0, 8.0)));
        assert!(fans(&[8]).is_err());
    }
}
