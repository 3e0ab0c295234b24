use half::f16;
use half::slice::HalfFloatSliceExt;

use super::types::GgmlType;
use super::unpack::{
    IQ4_VALUES, bit_pairs, five_bits, half_at, iq4_xs_scales, nibbles, part, q5_k_codes,
    scales_and_minima, ternary_digits,
};
use crate::ops::quantized::QuantizationMode;

/// A tensor in one of MLX's quantised formats, equal to the original value for value.
///
/// | stored as | format | group size |
/// |---|---|---|
/// | `Q4_0`, `Q4_1`, `Q4_K` | affine, 4 bits | 32 |
/// | `Q5_0`, `Q5_1`, `Q5_K` | affine, 5 bits | 32 |
/// | `Q8_0`, `Q8_1`, `IQ4_NL`, `IQ4_XS` | affine, 8 bits | 32 |
/// | `TQ1_0`, `TQ2_0` | affine, 2 bits | 128 |
/// | `MXFP4` | mxfp4, 4 bits | 32 |
/// | `NVFP4` | nvfp4, 4 bits | 16 |
///
/// The other types have smaller groups than MLX knows (`Q2_K`, `Q3_K`, `Q6_K`)
/// or no scales at all. Affine values are `scale · code + bias`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Repacked {
    /// Codes packed into words, the first one in the lowest bits: `[.., K · bits / 32]`.
    pub weight: Vec<u32>,
    /// One scale per group: `[.., K / group_size]`.
    pub scales: Scales,
    /// One bias per group, of the same type as the scales; affine format only.
    pub biases: Option<Scales>,
    /// How the codes are to be read.
    pub mode: QuantizationMode,
    /// Bits of one code.
    pub bits: usize,
    /// Elements that share a scale.
    pub group_size: usize,
    /// The shape of the dense tensor, `[.., K]`.
    pub shape: Vec<usize>,
}

impl Repacked {
    /// The shape of `weight`.
    #[must_use]
    pub fn weight_shape(&self) -> Vec<usize> {
        self.with_last(|columns| columns / 32 * self.bits)
    }

    /// The shape of `scales` and `biases`.
    #[must_use]
    pub fn scales_shape(&self) -> Vec<usize> {
        self.with_last(|columns| columns / self.group_size)
    }

    fn with_last(&self, f: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = f(*last);
        }
        shape
    }
}

/// The scales or biases of a [`Repacked`] tensor.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Scales {
    /// Half-precision numbers.
    F16(Vec<f16>),
    /// Single-precision numbers.
    F32(Vec<f32>),
    /// Eight-bit exponents (`mxfp4`) or floats (`nvfp4`).
    U8(Vec<u8>),
}

/// The precision that affine scales and biases are wanted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ScaleFormat {
    /// Half precision where it holds every scale and bias of the tensor exactly,
    /// single precision otherwise.
    F16,
    /// Single precision, which is always exact.
    #[default]
    F32,
}

