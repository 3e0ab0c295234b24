//! Fused operations: one kernel on a GPU and, with few exceptions, on the CPU.

use super::checked;
use crate::ffi::ops as ffi;
use crate::{Array, Error, Result};

/// Root-mean-square normalisation over the last axis: `x / sqrt(mean(x²) + eps) * weight`.
///
/// `[.., D]` with a weight of `[D]`. Keeps the dtype; sums in float32.
///
/// # Errors
/// [`Error::Op`] if the weight does not fit or the dtype is not floating point.
pub fn rms_norm(x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array> {
    ffi::fast_rms_norm(x, weight, eps)
}

/// Layer normalisation over the last axis: `(x - mean) / sqrt(var + eps) * weight + bias`.
///
/// # Errors
/// As [`rms_norm`].
pub fn layer_norm(
    x: &Array,
    weight: Option<&Array>,
    bias: Option<&Array>,
    eps: f32,
) -> Result<Array> {
    ffi::fast_layer_norm(x, weight, bias, eps)
}

/// The gated activation of llama-like models, `x · gate · sigmoid(gate)`, element by element.
///
/// "GLU Variants Improve Transformer", 2020. The result has the promoted dtype and shape.
///
/// ```
/// # use mlx_core::{Array, ops::fast::swiglu};
/// let gate = Array::from_slice::<f32>(&[0.0, 100.0], &[2])?;
/// let x = Array::from_slice::<f32>(&[3.0, 0.5], &[2])?;
/// assert_eq!(swiglu(&gate, &x)?.to_vec::<f32>()?, [0.0, 50.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Op`] if the shapes cannot be broadcast.
pub fn swiglu(gate: &Array, x: &Array) -> Result<Array> {
    ffi::fast_swiglu(gate, x)
}

/// The activation `x · sigmoid(x)`, element by element, also known as Swish.
///
/// Keeps the dtype of floating-point input.
///
/// # Errors
/// [`Error::Op`] if the dtype is complex.
pub fn silu(x: &Array) -> Result<Array> {
    ffi::fast_silu(x)
}

/// The activation `x · Φ(x)` with the Gaussian distribution function Φ, element by element.
///
/// "Gaussian Error Linear Units", 2016. Keeps the dtype of floating-point input.
///
/// ```
/// # use mlx_core::{Array, ops::fast::gelu};
/// let x = Array::from_slice::<f32>(&[-100.0, 0.0, 100.0], &[3])?;
/// assert_eq!(gelu(&x)?.to_vec::<f32>()?, [0.0, 0.0, 100.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Op`] if the dtype is complex.
pub fn gelu(x: &Array) -> Result<Array> {
    ffi::fast_gelu(x)
}

/// [`gelu`] through a hyperbolic tangent:
/// `x · (1 + tanh(√(2 / π) · (x + 0.044715 x³))) / 2`.
///
/// # Errors
/// [`Error::Op`] if the dtype has no hyperbolic tangent.
pub fn gelu_approx(x: &Array) -> Result<Array> {
    ffi::fast_gelu_approx(x)
}

/// [`gelu`] through a sigmoid: `x · sigmoid(1.702 x)`.
///
/// # Errors
/// [`Error::Op`] if the dtype is complex.
pub fn gelu_fast_approx(x: &Array) -> Result<Array> {
    ffi::fast_gelu_fast_approx(x)
}

/// Cross entropy of class ids: logits `[.., C]` and targets `[..]` give losses `[..]`.
///
/// # Errors
/// [`Error::OutOfBounds`] for a class outside `0..C`; [`Error::Op`] if the shapes do not fit.
pub fn cross_entropy(logits: &Array, targets: &Array) -> Result<Array> {
    let classes = logits.dim(-1)?;
    let targets = checked::indices("cross_entropy", targets, logits.ndim() - 1, classes)?;
    // Negative ids would count from the end elsewhere; here they would leave the row.
    let targets = ffi::maximum(&targets, &Array::scalar_dtype(0.0, targets.dtype())?)?;
    ffi::fast_cross_entropy(logits, &targets)
}

/// How positions rotate.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct RopeOptions<'a> {
    traditional: bool,
    base: Option<f32>,
    scale: f32,
    freqs: Option<&'a Array>,
}

impl Default for RopeOptions<'_> {
    fn default() -> Self {
        RopeOptions {
            traditional: false,
            base: Some(10_000.0),
            scale: 1.0,
            freqs: None,
        }
    }
}

impl<'a> RopeOptions<'a> {
    /// Whether consecutive elements form a pair, rather than elements half the width apart.
    pub fn traditional(mut self, traditional: bool) -> Self {
        self.traditional = traditional;
        self
    }

    /// The base of the frequencies (default 10 000).
    pub fn base(mut self, base: f32) -> Self {
        self.base = Some(base);
        self.freqs = None;
        self
    }

    /// What positions are multiplied by (default 1).
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// The periods of the pairs, `[dims / 2]`, instead of a base.
    pub fn freqs(mut self, freqs: &'a Array) -> Self {
        self.freqs = Some(freqs);
        self.base = None;
        self
    }
}

