//! Transposed convolution layers.

use mlx_core::{
    Array,
    ops::conv::{ConvOptions, conv_transpose1d, conv_transpose2d, conv_transpose3d},
};

use super::fresh;
use crate::{Error, Module, Result, UnaryLayer, linear::check_dims};

/// The transpose of a convolution over `D` spatial axes, which upsamples by its stride:
/// `[N, spatial.., in] → [N, spatial.., out]`.
///
/// Keys: `weight [out, kernel.., in]` and, if there is one, `bias [out]`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::ConvTranspose1d;
///
/// let layer = ConvTranspose1d::new(4, 2, [4])?.stride([2])?.padding([1])?;
/// assert_eq!(layer.forward(&Array::ones::<f32>(&[1, 5, 4])?)?.shape(), [1, 10, 2]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct ConvTranspose<const D: usize> {
    /// The kernels, `[out, kernel.., in]`.
    pub weight: Array,
    /// The offset of each output channel.
    pub bias: Option<Array>,
    stride: [i32; D],
    padding: [i32; D],
    dilation: [i32; D],
    output_padding: [i32; D],
}

/// A transposed convolution over sequences `[N, L, C]`.
pub type ConvTranspose1d = ConvTranspose<1>;
/// A transposed convolution over images `[N, H, W, C]`.
pub type ConvTranspose2d = ConvTranspose<2>;
/// A transposed convolution over volumes `[N, D, H, W, C]`.
pub type ConvTranspose3d = ConvTranspose<3>;

impl<const D: usize> ConvTranspose<D> {
    /// A layer with a bias, stride 1 and no padding; see the methods for the rest.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn new(in_channels: i32, out_channels: i32, kernel_size: [i32; D]) -> Result<Self> {
        check_dims("ConvTranspose", &[in_channels, out_channels])?;
        check_dims("ConvTranspose", &kernel_size)?;
        let shape = [&[out_channels], kernel_size.as_slice(), &[in_channels]].concat();
        let (weight, bias) = fresh(&shape, true)?;
        Ok(Self {
            weight,
            bias,
            stride: [1; D],
            padding: [0; D],
            dilation: [1; D],
            output_padding: [0; D],
        })
    }

    /// Sets the steps between inputs, by which the result grows.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a step is not positive.
    pub fn stride(mut self, stride: [i32; D]) -> Result<Self> {
        check_dims("ConvTranspose", &stride)?;
        self.stride = stride;
        Ok(self)
    }

    /// Sets what is cut off both sides of each axis.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a number is negative.
    pub fn padding(mut self, padding: [i32; D]) -> Result<Self> {
        self.padding = not_negative(padding)?;
        Ok(self)
    }

    /// Sets the steps between the taps of a kernel.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a step is not positive.
    pub fn dilation(mut self, dilation: [i32; D]) -> Result<Self> {
        check_dims("ConvTranspose", &dilation)?;
        self.dilation = dilation;
        Ok(self)
    }

    /// Sets what is added at the end of each axis of the result.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a number is negative.
    pub fn output_padding(mut self, output_padding: [i32; D]) -> Result<Self> {
        self.output_padding = not_negative(output_padding)?;
        Ok(self)
    }

    /// Leaves out the bias.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    fn options(&self) -> ConvOptions<D> {
        ConvOptions::default()
            .stride(self.stride)
            .padding(self.padding)
            .dilation(self.dilation)
    }

    fn add_bias(&self, y: Array) -> Result<Array> {
        match &self.bias {
            Some(bias) => Ok((y + bias)?),
            None => Ok(y),
        }
    }
}

fn not_negative<const D: usize>(padding: [i32; D]) -> Result<[i32; D]> {
    if padding.iter().any(|&zeros| zeros < 0) {
        return Err(Error::invalid(
            "ConvTranspose",
            format!("padding {padding:?} is negative"),
        ));
    }
    Ok(padding)
}

/// Gives each rank its forward pass, because the operations are named by rank.
macro_rules! ranks {
    ($($rank:literal |$layer:ident, $x:ident| $call:expr;)*) => {$(
        impl ConvTranspose<$rank> {
            /// Runs the layer.
            ///
            /// # Errors
            /// [`Error::Core`] if the channels or the number of axes do not fit.
            pub fn forward(&self, $x: &Array) -> Result<Array> {
                let $layer = self;
                self.add_bias($call?)
            }
        }

        impl UnaryLayer for ConvTranspose<$rank> {
            fn forward(&self, x: &Array) -> Result<Array> {
                Self::forward(self, x)
            }
        }
    )*};
}

ranks! {
    1 |layer, x| conv_transpose1d(x, &layer.weight, layer.options(), layer.output_padding[0]);
    2 |layer, x| conv_transpose2d(x, &layer.weight, layer.options(), layer.output_padding);
    3 |layer, x| conv_transpose3d(x, &layer.weight, layer.options(), layer.output_padding);
}
