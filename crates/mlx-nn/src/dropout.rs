//! Dropout of elements and of whole channels.
//!
//! From "Dropout: A Simple Way to Prevent Neural Networks from Overfitting" (2014).

use mlx_core::{Array, Dtype, ops::random};

use crate::{Error, Result, module::parameter_free};

/// Whether a layer that behaves differently in training is being trained.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// It is not: dropout passes its input on, and normalisation uses its running statistics.
    Evaluate,
    /// It is, and random choices follow from this [key](mlx_core::ops::random::key).
    Train(&'a Array),
}

/// Sets each element to zero with probability `p` and scales the others by `1 / (1 − p)`.
///
/// Nothing is hidden: mode and random key are arguments.
///
/// ```
/// use mlx_core::{Array, ops::random};
/// use mlx_nn::{Dropout, Mode};
///
/// let dropout = Dropout::new(0.5)?;
/// let x = Array::ones::<f32>(&[4, 4])?;
/// assert_eq!(dropout.forward(&x, Mode::Evaluate)?.to_vec::<f32>()?, [1.0; 16]);
/// let y = dropout.forward(&x, Mode::Train(&random::key(0)?))?;
/// assert!(y.to_vec::<f32>()?.iter().all(|v| *v == 0.0 || *v == 2.0));
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    p: f32,
    shared_axes: usize,
}

impl Dropout {
    /// Drops single elements.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `p` is not in `0..1`.
    pub fn new(p: f32) -> Result<Self> {
        Self::sharing(p, 0)
    }

    /// Drops whole channels of `[.., H, W, C]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `p` is not in `0..1`.
    pub fn new_2d(p: f32) -> Result<Self> {
        Self::sharing(p, 2)
    }

    /// Drops whole channels of `[.., D, H, W, C]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `p` is not in `0..1`.
    pub fn new_3d(p: f32) -> Result<Self> {
        Self::sharing(p, 3)
    }

    fn sharing(p: f32, shared_axes: usize) -> Result<Self> {
        if (0.0..1.0).contains(&p) {
            Ok(Self { p, shared_axes })
        } else {
            Err(Error::invalid(
                "Dropout",
                format!("p must be in 0..1, found {p}"),
            ))
        }
    }

    /// Drops, in training, elements or channels of `x`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `x` lacks the spatial axes of dropped channels.
    pub fn forward(&self, x: &Array, mode: Mode<'_>) -> Result<Array> {
        let spatial = self.shared_axes;
        if spatial > 0 && !(spatial + 1..=spatial + 2).contains(&x.ndim()) {
            let message = format!("{:?} has not {spatial} spatial axes", x.shape());
            return Err(Error::invalid("Dropout", message));
        }
        let key = match mode {
            Mode::Train(key) if self.p > 0.0 => key,
            Mode::Train(_) | Mode::Evaluate => return Ok(x.clone()),
        };
        let mut shape = x.shape().to_vec();
        for dim in shape.iter_mut().rev().skip(1).take(spatial) {
            *dim = 1;
        }
        let keep = Array::scalar_dtype(f64::from(1.0 - self.p), Dtype::Float32)?;
        let mask = random::bernoulli(&keep, &shape, Some(key))?;
        Ok(((x * mask)? * (1.0 / (1.0 - self.p)))?)
    }
}

parameter_free!(Dropout);
