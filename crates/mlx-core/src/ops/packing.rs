//! What packed weights must be before MLX may see them.
//!
//! MLX compares the leading axes of weights and scales, and how many numbers a row of each stands
//! for, but not how many rows there are; it multiplies sizes in 32 bits; and its CPU kernels find
//! out on a worker thread, or never, that they know no such layout.

use super::quantized::{QqmmScales, QuantizationLayout, QuantizationMode};
use crate::{Array, Dtype, Error, Result};

/// The group size and the bits of a layout that has kernels.
pub(super) fn layout(op: &'static str, layout: QuantizationLayout) -> Result<(i32, i32)> {
    let mode = layout.mode;
    let usual = match mode {
        QuantizationMode::Affine => (64, 4),
        QuantizationMode::Mxfp4 => (32, 4),
        QuantizationMode::Mxfp8 => (32, 8),
        QuantizationMode::Nvfp4 => (16, 4),
    };
    let (group, bits) = (
        layout.group_size.unwrap_or(usual.0),
        layout.bits.unwrap_or(usual.1),
    );
    let known = match mode {
        QuantizationMode::Affine => matches!(group, 32 | 64 | 128) && matches!(bits, 1..=6 | 8),
        _ => (group, bits) == usual,
    };
    if known {
        return Ok((group, bits));
    }
    let mode = mode.as_str();
    Err(Error::shape(
        op,
        format!("mode {mode} has no groups of {group} numbers of {bits} bits"),
    ))
}

/// Whether rows of `w` can be packed at all.
pub(super) fn unpacked(op: &'static str, w: &Array, packed_as: QuantizationLayout) -> Result<()> {
    let (_, bits) = layout(op, packed_as)?;
    narrow(op, &[w])?;
    let width = w.shape().last().copied().unwrap_or(0);
    if i64::from(width) * i64::from(bits) > i64::from(i32::MAX) {
        return Err(Error::shape(
            op,
            format!("rows of {width} numbers of {bits} bits are too long"),
        ));
    }
    Ok(())
}

/// Whether `scales`, and in affine mode `biases`, hold one number for each group of `w`.
pub(super) fn parts(
    op: &'static str,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    packed_as: QuantizationLayout,
) -> Result<()> {
    groups(op, w, scales, packed_as)?;
    match (packed_as.mode, biases) {
        (QuantizationMode::Affine, Some(biases)) if biases.shape() != scales.shape() => {
            let (found, wanted) = (biases.shape(), scales.shape());
            let message = format!("biases {found:?} do not fit scales {wanted:?}");
            Err(Error::shape(op, message))
        }
        // MLX's CPU back end would read garbage in their place.
        (QuantizationMode::Affine, None) => Err(Error::shape(op, "affine weights need biases")),
        (QuantizationMode::Affine, Some(_)) | (_, None) => Ok(()),
        (mode, Some(_)) => {
            let message = format!("mode {} has no biases", mode.as_str());
            Err(Error::shape(op, message))
        }
    }
}

/// Whether the operands of a product with both sides quantised fit.
pub(super) fn both(
    op: &'static str,
    w: &Array,
    scales: QqmmScales<'_>,
    packed_as: QuantizationLayout,
) -> Result<()> {
    let mode = packed_as.mode;
    // MLX's CPU back end takes affine operands and returns garbage.
    if !matches!(mode, QuantizationMode::Nvfp4 | QuantizationMode::Mxfp8) {
        let message = format!("mode {} is not supported", mode.as_str());
        return Err(Error::shape(op, message));
    }
    match (w.dtype() == Dtype::Uint32, scales.w) {
        (true, Some(scales)) if scales.dtype() != Dtype::Uint8 => {
            let message = format!("scales must be uint8, found {}", scales.dtype());
            Err(Error::shape(op, message))
        }
        (true, Some(scales)) => groups(op, w, scales, packed_as),
        (false, None) => layout(op, packed_as).map(|_| ()),
        _ => Err(Error::shape(
            op,
            "packed weights need scales, and others have none",
        )),
    }
}

/// Whether the scales are `[.., N, K / group]` for `w` of `[.., N, K * bits / 32]`.
fn groups(
    op: &'static str,
    w: &Array,
    scales: &Array,
    packed_as: QuantizationLayout,
) -> Result<()> {
    let (group, bits) = layout(op, packed_as)?;
    let fits = match (w.shape(), scales.shape()) {
        ([rows @ .., words], [scaled @ .., count]) => {
            let packed = i64::from(*words) * 32;
            !rows.is_empty()
                && rows == scaled
                && packed <= i64::from(i32::MAX)
                && packed == i64::from(*count) * i64::from(group) * i64::from(bits)
        }
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!(
            "scales {:?} do not fit weights {:?} packed in groups of {group} numbers of {bits} bits",
            scales.shape(),
            w.shape()
        ),
    ))
}

/// No device packs float64 or multiplies it with packed weights. MLX's CPU back end finds out on its
/// worker thread only, where the error would belong to nobody.
pub(super) fn narrow(op: &'static str, operands: &[&Array]) -> Result<()> {
    if operands.iter().any(|a| a.dtype() == Dtype::Float64) {
        return Err(Error::Unsupported(format!(
            "{op}: float64 has no quantised form; cast to float32 first"
        )));
    }
    Ok(())
}

/// Whether a scale over a whole matrix is one float32 number.
pub(super) fn global(op: &'static str, scale: &Array) -> Result<()> {
    if scale.size() == 1 && scale.dtype() == Dtype::Float32 {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!(
            "a global scale is one float32 number, not {} {:?}",
            scale.dtype(),
            scale.shape()
        ),
    ))
}
