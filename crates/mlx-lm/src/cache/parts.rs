//! How keys and values are stored, whatever the cache does with positions.

use std::any::Any;

use mlx_core::Array;
use mlx_core::ops::indexing::{put_along_axis, slice, slice_update, take, take_along_axis};
use mlx_core::ops::quantized::{self, QuantizationLayout, dequantize};
use mlx_core::ops::shape::{broadcast_to, concatenate};

use super::{Attend, CacheList, ChunkedKvCache, KvCache, LayerCache, RotatingCache};
use crate::{Error, Result};

/// Keys and values in fewer bits, once there are enough of them to matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct KvQuantization {
    /// Bits per number: 2, 3, 4, 5, 6 or 8.
    pub bits: i32,
    /// Numbers that share a scale and a bias: 32, 64 or 128. The width of a head
    /// must be a multiple of it.
    pub group_size: i32,
    /// Positions that stay in full precision; when there are more, all are
    /// quantised.
    pub start: i32,
}

impl KvQuantization {
    /// Groups of 64 numbers, from the first position on.
    pub const fn new(bits: i32) -> Self {
        Self {
            bits,
            group_size: 64,
            start: 0,
        }
    }

    /// Sets [`group_size`](Self::group_size).
    pub const fn group_size(mut self, size: i32) -> Self {
        self.group_size = size;
        self
    }

    /// Sets [`start`](Self::start).
    pub const fn start(mut self, positions: i32) -> Self {
        self.start = positions;
        self
    }

    /// Checks the values against what MLX can pack.
    ///
    /// # Errors
    /// [`Error::Option`] naming the value.
    pub fn validate(&self) -> Result<()> {
        let refuse = |option, message: String| Err(Error::Option { option, message });
        if ![2, 3, 4, 5, 6, 8].contains(&self.bits) {
            return refuse(
                "kv_bits",
                format!("must be 2, 3, 4, 5, 6 or 8, not {}", self.bits),
            );
        }
        if ![32, 64, 128].contains(&self.group_size) {
            let message = format!("must be 32, 64 or 128, not {}", self.group_size);
            return refuse("kv_group_size", message);
        }
        Ok(())
    }

    fn layout(self) -> QuantizationLayout {
        QuantizationLayout::affine(self.group_size, self.bits)
    }
}

/// Packs keys and values of a cache from now on, what it holds included once it
/// grows past `format.start`. Layers without keys and values stay as they are.
///
/// # Errors
/// [`Error::Option`] if the format is none, or if a layer is packed in another
/// one already.
pub fn quantize(cache: &mut [Box<dyn LayerCache>], format: KvQuantization) -> Result<()> {
    format.validate()?;
    cache
        .iter_mut()
        .try_for_each(|layer| quantize_layer(layer.as_mut(), format))
}

fn quantize_layer(layer: &mut dyn LayerCache, format: KvQuantization) -> Result<()> {
    let any: &mut dyn Any = layer;
    if any.is::<CacheList>() {
        let mut parts = any
            .downcast_mut::<CacheList>()
            .map(CacheList::parts_mut)
            .into_iter()
            .flatten();
        return parts.try_for_each(|part| quantize_layer(part.as_mut(), format));
    }
    let place = if any.is::<KvCache>() {
        any.downcast_mut::<KvCache>()
            .map(|cache| &mut cache.quantization)
    } else if any.is::<ChunkedKvCache>() {
        any.downcast_mut::<ChunkedKvCache>()
            .map(|cache| &mut cache.kept.quantization)
    } else {
        any.downcast_mut::<RotatingCache>()
            .map(|cache| &mut cache.quantization)
    };
    match place {
        Some(place @ None) => *place = Some(format),
        Some(Some(own)) if (own.bits, own.group_size) != (format.bits, format.group_size) => {
            return Err(Error::Option {
                option: "kv_bits",
                message: format!(
                    "the cache is packed in {} bits and groups of {} already",
                    own.bits, own.group_size
                ),
            });
        }
        _ => {}
    }
    Ok(())
}

/// Keys and values of some positions: arrays `[B, H, S, ..]` that are always
/// cut, joined and moved alike, two if dense, six if quantised.
#[derive(Debug, Clone)]
pub(super) struct Parts {
    pub(super) arrays: Vec<Array>,
    pub(super) quantized: Option<KvQuantization>,
}

impl Parts {
    pub(super) fn dense(keys: &Array, values: &Array) -> Self {
        Self {
            arrays: vec![keys.clone(), values.clone()],
            quantized: None,
        }
    }

    /// Keys and values in the format asked for.
    pub(super) fn encode(
        keys: &Array,
        values: &Array,
        format: Option<KvQuantization>,
    ) -> Result<Self> {
        let Some(quantization) = format else {
            return Ok(Self::dense(keys, values));
        };
        let mut arrays = Vec::with_capacity(6);
        for array in [keys, values] {
            let width = array.dim(-1)?;
            if width % quantization.group_size != 0 {
                let size = quantization.group_size;
                return Err(Error::Option {
                    option: "kv_group_size",
                    message: format!("{size} does not divide the heads' width of {width}"),
                });
            }
            let packed = quantized::quantize(array, quantization.layout())?;
            arrays.extend([packed.weight, packed.scales]);
            arrays.extend(packed.biases);
        }
        Ok(Self {
            arrays,
            quantized: Some(quantization),
        })
    }

    /// The same positions in another format.
    pub(super) fn converted(&self, format: Option<KvQuantization>) -> Result<Self> {
        if self.quantized == format {
            return Ok(self.clone());
        }
        let (keys, values) = self.decode()?;
        Self::encode(&keys, &values, format)
    }

