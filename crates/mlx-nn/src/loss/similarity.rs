//! Losses over distances and orders.

use mlx_core::{
    Array,
    ops::{
        arithmetic::{abs, divide, maximum, multiply, negative, power, sqrt, square},
        reduction::sum_axes,
    },
};

use super::{Reduction, number, same_shape};
use crate::Result;

/// The cosine of the angle between vectors along `axis`; the product of their lengths is at least
/// `eps`. Usual are 1 and 1e-8.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if the shapes differ.
pub fn cosine_similarity_loss(
    x1: &Array,
    x2: &Array,
    axis: i32,
    eps: f64,
    reduction: Reduction,
) -> Result<Array> {
    same_shape("cosine_similarity_loss", &[x1, x2])?;
    let length = |x: &Array| sqrt(&sum_axes(&square(x)?, &[axis], false)?);
    let lengths = multiply(&length(x1)?, &length(x2)?)?;
    let products = sum_axes(&multiply(x1, x2)?, &[axis], false)?;
    reduction.apply(divide(
        &products,
        &maximum(&lengths, &number(eps, &lengths)?)?,
    )?)
}

/// `max(0, −t · (x₁ − x₂) + margin)` for targets ±1; the usual margin is 0.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if the shapes differ.
pub fn margin_ranking_loss(
    inputs1: &Array,
    inputs2: &Array,
    targets: &Array,
    margin: f64,
    reduction: Reduction,
) -> Result<Array> {
    same_shape("margin_ranking_loss", &[inputs1, inputs2, targets])?;
    let loss = ((negative(targets)? * (inputs1 - inputs2))? + margin)?;
    reduction.apply(maximum(&number(0.0, &loss)?, &loss)?)
}

/// How [`triplet_loss`] measures.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
#[must_use]
pub struct TripletOptions {
    /// The axis of the vectors; the last by default.
    pub axis: i32,
    /// The degree of the norm; 2 by default.
    pub p: f64,
    /// By how much the negative must be farther away; 1 by default.
    pub margin: f64,
    /// Keeps roots from zero; 1e-6 by default.
    pub eps: f64,
    /// What becomes of the element losses.
    pub reduction: Reduction,
}

impl Default for TripletOptions {
    fn default() -> Self {
        Self {
            axis: -1,
            p: 2.0,
            margin: 1.0,
            eps: 1e-6,
            reduction: Reduction::None,
        }
    }
}

impl TripletOptions {
    /// Sets by how much the negative must be farther away.
    pub fn margin(mut self, margin: f64) -> Self {
        self.margin = margin;
        self
    }

    /// Sets the degree of the norm.
    pub fn p(mut self, p: f64) -> Self {
        self.p = p;
        self
    }

    /// Sets what becomes of the element losses.
    pub fn reduction(mut self, reduction: Reduction) -> Self {
        self.reduction = reduction;
        self
    }
}

/// `max(d(anchor, positive) − d(anchor, negative) + margin, 0)`.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if the shapes differ.
pub fn triplet_loss(
    anchors: &Array,
    positives: &Array,
    negatives: &Array,
    options: TripletOptions,
) -> Result<Array> {
    same_shape("triplet_loss", &[anchors, positives, negatives])?;
    let TripletOptions {
        axis,
        p,
        margin,
        eps,
        reduction,
    } = options;
    let distance = |others: &Array| -> Result<Array> {
        let differences = abs(&(anchors - others)?)?;
        let powers = power(&differences, &number(p, &differences)?)?;
        let sums = (sum_axes(&powers, &[axis], false)? + eps)?;
        Ok(power(&sums, &number(1.0 / p, &sums)?)?)
    };
    let gap = (distance(positives)? - distance(negatives)?)?;
    let loss = (gap + margin)?;
    reduction.apply(maximum(&loss, &number(0.0, &loss)?)?)
}