/// Repacks whole rows of `shape`, or returns `None` where no format of MLX is exact.
pub(super) fn repack(
    ggml_type: GgmlType,
    shape: &[usize],
    bytes: &[u8],
    scales: ScaleFormat,
) -> Option<Repacked> {
    // MLX quantises matrices only.
    if shape.len() < 2 {
        return None;
    }
    let tensor = Source {
        shape,
        bytes,
        scales,
    };
    match ggml_type {
        GgmlType::Q4_0 => tensor.affine(4, 32, |block: &[u8; 18], words, [scale], [bias]| {
            *words = pack_nibbles(&part(block, 2));
            *scale = half_at(block, 0);
            *bias = -8.0 * *scale;
        }),
        GgmlType::Q4_1 => tensor.affine(4, 32, |block: &[u8; 20], words, [scale], [bias]| {
            *words = pack_nibbles(&part(block, 4));
            *scale = half_at(block, 0);
            *bias = half_at(block, 2);
        }),
        GgmlType::Q5_0 => tensor.affine(5, 32, |block: &[u8; 22], words, [scale], [bias]| {
            let high = u32::from_le_bytes(part(block, 2));
            *words = pack::<5>(&five_bits(&part(block, 6), high));
            *scale = half_at(block, 0);
            *bias = -16.0 * *scale;
        }),
        GgmlType::Q5_1 => tensor.affine(5, 32, |block: &[u8; 24], words, [scale], [bias]| {
            let high = u32::from_le_bytes(part(block, 4));
            *words = pack::<5>(&five_bits(&part(block, 8), high));
            *scale = half_at(block, 0);
            *bias = half_at(block, 2);
        }),
        GgmlType::Q8_0 => tensor.affine(8, 32, |block: &[u8; 34], words, [scale], [bias]| {
            *words = pack_signed(&part(block, 2));
            *scale = half_at(block, 0);
            *bias = -128.0 * *scale;
        }),
        GgmlType::Q8_1 => tensor.affine(8, 32, |block: &[u8; 36], words, [scale], [bias]| {
            *words = pack_signed(&part(block, 4));
            *scale = half_at(block, 0);
            *bias = -128.0 * *scale;
        }),
        GgmlType::Q4_K => tensor.affine(4, 32, |block: &[u8; 144], words, scales, biases| {
            q4_k(block, words);
            k_scales(block, scales, biases);
        }),
        GgmlType::Q5_K => tensor.affine(
            5,
            32,
            |block: &[u8; 176], words: &mut [u32; 40], scales, biases| {
                let codes = q5_k_codes(&part(block, 16), &part(block, 48));
                pack_groups::<5>(&codes, words);
                k_scales(block, scales, biases);
            },
        ),
        GgmlType::IQ4_NL => tensor.affine(8, 32, |block: &[u8; 18], words, [scale], [bias]| {
            *words = pack_looked_up(&part(block, 2));
            *scale = half_at(block, 0);
            *bias = -128.0 * *scale;
        }),
        GgmlType::IQ4_XS => tensor.affine(
            8,
            32,
            |block: &[u8; 136], words: &mut [u32; 64], scales, biases| {
                *scales = iq4_xs_scales(block);
                *biases = scales.map(|scale| -128.0 * scale);
                for (group, words) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    *words = pack_looked_up(&part(block, 8 + 16 * group));
                }
            },
        ),
        GgmlType::TQ1_0 => tensor.affine(
            2,
            128,
            |block: &[u8; 54], words: &mut [u32; 16], scales, biases| {
                pack_groups::<2>(&ternary_digits(block), words);
                *scales = [half_at(block, 52); 2];
                *biases = scales.map(|scale| -scale);
            },
        ),
        GgmlType::TQ2_0 => tensor.affine(
            2,
            128,
            |block: &[u8; 66], words: &mut [u32; 16], scales, biases| {
                pack_groups::<2>(&bit_pairs(&part(block, 0)), words);
                *scales = [half_at(block, 64); 2];
                *biases = scales.map(|scale| -scale);
            },
        ),
        GgmlType::MXFP4 => tensor.float(
            QuantizationMode::Mxfp4,
            32,
            |block: &[u8; 17], words, [scale]| {
                *words = pack_nibbles(&part(block, 1));
                *scale = block[0];
                // The largest exponent stands for not-a-number in MLX.
                *scale < 0xFF
            },
        ),
        GgmlType::NVFP4 => tensor.float(
            QuantizationMode::Nvfp4,
            16,
            |block: &[u8; 36], words: &mut [u32; 8], scales: &mut [u8; 4]| {
                for (group, words) in words.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let bytes = u64::from_le_bytes(part(block, 4 + 8 * group));
                    *words = [low_nibbles(bytes), low_nibbles(bytes >> 4)];
                }
                *scales = part(block, 0);
                // The sign bit and not-a-number mean something else in MLX.
                scales.iter().all(|&scale| scale < 0x7F)
            },
        ),
        _ => None,
    }
}

struct Source<'a> {
    shape: &'a [usize],
    bytes: &'a [u8],
    scales: ScaleFormat,
}

impl Source<'_> {
    /// Blocks of `B` bytes that become `W` words and `G` groups of an affine format.
    fn affine<const B: usize, const W: usize, const G: usize>(
        &self,
        bits: usize,
        group_size: usize,
        block: impl Fn(&[u8; B], &mut [u32; W], &mut [f32; G], &mut [f32; G]),
    ) -> Option<Repacked> {
        let blocks = self.bytes.as_chunks::<B>().0;
        let mut weight = vec![0; blocks.len() * W];
        let mut scales = vec![0.0; blocks.len() * G];
        let mut biases = vec![0.0; blocks.len() * G];
        let groups = scales.as_chunks_mut().0.iter_mut();
        let groups = groups.zip(biases.as_chunks_mut().0);
        let words = weight.as_chunks_mut().0;
        for ((bytes, words), (scales, biases)) in blocks.iter().zip(words).zip(groups) {
            block(bytes, words, scales, biases);
        }
        // With an infinite scale, `scale · code + bias` is not-a-number throughout.
        if !scales
            .iter()
            .chain(&biases)
            .all(|number| number.is_finite())
        {
            return None;
        }
        let halves = match self.scales {
            ScaleFormat::F16 => narrow(&scales).zip(narrow(&biases)),
            ScaleFormat::F32 => None,
        };
        let (scales, biases) = match halves {
            Some((scales, biases)) => (Scales::F16(scales), Scales::F16(biases)),
            None => (Scales::F32(scales), Scales::F32(biases)),
        };
        Some(Repacked {
            weight,
            scales,
            biases: Some(biases),
            mode: QuantizationMode::Affine,
            bits,
            group_size,
            shape: self.shape.to_vec(),
        })
    }

    /// Blocks of `B` bytes that become `W` words and `G` groups of four-bit
    /// floats; `block` says whether MLX reads its scales in the same way.
    fn float<const B: usize, const W: usize, const G: usize>(
        &self,
        mode: QuantizationMode,
        group_size: usize,
        block: impl Fn(&[u8; B], &mut [u32; W], &mut [u8; G]) -> bool,
    ) -> Option<Repacked> {
        let blocks = self.bytes.as_chunks::<B>().0;
        let mut weight = vec![0; blocks.len() * W];
        let mut scales = vec![0; blocks.len() * G];
        let words = weight.as_chunks_mut().0;
        let groups = scales.as_chunks_mut().0;
        for ((bytes, words), scales) in blocks.iter().zip(words).zip(groups) {
            if !block(bytes, words, scales) {
                return None;
            }
        }
        Some(Repacked {
            weight,
            scales: Scales::U8(scales),
            biases: None,
            mode,
            bits: 4,
            group_size,
            shape: self.shape.to_vec(),
        })
    }
}

