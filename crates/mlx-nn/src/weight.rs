//! The weight of a layer, whatever form it is stored in.

use mlx_core::{
    Array, Dtype,
    ops::{
        indexing::take,
        linalg_basic::{addmm, gather_mm, matmul},
        quantized::{GatherIndices, dequantize, gather_qmm, quantize, quantized_matmul},
        shape::swapaxes,
    },
};

use crate::{
    Descend, Error, KeyPath, Module, Result, Visitor, VisitorMut,
    adapter::AdaptedWeight,
    module::quantize::{LayerQuantization, QuantMode},
};

/// A matrix `[.., out, in]` that maps `in` features to `out`, dense or quantised.
///
/// Layers hold a `Weight` so that a model is written once and serves every checkpoint. Its arrays
/// are keyed below the *layer's* path: `<path>.weight`, and for a quantised one also
/// `<path>.scales` and, in affine mode, `<path>.biases`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Weight {
    /// Nothing yet: only the shape that loading will check against.
    Unloaded {
        /// The logical shape, `[.., out, in]`.
        shape: Vec<i32>,
    },
    /// A floating-point array.
    Dense(Array),
    /// Packed codes with their scales.
    Quantized(QuantizedWeight),
    /// Either of them with a low-rank update.
    Adapted(Box<AdaptedWeight>),
}

/// A weight of which groups along the last axis share a scale.
#[derive(Debug, Clone)]
pub struct QuantizedWeight {
    /// The codes, packed into 32-bit words: `[.., out, in · bits / 32]`.
    pub codes: Array,
    /// One scale for each group: `[.., out, in / group_size]`.
    pub scales: Array,
    /// One offset for each group, in affine mode only.
    pub biases: Option<Array>,
    /// How the codes are to be read.
    pub quantization: LayerQuantization,
}

impl Weight {
    /// A weight that only knows its shape, for a model that is about to be loaded.
    #[must_use]
    pub fn placeholder(shape: &[i32]) -> Self {
        Self::Unloaded {
            shape: shape.to_vec(),
        }
    }

    /// The logical shape `[.., out, in]`, which quantisation does not change.
    #[must_use]
    pub fn shape(&self) -> Vec<i32> {
        match self {
            Self::Unloaded { shape } => shape.clone(),
            Self::Dense(array) => array.shape().to_vec(),
            Self::Quantized(weight) => weight.shape(),
            Self::Adapted(weight) => weight.base.shape(),
        }
    }

    /// Whether the weight is stored quantised.
    #[must_use]
    pub const fn is_quantized(&self) -> bool {
        match self {
            Self::Quantized(_) => true,
            Self::Adapted(weight) => weight.base.is_quantized(),
            Self::Unloaded { .. } | Self::Dense(_) => false,
        }
    }

    /// The dtype of what the weight stands for: that of the array, or of the scales.
    ///
    /// `None` for a weight that is not loaded, and for the modes whose scales say nothing about
    /// it (mxfp4, mxfp8, nvfp4).
    #[must_use]
    pub fn dtype(&self) -> Option<Dtype> {
        match self {
            Self::Dense(array) => Some(array.dtype()),
            Self::Quantized(weight) if weight.quantization.mode == QuantMode::Affine => {
                Some(weight.scales.dtype())
            }
            Self::Adapted(weight) => weight.base.dtype(),
            Self::Unloaded { .. } | Self::Quantized(_) => None,
        }
    }

    /// Computes `x Wᵀ + bias`: `[.., in] → [.., out]`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`], or [`Error::Core`] if the shapes do not fit.
    pub fn apply(&self, layer: &'static str, x: &Array, bias: Option<&Array>) -> Result<Array> {
        match (self, bias) {
            (Self::Unloaded { shape }, _) => Err(Error::NotLoaded {
                layer,
                shape: shape.clone(),
            }),
            (Self::Adapted(weight), bias) => weight.apply(layer, x, bias),
            (Self::Dense(weight), Some(bias)) => {
                Ok(addmm(bias, x, &swapaxes(weight, -1, -2)?, 1.0, 1.0)?)
            }
            (Self::Dense(weight), None) => Ok(matmul(x, &swapaxes(weight, -1, -2)?)?),
            (Self::Quantized(weight), bias) => {
                let y = weight.matmul(x)?;
                match bias {
                    Some(bias) => Ok((&y + bias)?),
                    None => Ok(y),
                }
            }
        }
    }

    /// Computes `x W[e]ᵀ` with the matrix that `indices` names: `x [.., M, in]` and
    /// `indices [..] → [.., M, out]`. `sorted` promises that the flattened indices ascend.
    ///
    /// # Errors
    /// [`Error::NotLoaded`], or [`Error::Core`] if the shapes do not fit or an index is outside.
    pub fn apply_experts(
        &self,
        layer: &'static str,
        x: &Array,
        indices: &Array,
        sorted: bool,
    ) -> Result<Array> {
        match self {
            Self::Unloaded { shape } => Err(Error::NotLoaded {
                layer,
                shape: shape.clone(),
            }),
            Self::Dense(weight) => {
                let transposed = swapaxes(weight, -1, -2)?;
                Ok(gather_mm(x, &transposed, None, Some(indices), sorted)?)
            }
            Self::Quantized(weight) => weight.gather_matmul(x, indices, sorted),
            Self::Adapted(weight) => weight.apply_experts(layer, x, indices, sorted),
        }
    }