/// Rotary position encoding of the first `dims` features of `[.., L, D]`, positions counted from
/// `offset`.
///
/// "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021. Keeps the dtype.
///
/// # Errors
/// [`Error::Shape`] if `dims` is odd or exceeds `D`; [`Error::Op`] if the dtype is not floating
/// point.
pub fn rope(x: &Array, dims: i32, offset: i32, options: RopeOptions<'_>) -> Result<Array> {
    check_dims(x, dims)?;
    ffi::fast_rope(
        x,
        dims,
        options.traditional,
        options.base,
        options.scale,
        offset,
        options.freqs,
    )
}

/// [`rope`] with the offset as an array: a scalar, or `[B]` with one for each sequence.
///
/// # Errors
/// As [`rope`].
pub fn rope_with_offsets(
    x: &Array,
    dims: i32,
    offsets: &Array,
    options: RopeOptions<'_>,
) -> Result<Array> {
    check_dims(x, dims)?;
    ffi::fast_rope_offsets(
        x,
        dims,
        options.traditional,
        options.base,
        options.scale,
        offsets,
        options.freqs,
    )
}

fn check_dims(x: &Array, dims: i32) -> Result<()> {
    let width = x.dim(-1)?;
    if dims <= 0 || dims % 2 != 0 || dims > width {
        return Err(Error::shape(
            "rope",
            format!("dims must be even and within 2..={width}, found {dims}"),
        ));
    }
    Ok(())
}

/// Which keys a query may see.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub enum AttentionMask<'a> {
    /// All.
    #[default]
    None,
    /// Those not after it, the last query aligned with the last key.
    Causal,
    /// Bool (true is visible) or additive, broadcasting to `[B, H, L, S]`.
    Array(&'a Array),
}

/// Scaled dot-product attention: queries `[B, H, L, D]`, keys `[B, KV, S, D]` and values
/// `[B, KV, S, DV]` give `[B, H, L, DV]`.
///
/// `H` is a multiple of `KV`: groups of query heads share a key head. `sinks`, `[H]`, are logits
/// that join each softmax without a value. Softmax is in float32; the result has the inputs'
/// promoted dtype. "Attention Is All You Need", 2017.
///
/// # Errors
/// [`Error::Shape`] if there are no key heads; [`Error::Op`] if the shapes do not fit.
pub fn scaled_dot_product_attention(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: AttentionMask<'_>,
    sinks: Option<&Array>,
) -> Result<Array> {
    attention(queries, keys, values, scale, mask, sinks, false)
}

/// [`scaled_dot_product_attention`] in one fused kernel or not at all, also where MLX's rules of
/// thumb prefer separate operations. A fused kernel never holds all `[L, S]` logits at once, so that
/// it needs less memory for long inputs.
///
/// # Errors
/// As [`scaled_dot_product_attention`], or [`Error::Op`] where the device has no fused kernel for
/// the operands.
pub fn scaled_dot_product_attention_fused(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: AttentionMask<'_>,
    sinks: Option<&Array>,
) -> Result<Array> {
    attention(queries, keys, values, scale, mask, sinks, true)
}

fn attention(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: AttentionMask<'_>,
    sinks: Option<&Array>,
    fused: bool,
) -> Result<Array> {
    let op = "scaled_dot_product_attention";
    for (name, array) in [("queries", queries), ("keys", keys), ("values", values)] {
        if array.ndim() != 4 || array.shape()[1] == 0 {
            return Err(Error::shape(
                op,
                format!(
                    "{name} must be [B, H, L, D] with H > 0, found {:?}",
                    array.shape()
                ),
            ));
        }
    }
    let (mode, mask) = match mask {
        AttentionMask::None => ("", None),
        AttentionMask::Causal => ("causal", None),
        AttentionMask::Array(mask) => ("", Some(mask)),
    };
    ffi::fast_scaled_dot_product_attention(queries, keys, values, scale, mode, mask, sinks, fused)
}

/// One step of the gated delta rule: returns the outputs and the new state.
///
/// "Gated Delta Networks: Improving Mamba2 with Delta Rule", 2024.
///
/// # Errors
/// [`Error::Op`] if the shapes do not fit.
pub fn gated_delta_update(
    queries: &Array,
    keys: &Array,
    values: &Array,
    gates: &Array,
    beta: &Array,
    initial_state: Option<&Array>,
    mask: Option<&Array>,
) -> Result<Vec<Array>> {
    for (name, array) in [("queries", queries), ("keys", keys), ("values", values)] {
        if array.ndim() != 4 || array.size() == 0 {
            return Err(Error::shape(
                "gated_delta_update",
                format!(
                    "{name} must be [B, L, H, D] and not empty, found {:?}",
                    array.shape()
                ),
            ));
        }
    }
    ffi::fast_gated_delta_update(queries, keys, values, gates, beta, initial_state, mask)
}
