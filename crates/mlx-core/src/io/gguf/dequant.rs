use half::{bf16, f16};

use super::types::GgmlType;
use super::unpack::{
    IQ4_VALUES, bit_pairs, five_bits, half_at, iq4_xs_scales, nibbles, part, q4_k_codes,
    q5_k_codes, scales_and_minima, ternary_digits,
};
use crate::{Error, Result};

/// Decodes whole blocks of `ggml_type` into 32-bit floats.
///
/// Exact for every type except `F64`, `I32` and `I64`, which are rounded.
///
/// ```
/// use mlx_core::io::gguf::{GgmlType, dequantize};
///
/// let mut values = [0.0; 2];
/// dequantize(GgmlType::BF16, &[0x80, 0x3F, 0x00, 0xC0], &mut values)?;
/// assert_eq!(values, [1.0, -2.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Format`] if `bytes` is not the size of `values` in that type, and
/// [`Error::Unsupported`] for the types that need a codebook (`IQ1`, `IQ2`, `IQ3`) and for `Q1_0`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "documented: wide numbers are rounded"
)]
pub fn dequantize(ggml_type: GgmlType, bytes: &[u8], values: &mut [f32]) -> Result<()> {
    if ggml_type.bytes_for(values.len()) != Some(bytes.len()) {
        return Err(Error::Format {
            what: format!("{ggml_type} data"),
            message: format!("{} bytes for {} elements", bytes.len(), values.len()),
        });
    }
    match ggml_type {
        GgmlType::F32 => decode(bytes, values, |b, [y]| *y = f32::from_le_bytes(*b)),
        GgmlType::F16 => decode(bytes, values, |b, [y]| *y = f16::from_le_bytes(*b).to_f32()),
        GgmlType::BF16 => decode(bytes, values, |b, [y]| {
            *y = bf16::from_le_bytes(*b).to_f32()
        }),
        GgmlType::F64 => decode(bytes, values, |b, [y]| *y = f64::from_le_bytes(*b) as f32),
        GgmlType::I8 => decode(bytes, values, |b, [y]| *y = i8::from_le_bytes(*b).into()),
        GgmlType::I16 => decode(bytes, values, |b, [y]| *y = i16::from_le_bytes(*b).into()),
        GgmlType::I32 => decode(bytes, values, |b, [y]| *y = i32::from_le_bytes(*b) as f32),
        GgmlType::I64 => decode(bytes, values, |b, [y]| *y = i64::from_le_bytes(*b) as f32),
        GgmlType::Q4_0 => decode(bytes, values, q4_0),
        GgmlType::Q4_1 => decode(bytes, values, q4_1),
        GgmlType::Q5_0 => decode(bytes, values, q5_0),
        GgmlType::Q5_1 => decode(bytes, values, q5_1),
        GgmlType::Q8_0 => decode(bytes, values, q8_0),
        GgmlType::Q8_1 => decode(bytes, values, q8_1),
        GgmlType::Q2_K => decode(bytes, values, q2_k),
        GgmlType::Q3_K => decode(bytes, values, q3_k),
        GgmlType::Q4_K => decode(bytes, values, q4_k),
        GgmlType::Q5_K => decode(bytes, values, q5_k),
        GgmlType::Q6_K => decode(bytes, values, q6_k),
        GgmlType::Q8_K => decode(bytes, values, q8_k),
        GgmlType::IQ4_NL => decode(bytes, values, iq4_nl),
        GgmlType::IQ4_XS => decode(bytes, values, iq4_xs),
        GgmlType::TQ1_0 => decode(bytes, values, tq1_0),
        GgmlType::TQ2_0 => decode(bytes, values, tq2_0),
        GgmlType::MXFP4 => decode(bytes, values, mxfp4),
        GgmlType::NVFP4 => decode(bytes, values, nvfp4),
        GgmlType::IQ1_S
        | GgmlType::IQ1_M
        | GgmlType::IQ2_XXS
        | GgmlType::IQ2_XS
        | GgmlType::IQ2_S
        | GgmlType::IQ3_XXS
        | GgmlType::IQ3_S
        | GgmlType::Q1_0 => {
            return Err(Error::Unsupported(format!(
                "{ggml_type} tensors cannot be decoded, use a file with K-quants or Q4_0 to Q8_0"
            )));
        }
    }
    Ok(())
}

