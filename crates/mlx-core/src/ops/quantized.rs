//! Quantised weights: packed into uint32 words in groups along the last axis.
//!
//! | mode | group size | bits | scales | biases |
//! |---|---|---|---|---|
//! | affine | 32, 64 (default), 128 | 1–6 or 8 (default 4) | the weight's dtype | yes |
//! | mxfp4 | 32 | 4 | uint8 (E8M0) | no |
//! | mxfp8 | 32 | 8 | uint8 (E8M0) | no |
//! | nvfp4 | 16 | 4 | uint8 (E4M3) | no |

use super::{linalg_basic::batch_indices, packing};
use crate::ffi::ops as ffi;
use crate::{Array, Dtype, Error, Result};

/// How numbers are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuantizationMode {
    /// `scale * q + bias` with unsigned `q`.
    #[default]
    Affine,
    /// E2M1 elements under a shared power of two (OCP Microscaling, 2023).
    Mxfp4,
    /// E4M3 elements under a shared power of two.
    Mxfp8,
    /// E2M1 elements under a shared E4M3 scale.
    Nvfp4,
}

impl QuantizationMode {
    /// MLX's name: `"affine"`, `"mxfp4"`, `"mxfp8"`, `"nvfp4"`.
    pub fn as_str(self) -> &'static str {
        match self {
            QuantizationMode::Affine => "affine",
            QuantizationMode::Mxfp4 => "mxfp4",
            QuantizationMode::Mxfp8 => "mxfp8",
            QuantizationMode::Nvfp4 => "nvfp4",
        }
    }

    /// The mode of this [name](QuantizationMode::as_str).
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Affine, Self::Mxfp4, Self::Mxfp8, Self::Nvfp4]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }
}

/// The layout of quantised weights; `None` takes the mode's default.
#[must_use]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuantizationLayout {
    /// Numbers that share a scale.
    pub group_size: Option<i32>,
    /// Bits of a number.
    pub bits: Option<i32>,
    /// How numbers are packed.
    pub mode: QuantizationMode,
}

impl QuantizationLayout {
    /// Affine groups of `group_size` numbers of `bits` bits.
    pub fn affine(group_size: i32, bits: i32) -> Self {
        QuantizationLayout {
            group_size: Some(group_size),
            bits: Some(bits),
            mode: QuantizationMode::Affine,
        }
    }

    /// The defaults of `mode`.
    pub fn of(mode: QuantizationMode) -> Self {
        QuantizationLayout {
            group_size: None,
            bits: None,
            mode,
        }
    }
}

/// A quantised matrix.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The packed numbers, uint32: `[.., N, K * bits / 32]`.
    pub weight: Array,
    /// A scale for each group: `[.., N, K / group_size]`.
    pub scales: Array,
    /// A bias for each group, in affine mode.
    pub biases: Option<Array>,
}

/// Packs `w`, whose last axis must be a multiple of the group size.
///
/// # Errors
/// [`Error::Shape`] for an unknown layout or absurdly long rows; [`Error::Unsupported`] for float64;
/// [`Error::Op`] if `w` has fewer than two axes or does not divide into groups.
pub fn quantize(w: &Array, layout: QuantizationLayout) -> Result<Quantized> {
    quantize_parts(w, layout, None)
}

fn quantize_parts(
    w: &Array,
    layout: QuantizationLayout,
    global_scale: Option<&Array>,
) -> Result<Quantized> {
    packing::unpacked("quantize", w, layout)?;
    let parts = ffi::quantize(
        w,
        layout.group_size,
        layout.bits,
        layout.mode.as_str(),
        global_scale,
    )?;
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        (Some(weight), Some(scales)) => Ok(Quantized {
            weight,
            scales,
            biases: parts.next(),
        }),
        _ => Err(Error::Backend(
            "quantize gave fewer than two arrays".to_owned(),
        )),
    }
}

/// [`quantize`] in mode nvfp4 under one more scale for the whole matrix, a float32 scalar.
///
/// # Errors
/// As [`quantize`], or [`Error::Shape`] if `global_scale` is not one float32 number.
pub fn quantize_with_global_scale(w: &Array, global_scale: &Array) -> Result<Quantized> {
    packing::global("quantize", global_scale)?;
    let layout = QuantizationLayout::of(QuantizationMode::Nvfp4);
    quantize_parts(w, layout, Some(global_scale))
}

