//! A linear map that quantises its input, too.

use mlx_core::{
    Array, Device, Stream,
    ops::{
        linalg_basic::matmul,
        quantized::{QqmmScales, QuantizationLayout, dequantize, qqmm, quantize, quantized_matmul},
        shape::{reshape, swapaxes},
    },
};
use mlx_transforms::custom_vjp;

use crate::{
    Error, KeyPath, LayerQuantization, Linear, Module, QuantMode, Result, UnaryLayer, Visitor,
    VisitorMut, Weight, init, linear::check_dims, weight::QuantizedWeight,
};

/// Applies `y = q(x) q(W)ᵀ` to the last axis, `[.., in] → [.., out]`, where `q` rounds to nvfp4 or
/// mxfp8.
///
/// Fresh or [dequantised](Self::dequantize), the weight is dense and trained: it is rounded on the
/// fly, and so are the operands of both gradients, for which the outputs and the rows of a batch
/// must fill whole groups. [Quantised](Self::quantize), it is frozen, and only the input is
/// rounded. Keys: `weight [out, in]`, or codes with `scales`. There is no bias.
///
/// GPUs multiply the rounded numbers themselves. On the CPU, where MLX can do so for a single row
/// only, they are rounded, and multiplied in the input's dtype.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{QqLinear, QuantMode};
///
/// let mut layer = QqLinear::new(64, 32, QuantMode::Nvfp4)?;
/// let x = Array::ones::<f32>(&[2, 64])?;
/// let trained = layer.forward(&x)?;
/// layer.quantize()?;
/// assert!(trained.allclose(&layer.forward(&x)?, 1e-4, 1e-4)?.item::<bool>()?);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[doc(alias = "QQLinear")]
#[derive(Debug, Clone)]
pub struct QqLinear {
    weight: Weight,
    quantization: LayerQuantization,
}

impl QqLinear {
    /// A layer with a dense weight drawn uniformly from ±√(1 / `input_dims`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive, or for a mode other than nvfp4
    /// and mxfp8.
    pub fn new(input_dims: i32, output_dims: i32, mode: QuantMode) -> Result<Self> {
        check_dims("QqLinear", &[input_dims, output_dims])?;
        let bound = init::reciprocal_sqrt(input_dims);
        let weight = init::symmetric_uniform(bound, &[output_dims, input_dims])?;
        Self::with_weight(Weight::Dense(weight), mode)
    }