/// Applies `block` to each block; the lengths were checked before.
#[inline]
fn decode<const B: usize, const N: usize>(
    bytes: &[u8],
    values: &mut [f32],
    block: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let blocks = bytes.as_chunks().0;
    let values = values.as_chunks_mut().0;
    for (bytes, values) in blocks.iter().zip(values) {
        block(bytes, values);
    }
}

/// `scale · (code − offset)` for every code.
#[inline(always)]
fn symmetric<const N: usize>(values: &mut [f32; N], codes: &[u8; N], scale: f32, offset: f32) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = scale * (f32::from(code) - offset);
    }
}

/// `scale · code + bias` for every code.
#[inline(always)]
fn affine(values: &mut [f32], codes: &[u8], scale: f32, bias: f32) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = scale * f32::from(code) + bias;
    }
}

/// `scale · byte` for every byte, read as signed.
#[inline(always)]
fn signed(values: &mut [f32], bytes: &[u8], scale: f32) {
    for (value, &byte) in values.iter_mut().zip(bytes) {
        *value = scale * f32::from(byte.cast_signed());
    }
}

fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    symmetric(values, &nibbles(&part(block, 2)), half_at(block, 0), 8.0);
}

fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let codes = nibbles(&part(block, 4));
    affine(values, &codes, half_at(block, 0), half_at(block, 2));
}

fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let codes = five_bits(&part(block, 6), u32::from_le_bytes(part(block, 2)));
    symmetric(values, &codes, half_at(block, 0), 16.0);
}

fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let codes = five_bits(&part(block, 8), u32::from_le_bytes(part(block, 4)));
    affine(values, &codes, half_at(block, 0), half_at(block, 2));
}

fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    signed(values, &block[2..], half_at(block, 0));
}

fn q8_1(block: &[u8; 36], values: &mut [f32; 32]) {
    // Bytes 2 and 3 hold a sum that only dot products use.
    signed(values, &block[4..], half_at(block, 0));
}

fn q2_k(block: &[u8; 84], values: &mut [f32; 256]) {
    let d = half_at(block, 80);
    let dmin = half_at(block, 82);
    let codes = bit_pairs(&part(block, 16));
    let groups = values.as_chunks_mut::<16>().0;
    for ((values, codes), &scale) in groups.iter_mut().zip(codes.as_chunks::<16>().0).zip(block) {
        let minimum = dmin * f32::from(scale >> 4);
        affine(values, codes, d * f32::from(scale & 0xF), -minimum);
    }
}

fn q3_k(block: &[u8; 110], values: &mut [f32; 256]) {
    let high: [u8; 32] = part(block, 0);
    let mut codes = bit_pairs(&part(block, 32));
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((high[i % 32] >> (i / 32)) & 1) << 2;
    }
    let packed: [u8; 12] = part(block, 96);
    let d = half_at(block, 108);
    let groups = values.as_chunks_mut::<16>().0;
    for (group, (values, codes)) in groups.iter_mut().zip(codes.as_chunks::<16>().0).enumerate() {
        let low = (packed[group % 8] >> (group / 8 * 4)) & 0xF;
        let high = (packed[8 + group % 4] >> (group / 4 * 2)) & 3;
        let scale = d * (f32::from(low | high << 4) - 32.0);
        symmetric(values, codes, scale, 4.0);
    }
}

fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    k_groups(block, &q4_k_codes(&part(block, 16)), values);
}

fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let codes = q5_k_codes(&part(block, 16), &part(block, 48));
    k_groups(block, &codes, values);
}