    /// Keys and values as numbers.
    pub(super) fn decode(&self) -> Result<(Array, Array)> {
        match (self.quantized, self.arrays.as_slice()) {
            (None, [keys, values]) => Ok((keys.clone(), values.clone())),
            (Some(format), [keys, ks, kb, values, vs, vb]) => {
                let decode = |codes, scales, biases| {
                    dequantize(codes, scales, Some(biases), format.layout(), None)
                };
                Ok((decode(keys, ks, kb)?, decode(values, vs, vb)?))
            }
            _ => Err(super::foreign("two or six arrays", self.arrays.len())),
        }
    }

    /// Attends to all positions.
    pub(super) fn attend(&self, queries: &Array, attend: Attend<'_>) -> Result<Array> {
        match (self.quantized, self.arrays.as_slice()) {
            (None, [keys, values]) => attend.compute(queries, keys, values),
            (Some(format), [keys, ks, kb, values, vs, vb]) => {
                attend.quantized(queries, [keys, ks, kb], [values, vs, vb], format.layout())
            }
            _ => Err(super::foreign("two or six arrays", self.arrays.len())),
        }
    }

    /// Positions, slack included.
    pub(super) fn len(&self) -> Result<i32> {
        self.arrays.first().map_or(Ok(0), |array| Ok(array.dim(2)?))
    }

    /// Sequences.
    pub(super) fn rows(&self) -> Result<i32> {
        self.arrays.first().map_or(Ok(0), |array| Ok(array.dim(0)?))
    }

    pub(super) fn map(&self, f: impl FnMut(&Array) -> Result<Array>) -> Result<Self> {
        Ok(Self {
            arrays: self.arrays.iter().map(f).collect::<Result<_>>()?,
            quantized: self.quantized,
        })
    }

    /// Positions `start..stop`.
    pub(super) fn span(&self, start: i32, stop: i32) -> Result<Self> {
        if start == 0 && stop == self.len()? {
            return Ok(self.clone());
        }
        self.map(|array| {
            let (batch, heads, width) = (array.dim(0)?, array.dim(1)?, array.dim(3)?);
            Ok(slice(
                array,
                &[0, 0, start, 0],
                &[batch, heads, stop, width],
            )?)
        })
    }

    pub(super) fn head(&self, length: i32) -> Result<Self> {
        self.span(0, length)
    }

    /// The pieces one after the other, along positions (axis 2) or sequences
    /// (axis 0); all must be of one format.
    pub(super) fn concat(pieces: &[&Self], axis: i32) -> Result<Self> {
        let Some(first) = pieces.first() else {
            return Err(super::foreign("keys and values", "none"));
        };
        let mut arrays = Vec::with_capacity(first.arrays.len());
        for index in 0..first.arrays.len() {
            let column: Vec<&Array> = pieces
                .iter()
                .filter_map(|piece| piece.arrays.get(index))
                .collect();
            arrays.push(concatenate(&column, axis)?);
        }
        Ok(Self {
            arrays,
            quantized: first.quantized,
        })
    }

    /// Empty positions, in shape and format like these.
    pub(super) fn blank(&self, rows: i32, length: i32) -> Result<Self> {
        self.map(|array| {
            let shape = [rows, array.dim(1)?, length, array.dim(3)?];
            Ok(Array::zeros_dtype(&shape, array.dtype())?)
        })
    }

    /// With slack behind until there are `length` positions.
    pub(super) fn padded(&self, length: i32) -> Result<Self> {
        let missing = length - self.len()?;
        if missing <= 0 {
            return Ok(self.clone());
        }
        Self::concat(&[self, &self.blank(self.rows()?, missing)?], 2)
    }

    fn zip(&self, other: &Self, f: impl Fn(&Array, &Array) -> Result<Array>) -> Result<Self> {
        let pairs = self.arrays.iter().zip(&other.arrays);
        Ok(Self {
            arrays: pairs.map(|(a, b)| f(a, b)).collect::<Result<_>>()?,
            quantized: self.quantized,
        })
    }

    /// With `update` written at position `start` of every sequence.
    pub(super) fn write(&self, update: &Self, start: i32) -> Result<Self> {
        self.zip(update, |array, update| {
            let stops = [
                array.dim(0)?,
                array.dim(1)?,
                start + update.dim(2)?,
                array.dim(3)?,
            ];
            Ok(slice_update(array, update, &[0, 0, start, 0], &stops)?)
        })
    }

    /// With `update` written at `columns`, `[B, 1, L, 1]`.
    pub(super) fn scatter(&self, update: &Self, columns: &Array) -> Result<Self> {
        self.zip(update, |array, update| {
            let columns = broadcast_to(columns, update.shape())?;
            Ok(put_along_axis(array, &columns, update, 2)?)
        })
    }

    /// The positions at `columns`, `[B, 1, S, 1]`, of each sequence.
    pub(super) fn gather(&self, columns: &Array) -> Result<Self> {
        let length = columns.dim(2)?;
        self.map(|array| {
            let shape = [array.dim(0)?, array.dim(1)?, length, array.dim(3)?];
            let columns = broadcast_to(columns, &shape)?;
            Ok(take_along_axis(array, &columns, 2)?)
        })
    }

    /// The sequences at `rows`.
    pub(super) fn take_rows(&self, rows: &[i32]) -> Result<Self> {
        let count = i32::try_from(rows.len()).unwrap_or(i32::MAX);
        let rows = Array::from_slice::<i32>(rows, &[count])?;
        self.map(|array| Ok(take(array, &rows, 0)?))
    }
}