/// Half-precision copies, if they are all exact.
fn narrow(numbers: &[f32]) -> Option<Vec<f16>> {
    const RUN: usize = 256;
    let mut halves = vec![f16::ZERO; numbers.len()];
    let mut widened = [0.0; RUN];
    for (numbers, halves) in numbers.chunks(RUN).zip(halves.chunks_mut(RUN)) {
        halves.convert_from_f32_slice(numbers);
        let widened = &mut widened[..numbers.len()];
        halves.convert_to_f32_slice(widened);
        if widened != numbers {
            return None;
        }
    }
    Some(halves)
}

fn q4_k(block: &[u8; 144], words: &mut [u32; 32]) {
    // 64 elements in 32 bytes: low nibbles first, then high nibbles.
    for (run, words) in words.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for i in 0..4 {
            let bytes = u64::from_le_bytes(part(block, 16 + 32 * run + 8 * i));
            words[i] = low_nibbles(bytes);
            words[4 + i] = low_nibbles(bytes >> 4);
        }
    }
}

/// The scales and biases of `Q4_K` and `Q5_K`.
#[inline(always)]
fn k_scales(block: &[u8], scales: &mut [f32; 8], biases: &mut [f32; 8]) {
    let d = half_at(block, 0);
    let dmin = half_at(block, 2);
    let (codes, minima) = scales_and_minima(&part(block, 4));
    *scales = codes.map(|code| d * f32::from(code));
    *biases = minima.map(|minimum| -(dmin * f32::from(minimum)));
}

/// 32 four-bit codes, low nibbles of the bytes first, in order.
#[inline(always)]
fn pack_nibbles(bytes: &[u8; 16]) -> [u32; 4] {
    let first = u64::from_le_bytes(part(bytes, 0));
    let second = u64::from_le_bytes(part(bytes, 8));
    [first, second, first >> 4, second >> 4].map(low_nibbles)
}

/// The low nibbles of eight bytes, side by side.
#[inline(always)]
fn low_nibbles(bytes: u64) -> u32 {
    let nibbles = bytes & 0x0F0F_0F0F_0F0F_0F0F;
    let bytes = (nibbles | nibbles >> 4) & 0x00FF_00FF_00FF_00FF;
    let halves = (bytes | bytes >> 8) & 0x0000_FFFF_0000_FFFF;
    ((halves | halves >> 16) & 0xFFFF_FFFF) as u32
}

/// 32 signed bytes, moved to the unsigned range by adding 128.
#[inline(always)]
fn pack_signed(bytes: &[u8; 32]) -> [u32; 8] {
    std::array::from_fn(|i| u32::from_le_bytes(part(bytes, 4 * i)) ^ 0x8080_8080)
}

/// 32 codes of `IQ4_NL`, as the values they stand for plus 128.
#[inline(always)]
fn pack_looked_up(bytes: &[u8; 16]) -> [u32; 8] {
    let codes = nibbles(bytes);
    let values = codes.map(|code| IQ4_VALUES[usize::from(code)].cast_unsigned());
    pack_signed(&values)
}

/// Groups of 32 codes of `BITS` bits each.
#[inline(always)]
fn pack_groups<const BITS: usize>(codes: &[u8; 256], words: &mut [u32]) {
    let groups = codes.as_chunks::<32>().0;
    for (codes, words) in groups.iter().zip(words.as_chunks_mut().0) {
        *words = pack::<BITS>(codes);
    }
}

/// 32 codes of `BITS` bits, the first one in the lowest bits.
#[inline(always)]
fn pack<const BITS: usize>(codes: &[u8; 32]) -> [u32; BITS] {
    let mut words = [0; BITS];
    let mut pending = 0_u64;
    let mut pending_bits = 0;
    let mut filled = words.iter_mut();
    for &code in codes {
        pending |= u64::from(code) << pending_bits;
        pending_bits += BITS;
        if pending_bits >= 32 {
            if let Some(word) = filled.next() {
                *word = (pending & 0xFFFF_FFFF) as u32;
            }
            pending >>= 32;
            pending_bits -= 32;
        }
    }
    words
}