/// Eight groups with the scales and minima at the start of `block`.
#[inline(always)]
fn k_groups(block: &[u8], codes: &[u8; 256], values: &mut [f32; 256]) {
    let d = half_at(block, 0);
    let dmin = half_at(block, 2);
    let (scales, minima) = scales_and_minima(&part(block, 4));
    let groups = values.as_chunks_mut::<32>().0;
    for (group, (values, codes)) in groups.iter_mut().zip(codes.as_chunks::<32>().0).enumerate() {
        let minimum = dmin * f32::from(minima[group]);
        affine(values, codes, d * f32::from(scales[group]), -minimum);
    }
}

fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let low: [u8; 128] = part(block, 0);
    let high = bit_pairs(&part(block, 128));
    let codes: [u8; 256] = std::array::from_fn(|i| {
        let low = (low[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4)) & 0xF;
        low | high[i] << 4
    });
    let d = half_at(block, 208);
    let groups = values.as_chunks_mut::<16>().0;
    for (group, (values, codes)) in groups.iter_mut().zip(codes.as_chunks::<16>().0).enumerate() {
        let scale = d * f32::from(block[192 + group].cast_signed());
        symmetric(values, codes, scale, 32.0);
    }
}

fn q8_k(block: &[u8; 292], values: &mut [f32; 256]) {
    signed(values, &block[4..260], f32::from_le_bytes(part(block, 0)));
}

fn iq4_nl(block: &[u8; 18], values: &mut [f32; 32]) {
    looked_up(values, &part(block, 2), half_at(block, 0), &IQ4_VALUES);
}

fn iq4_xs(block: &[u8; 136], values: &mut [f32; 256]) {
    let scales = iq4_xs_scales(block);
    let groups = values.as_chunks_mut::<32>().0;
    for (group, values) in groups.iter_mut().enumerate() {
        let codes = part(block, 8 + 16 * group);
        looked_up(values, &codes, scales[group], &IQ4_VALUES);
    }
}

fn tq1_0(block: &[u8; 54], values: &mut [f32; 256]) {
    symmetric(values, &ternary_digits(block), half_at(block, 52), 1.0);
}

fn tq2_0(block: &[u8; 66], values: &mut [f32; 256]) {
    symmetric(values, &bit_pairs(&part(block, 0)), half_at(block, 64), 1.0);
}

/// Twice the values of the four-bit floats, so that they are integers.
const FP4_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn mxfp4(block: &[u8; 17], values: &mut [f32; 32]) {
    // Half of two to the power of `exponent − 127`; the two smallest are subnormal.
    let exponent = u32::from(block[0]);
    let half_scale = f32::from_bits(match exponent {
        0..2 => 0x0020_0000 << exponent,
        _ => (exponent - 1) << 23,
    });
    looked_up(values, &part(block, 1), half_scale, &FP4_DOUBLED);
}

fn nvfp4(block: &[u8; 36], values: &mut [f32; 64]) {
    let groups = values.as_chunks_mut::<16>().0;
    for (group, values) in groups.iter_mut().enumerate() {
        let half_scale = 0.5 * unsigned_e4m3(block[group]);
        let bytes: [u8; 8] = part(block, 4 + 8 * group);
        for (i, value) in values.iter_mut().enumerate() {
            let code = (bytes[i % 8] >> (i / 8 * 4)) & 0xF;
            *value = half_scale * f32::from(FP4_DOUBLED[usize::from(code)]);
        }
    }
}

/// An eight-bit float without sign, whose not-a-number pattern stands for zero.
fn unsigned_e4m3(bits: u8) -> f32 {
    let exponent = i32::from((bits >> 3) & 0xF);
    let mantissa = f32::from(bits & 7);
    match (bits, exponent) {
        (0x7F, _) => 0.0,
        (_, 0) => mantissa / 512.0,
        _ => (8.0 + mantissa) / 8.0 * 2.0_f32.powi(exponent - 7),
    }
}

/// `scale · table[code]` for 32 codes.
#[inline(always)]
fn looked_up(values: &mut [f32; 32], bytes: &[u8; 16], scale: f32, table: &[i8; 16]) {
    for (value, code) in values.iter_mut().zip(nibbles(bytes)) {
        *value = scale * f32::from(table[usize::from(code)]);
    }
}