/// [`dequantize`] of what [`quantize_with_global_scale`] made.
///
/// # Errors
/// As [`dequantize`], or [`Error::Shape`] if `global_scale` is not one float32 number.
pub fn dequantize_with_global_scale(
    w: &Array,
    scales: &Array,
    global_scale: &Array,
    dtype: Option<Dtype>,
) -> Result<Array> {
    packing::global("dequantize", global_scale)?;
    let layout = QuantizationLayout::of(QuantizationMode::Nvfp4);
    packing::parts("dequantize", w, scales, None, layout)?;
    let mode = layout.mode.as_str();
    ffi::dequantize(w, scales, None, None, None, mode, Some(global_scale), dtype)
}

/// The numbers that a packed matrix stands for: in affine mode of the scales' dtype, else
/// bfloat16 unless `dtype` says otherwise.
///
/// # Errors
/// [`Error::Shape`] for an unknown layout or parts that do not fit together; [`Error::Op`] if their
/// dtypes do not.
pub fn dequantize(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    layout: QuantizationLayout,
    dtype: Option<Dtype>,
) -> Result<Array> {
    packing::parts("dequantize", w, scales, biases, layout)?;
    ffi::dequantize(
        w,
        scales,
        biases,
        layout.group_size,
        layout.bits,
        layout.mode.as_str(),
        None,
        dtype,
    )
}

/// `x` times a packed matrix: with `transpose` `x @ w.T` for `w` standing for `[N, K]`, else
/// `x @ w` for `[K, N]`. The result has the dtype of `x`.
///
/// # Errors
/// As [`dequantize`], if the inner dimensions differ, or [`Error::Unsupported`] for float64.
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    transpose: bool,
    layout: QuantizationLayout,
) -> Result<Array> {
    packing::parts("quantized_matmul", w, scales, biases, layout)?;
    packing::narrow("quantized_matmul", &[x, scales, biases.unwrap_or(scales)])?;
    ffi::quantized_matmul(
        x,
        w,
        scales,
        biases,
        transpose,
        layout.group_size,
        layout.bits,
        layout.mode.as_str(),
    )
}

/// Which matrices [`gather_qmm`] multiplies.
#[must_use]
#[derive(Clone, Copy, Debug, Default)]
pub struct GatherIndices<'a> {
    /// Positions among the leading axes of `x`; all in order if `None`.
    pub lhs: Option<&'a Array>,
    /// Positions among the leading axes of `w`; all in order if `None`.
    pub rhs: Option<&'a Array>,
    /// Whether the right positions ascend, which is faster on GPUs.
    pub sorted: bool,
}

/// [`quantized_matmul`] with matrices chosen by index, as experts are.
///
/// # Errors
/// As [`quantized_matmul`], or [`Error::OutOfBounds`] for indices outside.
pub fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    indices: GatherIndices<'_>,
    transpose: bool,
    layout: QuantizationLayout,
) -> Result<Array> {
    let checked = (
        batch_indices("gather_qmm", x, indices.lhs)?,
        batch_indices("gather_qmm", w, indices.rhs)?,
    );
    let places = (checked.0.as_ref(), checked.1.as_ref());
    gather_parts(
        x,
        w,
        (scales, biases, None),
        indices,
        places,
        transpose,
        layout,
    )
}

/// [`gather_qmm`] with weights that [`quantize_with_global_scale`] packed: a float32 scale for each
/// matrix of `w`. GPU only, and without a gradient for the scales.
///
/// # Errors
/// As [`gather_qmm`], or [`Error::Op`] if there is not one float32 scale for each matrix, there are
/// no indices, or the device is the CPU.
pub fn gather_qmm_with_global_scale(
    x: &Array,
    w: &Array,
    scales: &Array,
    global_scale: &Array,
    indices: GatherIndices<'_>,
    transpose: bool,
) -> Result<Array> {
    let checked = (
        batch_indices("gather_qmm", x, indices.lhs)?,
        batch_indices("gather_qmm", w, indices.rhs)?,
    );
    let places = (checked.0.as_ref(), checked.1.as_ref());
    let layout = QuantizationLayout::of(QuantizationMode::Nvfp4);
    let scales = (scales, None, Some(global_scale));
    gather_parts(x, w, scales, indices, places, transpose, layout)
}