    /// A layer that only knows its shapes, for a model that is about to be loaded.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn placeholder(input_dims: i32, output_dims: i32, mode: QuantMode) -> Result<Self> {
        check_dims("QqLinear", &[input_dims, output_dims])?;
        Self::with_weight(Weight::placeholder(&[output_dims, input_dims]), mode)
    }

    /// A layer with the dense weight of another.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if that has a bias or a weight that is not dense, or as
    /// [`new`](Self::new).
    pub fn from_linear(linear: &Linear, mode: QuantMode) -> Result<Self> {
        match (&linear.weight, &linear.bias) {
            (weight @ Weight::Dense(_), None) => Self::with_weight(weight.clone(), mode),
            (_, Some(_)) => Err(Error::invalid("QqLinear", "there is no place for a bias")),
            (_, None) => Err(Error::invalid("QqLinear", "the weight must be dense")),
        }
    }

    fn with_weight(weight: Weight, mode: QuantMode) -> Result<Self> {
        if !matches!(mode, QuantMode::Nvfp4 | QuantMode::Mxfp8) {
            let message = format!("the mode must be nvfp4 or mxfp8, found {mode}");
            return Err(Error::invalid("QqLinear", message));
        }
        Ok(Self {
            weight,
            quantization: LayerQuantization::new(mode),
        })
    }

    /// The weight.
    pub const fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Rounds the weight for good, as evaluation wants it. Does nothing if it is rounded.
    ///
    /// # Errors
    /// [`Error::NotLoaded`]; [`Error::Core`] if the inputs do not fill whole groups.
    pub fn quantize(&mut self) -> Result<()> {
        if !self.weight.is_quantized() {
            let dense = self.weight.to_dense("QqLinear")?;
            let quantized = QuantizedWeight::quantize(&dense, self.quantization)?;
            self.weight = Weight::Quantized(quantized);
        }
        Ok(())
    }

    /// Makes the weight dense, as training wants it. What rounding lost is not restored.
    ///
    /// # Errors
    /// [`Error::NotLoaded`].
    pub fn dequantize(&mut self) -> Result<()> {
        self.weight = Weight::Dense(self.weight.to_dense("QqLinear")?);
        Ok(())
    }

    /// Runs the layer: `[.., in] → [.., out]`, in the dtype of `x`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`]; [`Error::Weight`] if the weight was loaded in another mode;
    /// [`Error::Core`] if the last axis of `x` is not `in` long.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let layout = QuantizationLayout::from(self.quantization);
        let on_cpu = Stream::current().device() == Device::cpu();
        match &self.weight {
            Weight::Quantized(weight) => {
                if weight.quantization != self.quantization {
                    let (found, expected) = (weight.quantization, self.quantization);
                    let message = format!("has {found}, the layer {expected}");
                    return Err(Error::weight("weight", message));
                }
                if on_cpu {
                    let x = round(x, layout)?;
                    let (codes, scales) = (&weight.codes, &weight.scales);
                    return Ok(quantized_matmul(&x, codes, scales, None, true, layout)?);
                }
                let scales = QqmmScales {
                    w: Some(&weight.scales),
                    ..QqmmScales::default()
                };
                Ok(qqmm(x, &weight.codes, scales, layout)?)
            }
            Weight::Dense(weight) if on_cpu => rounded_product(x, weight, layout),
            Weight::Dense(weight) => Ok(qqmm(x, weight, QqmmScales::default(), layout)?),
            Weight::Unloaded { shape } => Err(Error::NotLoaded {
                layer: "QqLinear",
                shape: shape.clone(),
            }),
            Weight::Adapted(_) => Err(Error::invalid("QqLinear", "takes no adapters")),
        }
    }
}

/// The numbers that are left of `x` in a quantised mode.
fn round(x: &Array, layout: QuantizationLayout) -> mlx_core::Result<Array> {
    let rounded = quantize(x, layout)?;
    dequantize(
        &rounded.weight,
        &rounded.scales,
        None,
        layout,
        Some(x.dtype()),
    )
}

/// `q(a) q(b)ᵀ`, without a derivative of its own.
fn product(a: &Array, b: &Array, layout: QuantizationLayout) -> mlx_core::Result<Array> {
    matmul(&round(a, layout)?, &swapaxes(&round(b, layout)?, -1, -2)?)
}

/// `q(x) q(W)ᵀ`, with gradients that round their operands likewise, along the axis that is summed.
fn rounded_product(x: &Array, weight: &Array, layout: QuantizationLayout) -> Result<Array> {
    let (Some(&input), Some(&output)) = (x.shape().last(), weight.shape().first()) else {
        return Err(Error::invalid("QqLinear", "a scalar has no last axis"));
    };
    let rows = reshape(x, &[-1, input])?;
    let f = custom_vjp(
        move |xs| {
            let [x, weight] = xs else {
                return Ok(Vec::new());
            };
            Ok(vec![product(x, weight, layout)?])
        },
        move |xs, cotangents, _| {
            let ([x, weight], [cotangent]) = (xs, cotangents) else {
                return Ok(Vec::new());
            };
            let flip = |array: &Array| swapaxes(array, -1, -2);
            Ok(vec![
                product(cotangent, &flip(weight)?, layout)?,
                product(&flip(cotangent)?, &flip(x)?, layout)?,
            ])
        },
    )?;
    let y = f(&[rows, weight.clone()])?;
    let y = y
        .first()
        .ok_or_else(|| Error::invalid("QqLinear", "the product was lost"))?;
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = output;
    }
    Ok(reshape(y, &shape)?)
}

impl Module for QqLinear {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.weight.visit(path, visitor);
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.weight.visit_mut(path, visitor)
    }
}

impl UnaryLayer for QqLinear {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
