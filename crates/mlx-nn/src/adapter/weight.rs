//! A weight with its adapter, at work.

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{sqrt, square},
        indexing::take,
        linalg_basic::{gather_mm, matmul},
        misc::stop_gradient,
        reduction::sum_axes,
        shape::{expand_dims, swapaxes, transpose},
    },
};

use super::{Adapter, AdapterKind, dropout::dropped};
use crate::{KeyPath, Module, Result, Visitor, VisitorMut, Weight, weight::QuantizedWeight};

/// A weight, and what training adds to it.
#[derive(Debug, Clone)]
pub struct AdaptedWeight {
    pub(crate) base: Weight,
    pub(crate) adapter: Adapter,
    pub(crate) kind: AdapterKind,
}

impl AdaptedWeight {
    /// The weight without the adapter.
    #[must_use]
    pub const fn base(&self) -> &Weight {
        &self.base
    }

    /// What is added to it.
    #[must_use]
    pub const fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    pub(crate) fn apply(
        &self,
        layer: &'static str,
        x: &Array,
        bias: Option<&Array>,
    ) -> Result<Array> {
        let Adapter { lora_a, lora_b, .. } = &self.adapter;
        let y = self.base.apply(layer, x, None)?;
        let kept = dropped(x, self.adapter.dropout)?;
        let low = match self.kind {
            AdapterKind::Embedding => {
                matmul(&matmul(&kept, &transpose(lora_b)?)?, &transpose(lora_a)?)?
            }
            AdapterKind::Linear | AdapterKind::Experts => matmul(&matmul(&kept, lora_a)?, lora_b)?,
        };
        let mut y = self.add(&y, &low)?;
        if let Some(magnitude) = &self.adapter.magnitude {
            let ratio = (magnitude / self.lengths(layer)?)?;
            y = (y * ratio.astype(x.dtype())?)?;
        }
        match bias {
            Some(bias) => Ok((y + bias)?),
            None => Ok(y),
        }
    }

    pub(crate) fn apply_experts(
        &self,
        layer: &'static str,
        x: &Array,
        indices: &Array,
        sorted: bool,
    ) -> Result<Array> {
        let y = self.base.apply_experts(layer, x, indices, sorted)?;
        let pick = |x: &Array, stack: &Array| -> Result<Array> {
            let stack = swapaxes(stack, -1, -2)?;
            Ok(gather_mm(x, &stack, None, Some(indices), sorted)?)
        };
        let kept = dropped(x, self.adapter.dropout)?;
        let low = pick(&pick(&kept, &self.adapter.lora_a)?, &self.adapter.lora_b)?;
        self.add(&y, &low)
    }

    pub(crate) fn rows(&self, layer: &'static str, ids: &Array) -> Result<Array> {
        let Adapter {
            lora_a,
            lora_b,
            magnitude,
            ..
        } = &self.adapter;
        let rows = self.base.rows(layer, ids)?;
        let low = match self.kind {
            AdapterKind::Embedding => matmul(&take(lora_a, ids, 0)?, lora_b)?,
            // The columns of A B are the rows of a linear layer's update.
            AdapterKind::Linear | AdapterKind::Experts => {
                matmul(&take(&transpose(lora_b)?, ids, 0)?, &transpose(lora_a)?)?
            }
        };
        let y = self.add(&rows, &dropped(&low, self.adapter.dropout)?)?;
        match magnitude {
            None => Ok(y),
            Some(magnitude) => {
                // The length of the adapted row itself, of which nothing is dropped.
                let whole = self.add(&rows, &low)?;
                let length = stop_gradient(&lengths(&whole.astype(Dtype::Float32)?)?)?;
                let ratio = (take(magnitude, ids, 0)? / length)?;
                Ok((expand_dims(&ratio, &[-1])?.astype(y.dtype())? * y)?)
            }
        }
    }

    /// The weight with the adapter in it, in the base's dtype.
    pub(crate) fn to_dense(&self, layer: &'static str) -> Result<Array> {
        let dense = self.base.to_dense(layer)?;
        let dtype = dense.dtype();
        let sum = self.add(&dense, &self.update()?)?;
        match &self.adapter.magnitude {
            None => Ok(sum),
            Some(magnitude) => {
                let ratio = (magnitude / lengths(&sum.astype(Dtype::Float32)?)?)?;
                Ok((expand_dims(&ratio, &[-1])? * sum)?.astype(dtype)?)
            }
        }
    }

    /// The weight with the adapter in it; quantised if the base is, unless `dequantize`.
    pub(crate) fn fuse(&self, dequantize: bool) -> Result<Weight> {
        let dense = self.to_dense("weight")?;
        Ok(match &self.base {
            Weight::Quantized(base) if !dequantize => {
                Weight::Quantized(QuantizedWeight::quantize(&dense, base.quantization)?)
            }
            _ => Weight::Dense(dense),
        })
    }

    /// The unscaled update in the shape of the weight.
    fn update(&self) -> Result<Array> {
        let Adapter { lora_a, lora_b, .. } = &self.adapter;
        Ok(match self.kind {
            AdapterKind::Linear => matmul(&transpose(lora_b)?, &transpose(lora_a)?)?,
            AdapterKind::Embedding => matmul(lora_a, lora_b)?,
            AdapterKind::Experts => matmul(lora_b, lora_a)?,
        })
    }

    /// `y + scale · low` in the dtype of `y`.
    fn add(&self, y: &Array, low: &Array) -> Result<Array> {
        Ok((y + (low * self.adapter.scale)?.astype(y.dtype())?)?)
    }

    /// The length of each row of the adapted weight, through which no gradient flows.
    fn lengths(&self, layer: &'static str) -> Result<Array> {
        let dense = self.base.to_dense(layer)?.astype(Dtype::Float32)?;
        let sum = (dense + (self.update()? * self.adapter.scale)?)?;
        Ok(stop_gradient(&lengths(&sum)?)?)
    }
}

/// The Euclidean length along the last axis.
pub(super) fn lengths(rows: &Array) -> Result<Array> {
    Ok(sqrt(&sum_axes(&square(rows)?, &[-1], false)?)?)
}

/// The base is a buffer: only the adapter is trained.
impl Module for AdaptedWeight {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        match &self.base {
            Weight::Dense(weight) => visitor.buffer(&path.child("weight"), weight),
            other => other.visit_parts(path, visitor),
        }
        visitor.parameter(&path.child("lora_a"), &self.adapter.lora_a);
        visitor.parameter(&path.child("lora_b"), &self.adapter.lora_b);
        if let Some(magnitude) = &self.adapter.magnitude {
            visitor.parameter(&path.child("m"), magnitude);
        }
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        match &mut self.base {
            Weight::Dense(weight) => visitor.buffer(&path.child("weight"), weight)?,
            other => other.visit_parts_mut(path, visitor)?,
        }
        visitor.parameter(&path.child("lora_a"), &mut self.adapter.lora_a)?;
        visitor.parameter(&path.child("lora_b"), &mut self.adapter.lora_b)?;
        match &mut self.adapter.magnitude {
            Some(magnitude) => visitor.parameter(&path.child("m"), magnitude),
            None => Ok(()),
        }
    }
}