/// The product after the indices are known to be good.
pub(super) fn gather_parts(
    x: &Array,
    w: &Array,
    (scales, biases, global_scale): (&Array, Option<&Array>, Option<&Array>),
    indices: GatherIndices<'_>,
    (lhs, rhs): (Option<&Array>, Option<&Array>),
    transpose: bool,
    layout: QuantizationLayout,
) -> Result<Array> {
    packing::parts("gather_qmm", w, scales, biases, layout)?;
    packing::narrow("gather_qmm", &[x, scales, biases.unwrap_or(scales)])?;
    ffi::gather_qmm(
        x,
        w,
        scales,
        biases,
        lhs,
        rhs,
        transpose,
        layout.group_size,
        layout.bits,
        layout.mode.as_str(),
        global_scale,
        indices.sorted,
    )
}

/// Numbers as E4M3 floats, one byte each, in uint8.
///
/// # Errors
/// [`Error::Op`] if `a` is not floating point.
pub fn to_fp8(a: &Array) -> Result<Array> {
    // MLX's CPU back end takes the bytes of float64 for those of float32.
    if a.dtype() == Dtype::Float64 {
        return ffi::to_fp8(&ffi::astype(a, Dtype::Float32)?);
    }
    ffi::to_fp8(a)
}

/// E4M3 floats, one byte each, as numbers of `dtype`.
///
/// # Errors
/// [`Error::Op`] if `a` is not uint8 or `dtype` not floating point.
pub fn from_fp8(a: &Array, dtype: Dtype) -> Result<Array> {
    // MLX's CPU back end writes half of a float64 result.
    if dtype == Dtype::Float64 {
        return ffi::astype(&ffi::from_fp8(a, Dtype::Float32)?, dtype);
    }
    ffi::from_fp8(a, dtype)
}

/// The scales of [`qqmm`]'s operands.
#[must_use]
#[derive(Clone, Copy, Debug, Default)]
pub struct QqmmScales<'a> {
    /// Scales of `w`, if it is packed.
    pub w: Option<&'a Array>,
    /// A scale over all of `x` (nvfp4 only).
    pub global_x: Option<&'a Array>,
    /// A scale over all of `w` (nvfp4 only).
    pub global_w: Option<&'a Array>,
}

/// `x @ w.T` with both sides quantised, in the modes nvfp4 and mxfp8. MLX's CPU back end computes
/// it for a single row and packed `w` only, and reports others when they are computed.
///
/// # Errors
/// [`Error::Shape`] for another mode or scales that do not fit `w`; [`Error::Unsupported`] for
/// float64; [`Error::Op`] if the inner dimensions differ.
pub fn qqmm(
    x: &Array,
    w: &Array,
    scales: QqmmScales<'_>,
    layout: QuantizationLayout,
) -> Result<Array> {
    packing::both("qqmm", w, scales, layout)?;
    packing::narrow("qqmm", &[x, w])?;
    ffi::qqmm(
        x,
        w,
        scales.w,
        layout.group_size,
        layout.bits,
        layout.mode.as_str(),
        scales.global_x,
        scales.global_w,
    )
}

/// [`qqmm`] with matrices chosen by index. GPU only.
///
/// # Errors
/// As [`qqmm`], or [`Error::OutOfBounds`] for indices outside.
pub fn gather_qqmm(
    x: &Array,
    w: &Array,
    scales: QqmmScales<'_>,
    indices: GatherIndices<'_>,
    layout: QuantizationLayout,
) -> Result<Array> {
    packing::both("gather_qqmm", w, scales, layout)?;
    packing::narrow("gather_qqmm", &[x, w])?;
    let lhs = batch_indices("gather_qqmm", x, indices.lhs)?;
    let rhs = batch_indices("gather_qqmm", w, indices.rhs)?;
    ffi::gather_qqmm(
        x,
        w,
        scales.w,
        lhs.as_ref(),
        rhs.as_ref(),
        layout.group_size,
        layout.bits,
        layout.mode.as_str(),
        scales.global_x,
        scales.global_w,
        indices.sorted,
    )
}