    /// Looks up rows of a `[n, dims]` weight: `ids [..] → [.., dims]`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`], or [`Error::Core`] if `ids` is not an integer array.
    pub fn rows(&self, layer: &'static str, ids: &Array) -> Result<Array> {
        match self {
            Self::Unloaded { shape } => Err(Error::NotLoaded {
                layer,
                shape: shape.clone(),
            }),
            Self::Dense(weight) => Ok(take(weight, ids, 0)?),
            Self::Quantized(weight) => weight.rows(ids)?.dequantize(),
            Self::Adapted(weight) => weight.rows(layer, ids),
        }
    }

    /// The weight as one floating-point array.
    ///
    /// # Errors
    /// [`Error::NotLoaded`].
    pub fn to_dense(&self, layer: &'static str) -> Result<Array> {
        match self {
            Self::Unloaded { shape } => Err(Error::NotLoaded {
                layer,
                shape: shape.clone(),
            }),
            Self::Dense(weight) => Ok(weight.clone()),
            Self::Quantized(weight) => weight.dequantize(),
            Self::Adapted(weight) => weight.to_dense(layer),
        }
    }
}

impl QuantizedWeight {
    /// Quantises `[.., out, in]`; `in` must be a multiple of the group size.
    ///
    /// # Errors
    /// [`Error::Core`] if the shape or the combination of bits, group size and mode is invalid.
    pub fn quantize(dense: &Array, quantization: LayerQuantization) -> Result<Self> {
        let quantized = quantize(dense, quantization.into())?;
        Ok(Self {
            codes: quantized.weight,
            scales: quantized.scales,
            biases: quantized.biases,
            quantization,
        })
    }

    /// The logical shape `[.., out, in]`.
    #[must_use]
    pub fn shape(&self) -> Vec<i32> {
        let mut shape = self.codes.shape().to_vec();
        if let (Some(last), Some(groups)) = (shape.last_mut(), self.scales.shape().last()) {
            *last = groups.saturating_mul(self.quantization.group_size);
        }
        shape
    }

    fn matmul(&self, x: &Array) -> Result<Array> {
        let (biases, layout) = (self.biases.as_ref(), self.quantization.into());
        Ok(quantized_matmul(
            x,
            &self.codes,
            &self.scales,
            biases,
            true,
            layout,
        )?)
    }

    fn gather_matmul(&self, x: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        let (biases, layout) = (self.biases.as_ref(), self.quantization.into());
        let indices = GatherIndices {
            lhs: None,
            rhs: Some(indices),
            sorted,
        };
        Ok(gather_qmm(
            x,
            &self.codes,
            &self.scales,
            biases,
            indices,
            true,
            layout,
        )?)
    }

    fn rows(&self, ids: &Array) -> Result<Self> {
        Ok(Self {
            codes: take(&self.codes, ids, 0)?,
            scales: take(&self.scales, ids, 0)?,
            biases: self
                .biases
                .as_ref()
                .map(|biases| take(biases, ids, 0))
                .transpose()?,
            quantization: self.quantization,
        })
    }

    fn dequantize(&self) -> Result<Array> {
        let (biases, layout) = (self.biases.as_ref(), self.quantization.into());
        Ok(dequantize(&self.codes, &self.scales, biases, layout, None)?)
    }
}

impl Weight {
    /// Shows the arrays one by one.
    pub(crate) fn visit_parts<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        match self {
            Self::Unloaded { .. } => {}
            Self::Dense(weight) => visitor.parameter(&path.child("weight"), weight),
            Self::Quantized(weight) => {
                visitor.buffer(&path.child("weight"), &weight.codes);
                visitor.buffer(&path.child("scales"), &weight.scales);
                if let Some(biases) = &weight.biases {
                    visitor.buffer(&path.child("biases"), biases);
                }
            }
            Self::Adapted(weight) => weight.visit(path, visitor),
        }
    }

    /// Hands out the arrays one by one.
    pub(crate) fn visit_parts_mut(
        &mut self,
        path: &KeyPath<'_>,
        visitor: &mut dyn VisitorMut,
    ) -> Result<()> {
        match self {
            Self::Unloaded { .. } => Ok(()),
            Self::Dense(weight) => visitor.parameter(&path.child("weight"), weight),
            Self::Quantized(weight) => {
                visitor.buffer(&path.child("weight"), &mut weight.codes)?;
                visitor.buffer(&path.child("scales"), &mut weight.scales)?;
                match &mut weight.biases {
                    Some(biases) => visitor.buffer(&path.child("biases"), biases),
                    None => Ok(()),
                }
            }
            Self::Adapted(weight) => weight.visit_mut(path, visitor),
        }
    }
}

/// Visited at the path of the layer that owns it.
impl Module for Weight {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        if visitor.weight(path, self) == Descend::Into {
            self.visit_parts(path, visitor);
        }
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        match visitor.weight(path, self)? {
            Descend::Into => self.visit_parts_mut(path, visitor),
            Descend::Over => Ok(()),
        }
    }
}
