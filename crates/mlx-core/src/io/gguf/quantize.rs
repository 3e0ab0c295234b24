use half::{bf16, f16};

use super::types::GgmlType;
use crate::{Error, Result};

/// Encodes 32-bit floats as `F32`, `F16`, `BF16`, `Q8_0`, `Q4_0` or `Q4_1`.
///
/// The blocks are those that llama.cpp's reference quantisers make.
///
/// ```
/// use mlx_core::io::gguf::{GgmlType, dequantize, quantize};
///
/// let bytes = quantize(GgmlType::Q8_0, &[2.0; 32])?;
/// let mut values = [0.0; 32];
/// dequantize(GgmlType::Q8_0, &bytes, &mut values)?;
/// assert!(values.iter().all(|value| (value - 2.0).abs() < 0.01));
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Format`] if the values fill no whole number of blocks, and
/// [`Error::Unsupported`] for the other types.
pub fn quantize(ggml_type: GgmlType, values: &[f32]) -> Result<Vec<u8>> {
    let nbytes = ggml_type
        .bytes_for(values.len())
        .ok_or_else(|| Error::Format {
            what: format!("{ggml_type} data"),
            message: format!(
                "{} elements are no multiple of the block of {}",
                values.len(),
                ggml_type.block_len()
            ),
        })?;
    let mut bytes = vec![0; nbytes];
    match ggml_type {
        GgmlType::F32 => encode(values, &mut bytes, |[x], b| *b = x.to_le_bytes()),
        GgmlType::F16 => encode(values, &mut bytes, |[x], b| {
            *b = f16::from_f32(*x).to_le_bytes()
        }),
        GgmlType::BF16 => encode(values, &mut bytes, |[x], b| {
            *b = bf16::from_f32(*x).to_le_bytes()
        }),
        GgmlType::Q8_0 => encode(values, &mut bytes, q8_0),
        GgmlType::Q4_0 => encode(values, &mut bytes, q4_0),
        GgmlType::Q4_1 => encode(values, &mut bytes, q4_1),
        other => {
            return Err(Error::Unsupported(format!(
                "{other} tensors cannot be written, choose F32, F16, BF16, Q8_0, Q4_0 or Q4_1"
            )));
        }
    }
    Ok(bytes)
}

#[inline]
fn encode<const N: usize, const B: usize>(
    values: &[f32],
    bytes: &mut [u8],
    block: impl Fn(&[f32; N], &mut [u8; B]),
) {
    let values = values.as_chunks().0;
    for (values, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
        block(values, bytes);
    }
}

fn q8_0(values: &[f32; 32], block: &mut [u8; 34]) {
    let largest = values
        .iter()
        .fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = inverse(scale);
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    for (byte, &x) in block[2..].iter_mut().zip(values) {
        // `round` takes halves away from zero, as the reference does.
        *byte = saturate((x * inverse).round()).cast_unsigned();
    }
}

fn q4_0(values: &[f32; 32], block: &mut [u8; 18]) {
    // The value farthest from zero, with its sign, becomes code 0.
    let farthest = values.iter().fold(0.0_f32, |farthest, &x| {
        if x.abs() > farthest.abs() {
            x
        } else {
            farthest
        }
    });
    let scale = farthest / -8.0;
    let inverse = inverse(scale);
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    pack_nibbles(&mut block[2..], &values.map(|x| code(x * inverse + 8.5)));
}

fn q4_1(values: &[f32; 32], block: &mut [u8; 20]) {
    let smallest = values
        .iter()
        .fold(f32::INFINITY, |smallest, &x| smallest.min(x));
    let largest = values
        .iter()
        .fold(f32::NEG_INFINITY, |largest, &x| largest.max(x));
    let scale = (largest - smallest) / 15.0;
    let inverse = inverse(scale);
    block[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    block[2..4].copy_from_slice(&f16::from_f32(smallest).to_le_bytes());
    pack_nibbles(
        &mut block[4..],
        &values.map(|x| code((x - smallest) * inverse + 0.5)),
    );
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The low nibbles hold the first 16 codes, the high ones the rest.
fn pack_nibbles(bytes: &mut [u8], codes: &[u8; 32]) {
    let (low, high) = codes.split_at(16);
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = low | high << 4;
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is the rounding of the format, and the cast saturates"
)]
fn code(x: f32) -> u8 {
    (x as u8).min(15)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounded before, and the cast saturates"
)]
fn saturate(x: f32) -> i8 {
    x as i8
}
