//! Small integers within 32-bit words.

use mlx_core::ops::arithmetic::multiply;
use mlx_core::ops::logical::{bitwise_and, left_shift, right_shift};
use mlx_core::ops::misc::view;
use mlx_core::ops::reduction::sum_axes;
use mlx_core::ops::shape::{contiguous, expand_dims, repeat_axis, reshape, swapaxes};
use mlx_core::{Array, Dtype};
use mlx_nn::Weights;

use crate::{Error, Result};

/// The words of an array whose dtype may be signed.
pub(super) fn words(array: &Array) -> Result<Array> {
    match array.dtype() {
        Dtype::Uint32 => Ok(array.clone()),
        Dtype::Int32 | Dtype::Uint8 | Dtype::Int8 => {
            Ok(view(&contiguous(array, false)?, Dtype::Uint32)?)
        }
        other => Err(Error::weights(format!(
            "packed weights are {other}, not integers"
        ))),
    }
}

/// The integers in words `[.., N]`: `[.., N · 32 / bits]`; `order` gives the place of each within its
/// word.
pub(super) fn unpack(words: &Array, bits: i32, order: &[i32]) -> Result<Array> {
    let shifts: Vec<u32> = order
        .iter()
        .map(|&place| u32::try_from(place * bits).unwrap_or(0))
        .collect();
    let shifts = Array::from_slice::<u32>(&shifts, &[shifts.len()])?;
    let mask = Array::scalar::<u32>((1_u32 << bits) - 1)?;
    let values = bitwise_and(&right_shift(&expand_dims(words, &[-1])?, &shifts)?, &mask)?;
    let mut shape = words.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = -1;
    }
    Ok(reshape(&values, &shape)?)
}

/// The places of a word in their order.
pub(super) fn sequential(bits: i32) -> Vec<i32> {
    (0..32 / bits).collect()
}

/// Integers `[.., N]` as words `[.., N · bits / 32]`, the first in the lowest bits.
pub(super) fn pack(values: &Array, bits: i32) -> Result<Array> {
    let places = 32 / bits;
    let columns = values.dim(-1)?;
    if columns % places != 0 {
        return Err(Error::weights(format!(
            "{columns} columns of {bits} bits do not fill whole words"
        )));
    }
    let mut shape = values.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = -1;
    }
    shape.push(places);
    let shifts: Vec<u32> = (0..places)
        .map(|place| u32::try_from(place * bits).unwrap_or(0))
        .collect();
    let shifts = Array::from_slice::<u32>(&shifts, &[shifts.len()])?;
    let parts = left_shift(&reshape(&values.astype(Dtype::Uint32)?, &shape)?, &shifts)?;
    Ok(sum_axes(&parts, &[-1], false)?.astype(Dtype::Uint32)?)
}

/// Integers with a scale and a zero point for each group of columns.
pub(super) struct Grouped {
    /// Packed in order along the columns: `[out, in · bits / 32]`.
    pub(super) codes: Array,
    pub(super) bits: i32,
    /// `[out, groups]`
    pub(super) scales: Array,
    /// What is subtracted from each integer, `[out, groups]`.
    pub(super) zeros: Array,
    /// The group of each column, where they do not follow one another.
    pub(super) groups: Option<Array>,
}

impl Grouped {
    /// Adds the weight to the others: packed if one of MLX's group sizes fits, else dense.
    pub(super) fn insert(self, weights: &mut Weights, path: &str) -> Result<()> {
        let columns = self.codes.dim(-1)? * (32 / self.bits);
        let group_size = columns / self.scales.dim(-1)?.max(1);
        let dtype = self.scales.dtype();
        if self.groups.is_none() && matches!(group_size, 32 | 64 | 128) {
            // `(q - z) · s` is `q · s + (-z · s)`; the product is rounded once.
            let scales = self.scales.astype(Dtype::Float32)?;
            let biases = (-multiply(&self.zeros.astype(Dtype::Float32)?, &scales)?)?;
            weights.insert(format!("{path}.weight"), contiguous(&self.codes, false)?)?;
            weights.insert(format!("{path}.scales"), contiguous(&self.scales, false)?)?;
            weights.insert(format!("{path}.biases"), biases.astype(dtype)?)?;
            return Ok(());
        }
        let codes = unpack(&self.codes, self.bits, &sequential(self.bits))?;
        let by_column = |array: &Array| -> Result<Array> {
            match &self.groups {
                Some(groups) => Ok(mlx_core::ops::indexing::take(array, groups, 1)?),
                None => Ok(repeat_axis(array, group_size, -1)?),
            }
        };
        let zeros = by_column(&self.zeros.astype(Dtype::Float32)?)?;
        let scales = by_column(&self.scales.astype(Dtype::Float32)?)?;
        let dense = multiply(&(codes.astype(Dtype::Float32)? - zeros)?, &scales)?;
        Ok(weights.insert(format!("{path}.weight"), dense.astype(dtype)?)?)
    }
}

/// A matrix with its axes exchanged, stored anew.
pub(super) fn transposed(array: &Array) -> Result<Array> {
    Ok(contiguous(&swapaxes(array, 0, 1)?, false)?)
}
