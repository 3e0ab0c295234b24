//! Losses over classes and distributions.

use mlx_core::{
    Array,
    ops::{
        arithmetic::{clip, exp, log, logaddexp, maximum, negative},
        indexing::{checked_indices, take_along_axis},
        misc::stop_gradient,
        reduction::{logsumexp_axes, max_axes, mean_axes, sum_axes},
        shape::{expand_dims, squeeze_axes},
    },
};

use super::{Reduction, number, same_shape, weighted};
use crate::{Error, Result};

/// How [`cross_entropy`] computes.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct CrossEntropyOptions {
    /// A factor for each element loss.
    pub weights: Option<Array>,
    /// The axis of the classes; the last by default.
    pub axis: i32,
    /// How much of the target is spread over all classes, in `0..1`.
    pub label_smoothing: f64,
    /// What becomes of the element losses.
    pub reduction: Reduction,
}

impl Default for CrossEntropyOptions {
    fn default() -> Self {
        Self {
            weights: None,
            axis: -1,
            label_smoothing: 0.0,
            reduction: Reduction::None,
        }
    }
}

impl CrossEntropyOptions {
    /// Sets a factor for each element loss.
    pub fn weights(mut self, weights: Array) -> Self {
        self.weights = Some(weights);
        self
    }

    /// Sets the axis of the classes.
    pub fn axis(mut self, axis: i32) -> Self {
        self.axis = axis;
        self
    }

    /// Sets how much of the target is spread over all classes.
    pub fn label_smoothing(mut self, label_smoothing: f64) -> Self {
        self.label_smoothing = label_smoothing;
        self
    }

    /// Sets what becomes of the element losses.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

/// `log Σ eˡᵒᵍⁱᵗˢ − logit of the target`, over the class axis.
///
/// `targets` are class ids without that axis, or probabilities with it. Ids that are computed
/// already are checked; of lazy ones, one beyond the axis counts as the last class.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::loss::{CrossEntropyOptions, Reduction, cross_entropy};
///
/// let logits = Array::from_slice::<f32>(&[2.0, -1.0, -1.0, 2.0], &[2, 2])?;
/// let targets = Array::from_slice::<u32>(&[0, 1], &[2])?;
/// let loss = cross_entropy(&logits, &targets, CrossEntropyOptions::default().reduction(Reduction::Mean))?;
/// assert!((loss.item::<f32>()? - 0.048_587).abs() < 1e-5);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes do not fit or the smoothing is outside `0..1`;
/// [`Error::Core`] for a class id outside the axis.
pub fn cross_entropy(
    logits: &Array,
    targets: &Array,
    options: CrossEntropyOptions,
) -> Result<Array> {
    let CrossEntropyOptions {
        weights,
        axis,
        label_smoothing,
        reduction,
    } = options;
    if !(0.0..1.0).contains(&label_smoothing) {
        let message = format!("label smoothing must be in 0..1, found {label_smoothing}");
        return Err(Error::invalid("cross_entropy", message));
    }
    // The shift leaves the loss and its gradient as they are and keeps the exponentials finite.
    let logits = (logits - stop_gradient(&max_axes(logits, &[axis], true)?))?;
    let score = if targets.ndim() == logits.ndim() {
        same_shape("cross_entropy", &[&logits, targets])?;
        sum_axes(&(&logits * targets)?, &[axis], false)?
    } else {
        at_class("cross_entropy", &logits, targets, axis)?
    };
    let normalizer = logsumexp_axes(&logits, &[axis], false)?;
    let loss = if label_smoothing > 0.0 {
        let adjusted = (&normalizer - &(score * (1.0 - label_smoothing))?)?;
        (adjusted - mean_axes(&logits, &[axis], false)? * label_smoothing)?
    } else {
        (normalizer - score)?
    };
    reduction.apply(weighted("cross_entropy", loss, weights.as_ref())?)
}

/// The value of each target class along `axis`, which the result lacks.
fn at_class(loss: &'static str, x: &Array, targets: &Array, axis: i32) -> Result<Array> {
    let mut expected = x.shape().to_vec();
    let index = if axis < 0 {
        i64::from(axis) + x.ndim() as i64
    } else {
        i64::from(axis)
    };
    match usize::try_from(index) {
        Ok(index) if index < expected.len() => expected.remove(index),
        _ => {
            return Err(Error::invalid(
                loss,
                format!("no axis {axis} in {expected:?}"),
            ));
        }
    };
    if targets.shape() != expected {
        let message = format!("targets {:?} do not fit {:?}", targets.shape(), x.shape());
        return Err(Error::invalid(loss, message));
    }
    // Before they are reshaped: afterwards they are lazy, and could not be refused any more.
    let targets = checked_indices(targets, x.dim(axis)?)?;
    let found = take_along_axis(x, &expand_dims(&targets, &[axis])?, axis)?;
    Ok(squeeze_axes(&found, &[axis])?)
}

/// The cross entropy of two classes; usual are logits and the mean.
///
/// Without logits, `inputs` are probabilities, whose logarithm is cut off at −100.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn binary_cross_entropy(
    inputs: &Array,
    targets: &Array,
    weights: Option<&Array>,
    with_logits: bool,
    reduction: Reduction,
) -> Result<Array> {
    same_shape("binary_cross_entropy", &[inputs, targets])?;
    let loss = if with_logits {
        (logaddexp(&number(0.0, inputs)?, inputs)? - inputs * targets)?
    } else {
        let limit = number(-100.0, inputs)?;
        let hit = clip(&log(inputs)?, Some(&limit), None)?;
        let miss = clip(&log(&(1.0 - inputs)?)?, Some(&limit), None)?;
        let remainder = (1.0 - targets)?;
        negative(&((targets * &hit)? + &remainder * &miss)?)?
    };
    reduction.apply(weighted("binary_cross_entropy", loss, weights)?)
}

/// Minus the log-probability of the target class, along `axis`.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes do not fit.
pub fn nll_loss(
    log_probabilities: &Array,
    targets: &Array,
    axis: i32,
    reduction: Reduction,
) -> Result<Array> {
    reduction.apply(negative(&at_class(
        "nll_loss",
        log_probabilities,
        targets,
        axis,
    )?)?)
}

/// The Kullback–Leibler divergence `Σ eᵗ (t − x)` of log-probabilities, along `axis`.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn kl_div_loss(
    inputs: &Array,
    targets: &Array,
    axis: i32,
    reduction: Reduction,
) -> Result<Array> {
    same_shape("kl_div_loss", &[inputs, targets])?;
    let terms = (exp(targets)? * (targets - inputs))?;
    reduction.apply(sum_axes(&terms, &[axis], false)?)
}

/// `max(1 − x · t, 0)` for targets ±1.
///
/// # Errors
/// [`Error::InvalidArgument`] if the shapes differ.
pub fn hinge_loss(inputs: &Array, targets: &Array, reduction: Reduction) -> Result<Array> {
    same_shape("hinge_loss", &[inputs, targets])?;
    let margin = (1.0 - &(inputs * targets)?)?;
    reduction.apply(maximum(&margin, &number(0.0, &margin)?)?)
}
