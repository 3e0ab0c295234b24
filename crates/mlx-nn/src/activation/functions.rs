//! The activation functions, under their names in MLX for Python.
//!
//! All keep the shape of their input and, for floating-point input, its dtype.

use mlx_core::{
    Array, Result as CoreResult,
    ops::{
        self,
        arithmetic::{
            abs, divide, exp, logaddexp, maximum, minimum, multiply, negative, sign, square,
        },
        comparison::{greater, greater_equal},
        indexing::r#where,
        misc::stop_gradient,
        reduction::{logsumexp_axes, max_axes},
        shape::split,
    },
};

use crate::Result;

/// A number in the dtype of `x`, which it must not widen.
fn number(value: f64, x: &Array) -> CoreResult<Array> {
    let dtype = if x.dtype().is_floating() {
        x.dtype()
    } else {
        mlx_core::Dtype::Float32
    };
    Array::scalar_dtype(value, dtype)
}

fn at_least(x: &Array, bound: f64) -> CoreResult<Array> {
    maximum(x, &number(bound, x)?)
}

fn at_most(x: &Array, bound: f64) -> CoreResult<Array> {
    minimum(x, &number(bound, x)?)
}

/// Defines functions that share what their documentation says about errors.
macro_rules! activations {
    ($($(#[doc = $doc:literal])* fn $name:ident($x:ident $(, $argument:ident: $ty:ty)*) $body:block)*) => {$(
        $(#[doc = $doc])*
        ///
        /// # Errors
        /// [`Error::Core`](crate::Error::Core) if the dtype has no such function or an axis does
        /// not exist.
        pub fn $name($x: &Array $(, $argument: $ty)*) -> Result<Array> $body
    )*};
}

activations! {
    /// `1 / (1 + e⁻ˣ)`.
    fn sigmoid(x) { Ok(ops::arithmetic::sigmoid(x)?) }

    /// `max(x, 0)`.
    fn relu(x) { Ok(at_least(x, 0.0)?) }

    /// `max(x, 0)²`, from "Primer: Searching for Efficient Transformers" (2021).
    fn relu2(x) { Ok(square(&at_least(x, 0.0)?)?) }

    /// `min(max(x, 0), 6)`.
    fn relu6(x) { Ok(at_most(&at_least(x, 0.0)?, 6.0)?) }

    /// `max(x, negative_slope · x)`; the usual slope is 0.01.
    fn leaky_relu(x, negative_slope: f64) { Ok(maximum(&(x * negative_slope)?, x)?) }

    /// `x − log Σ eˣ` over an axis, shifted by the maximum so that nothing overflows.
    fn log_softmax(x, axis: i32) {
        let shifted = (x - stop_gradient(&max_axes(x, &[axis], true)?))?;
        Ok((&shifted - logsumexp_axes(&shifted, &[axis], true))?)
    }

    /// `x` where positive, else `alpha · (eˣ − 1)`; the usual `alpha` is 1.
    fn elu(x, alpha: f64) {
        let negative_part = ((exp(x)? - 1.0_f64)? * alpha)?;
        Ok(r#where(&greater(x, &number(0.0, x)?)?, x, &negative_part)?)
    }

    /// `eˣ / Σ eˣ` over an axis.
    fn softmax(x, axis: i32) { Ok(ops::reduction::softmax(x, &[axis])?) }

    /// `log(1 + eˣ)`.
    fn softplus(x) { Ok(logaddexp(x, &number(0.0, x)?)?) }

    /// `x / (1 + |x|)`.
    fn softsign(x) { Ok(divide(x, &(abs(x)? + 1.0_f64)?)?) }

    /// `x` moved by `lambda` towards zero, and zero within it; the usual `lambda` is 0.5.
    fn softshrink(x, lambda: f64) {
        let moved = (x - sign(x)? * lambda)?;
        let outside = greater(&abs(x)?, &number(lambda, x)?)?;
        Ok(r#where(&outside, &moved, &number(0.0, x)?)?)
    }

    /// `max(x, 0) + alpha · (e^(min(x, 0) / alpha) − 1)`; the usual `alpha` is 1.
    fn celu(x, alpha: f64) {
        let negative_part = ((exp(&(at_most(x, 0.0)? / alpha)?)? - 1.0_f64)? * alpha)?;
        Ok((at_least(x, 0.0)? + negative_part)?)
    }

    /// `x · sigmoid(x)`, also known as Swish.
    fn silu(x) { Ok(ops::fast::silu(x)?) }

    /// `−log(1 + e⁻ˣ)`.
    fn log_sigmoid(x) { Ok(negative(&softplus(&negative(x)?)?)?) }

    /// `x · Φ(x)` with the Gaussian distribution function Φ, from "Gaussian Error Linear Units"
    /// (2016).
    fn gelu(x) { Ok(ops::fast::gelu(x)?) }

    /// [`gelu`] through a hyperbolic tangent; off by at most 0.0005 within ±6.
    fn gelu_approx(x) { Ok(ops::fast::gelu_approx(x)?) }

    /// [`gelu`] through a sigmoid, `x · sigmoid(1.702 x)`; off by at most 0.015 within ±6.
    fn gelu_fast_approx(x) { Ok(ops::fast::gelu_fast_approx(x)?) }

    /// `a · sigmoid(b)` for the two halves `a` and `b` of an axis, which the result has half of.
    fn glu(x, axis: i32) {
        let halves = split(x, 2, axis)?;
        match halves.as_slice() {
            [a, b] => Ok(multiply(a, &ops::arithmetic::sigmoid(b)?)?),
            _ => Err(crate::Error::invalid("glu", "the axis has no two halves")),
        }
    }

    /// 1 where `x ≥ threshold`, else 0, as 32-bit integers.
    fn step(x, threshold: f64) {
        let reached = greater_equal(x, &number(threshold, x)?)?;
        Ok(ops::misc::astype(&reached, mlx_core::Dtype::Int32)?)
    }

    /// [`elu`] with the factors that keep mean and variance, from "Self-Normalizing Neural
    /// Networks" (2017).
    fn selu(x) { Ok((elu(x, 1.67326)? * 1.0507)?) }

    /// `max(x, 0) + alpha · min(x, 0)` with a learned `alpha`, broadcast to `x`.
    fn prelu(x, alpha: &Array) {
        Ok((at_least(x, 0.0)? + multiply(alpha, &at_most(x, 0.0)?)?)?)
    }

    /// `x · tanh(log(1 + eˣ))`, from "Mish: A Self Regularized Non-Monotonic Activation
    /// Function" (2019).
    fn mish(x) { Ok(multiply(x, &ops::arithmetic::tanh(&softplus(x)?)?)?) }

    /// `x · min(max(x + 3, 0), 6) / 6`.
    fn hardswish(x) {
        let gate = at_most(&at_least(&(x + 3.0_f64)?, 0.0)?, 6.0)?;
        Ok((multiply(x, &gate)? / 6.0)?)
    }

    /// `min(max(x, low), high)`; the usual bounds are ±1.
    fn hard_tanh(x, low: f64, high: f64) { Ok(at_most(&at_least(x, low)?, high)?) }

    /// `x` outside of ±`lambda`, else zero; the usual `lambda` is 0.5.
    fn hard_shrink(x, lambda: f64) {
        let outside = greater(&abs(x)?, &number(lambda, x)?)?;
        Ok(r#where(&outside, x, &number(0.0, x)?)?)
    }

    /// `e⁻ˣ / Σ e⁻ˣ` over an axis.
    fn softmin(x, axis: i32) { Ok(ops::reduction::softmax(&negative(x)?, &[axis])?) }

    /// The hyperbolic tangent.
    fn tanh(x) { Ok(ops::arithmetic::tanh(x)?) }
}

/// `silu(gate) · x`, the gated unit of llama-like models, from "GLU Variants Improve
/// Transformer" (2020).
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if the shapes cannot be broadcast.
pub fn swiglu(gate: &Array, x: &Array) -> Result<Array> {
    Ok(ops::fast::swiglu(gate, x)?)
}
