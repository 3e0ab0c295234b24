//! Bit layouts that dequantising and repacking share.

use half::f16;

/// The `N` bytes of a block that start at `start`, both known at compile time.
#[inline(always)]
pub(super) fn part<const N: usize>(block: &[u8], start: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&block[start..start + N]);
    part
}

/// The half-precision number at `start`.
#[inline(always)]
pub(super) fn half_at(block: &[u8], start: usize) -> f32 {
    f16::from_le_bytes(part(block, start)).to_f32()
}

/// The 32 codes of a group: low nibbles of the 16 bytes first, then high nibbles.
#[inline(always)]
pub(super) fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| (bytes[i % 16] >> (i / 16 * 4)) & 0xF)
}

/// The 32 five-bit codes whose fifth bits are the bits of `high`.
#[inline(always)]
pub(super) fn five_bits(low: &[u8; 16], high: u32) -> [u8; 32] {
    let mut codes = nibbles(low);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= u8::from((high >> i) & 1 == 1) << 4;
    }
    codes
}

/// The eight six-bit scales and minima of `Q4_K` and `Q5_K`.
///
/// The first four sit in the low six bits of bytes 0–3 and 4–7. The last four
/// have their low nibbles in bytes 8–11 and their top two bits above the first four.
#[inline(always)]
pub(super) fn scales_and_minima(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let mut scales = [0; 8];
    let mut minima = [0; 8];
    for i in 0..4 {
        scales[i] = packed[i] & 0x3F;
        minima[i] = packed[4 + i] & 0x3F;
        scales[4 + i] = (packed[8 + i] & 0xF) | ((packed[i] >> 2) & 0x30);
        minima[4 + i] = (packed[8 + i] >> 4) | ((packed[4 + i] >> 2) & 0x30);
    }
    (scales, minima)
}

/// The 256 codes of a `Q4_K` block.
#[inline(always)]
pub(super) fn q4_k_codes(bytes: &[u8; 128]) -> [u8; 256] {
    std::array::from_fn(|i| (bytes[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4)) & 0xF)
}

/// The 256 codes of a `Q5_K` block.
#[inline(always)]
pub(super) fn q5_k_codes(high: &[u8; 32], low: &[u8; 128]) -> [u8; 256] {
    let mut codes = q4_k_codes(low);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((high[i % 32] >> (i / 32)) & 1) << 4;
    }
    codes
}

/// 256 two-bit codes: in each half of the bytes, the lowest bit pairs first.
#[inline(always)]
pub(super) fn bit_pairs(bytes: &[u8; 64]) -> [u8; 256] {
    std::array::from_fn(|i| (bytes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2)) & 3)
}

/// The 256 ternary digits (0, 1, 2) of a `TQ1_0` block, five to a byte.
///
/// A byte holds its digits as a fraction of 256 in base three: multiplying by a
/// power of three shifts digits out at the top, and the next one is the integer
/// part after another multiplication.
#[inline(always)]
pub(super) fn ternary_digits(block: &[u8; 54]) -> [u8; 256] {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    std::array::from_fn(|i| {
        let (byte, digit) = match i {
            0..160 => (i % 32, i / 32),
            160..240 => (32 + i % 16, (i - 160) / 16),
            _ => (48 + i % 4, (i - 240) / 4),
        };
        let fraction = block[byte].wrapping_mul(POWERS[digit]);
        u8::from(fraction >= 86) + u8::from(fraction >= 171)
    })
}

/// The eight scales of an `IQ4_XS` block.
#[inline(always)]
pub(super) fn iq4_xs_scales(block: &[u8; 136]) -> [f32; 8] {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes(part(block, 2));
    std::array::from_fn(|group| {
        let low = (block[4 + group / 2] >> (group % 2 * 4)) & 0xF;
        let high = (high >> (2 * group)) & 3;
        d * (f32::from(low) + 16.0 * f32::from(high) - 32.0)
    })
}

/// The values that the codes of `IQ4_NL` and `IQ4_XS` stand for.
pub(super) const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];
