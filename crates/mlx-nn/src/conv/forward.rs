//! Convolution layers.

use mlx_core::{
    Array,
    ops::conv::{ConvOptions, conv1d, conv2d, conv3d},
};

use super::fresh;
use crate::{Error, Module, Result, UnaryLayer, linear::check_dims};

/// A convolution over `D` spatial axes: `[N, spatial.., in] → [N, spatial.., out]`.
///
/// Keys: `weight [out, kernel.., in / groups]` and, if there is one, `bias [out]`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Conv2d;
///
/// let layer = Conv2d::new(3, 8, [3, 3])?.padding([1, 1])?.stride([2, 2])?;
/// assert_eq!(layer.forward(&Array::ones::<f32>(&[1, 8, 8, 3])?)?.shape(), [1, 4, 4, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct Conv<const D: usize> {
    /// The kernels, `[out, kernel.., in / groups]`.
    pub weight: Array,
    /// The offset of each output channel.
    pub bias: Option<Array>,
    stride: [i32; D],
    padding: [i32; D],
    dilation: [i32; D],
    groups: i32,
}

/// A convolution over sequences `[N, L, C]`.
pub type Conv1d = Conv<1>;
/// A convolution over images `[N, H, W, C]`.
pub type Conv2d = Conv<2>;
/// A convolution over volumes `[N, D, H, W, C]`.
pub type Conv3d = Conv<3>;

impl<const D: usize> Conv<D> {
    /// A layer with a bias, stride 1 and no padding; see the methods for the rest.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn new(in_channels: i32, out_channels: i32, kernel_size: [i32; D]) -> Result<Self> {
        Self::grouped(in_channels, out_channels, kernel_size, 1)
    }

    /// A layer whose channels are split into `groups` that do not mix.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive or `groups` does not divide the
    /// channels.
    pub fn grouped(
        in_channels: i32,
        out_channels: i32,
        kernel_size: [i32; D],
        groups: i32,
    ) -> Result<Self> {
        check_dims("Conv", &[in_channels, out_channels, groups])?;
        check_dims("Conv", &kernel_size)?;
        if in_channels % groups != 0 || out_channels % groups != 0 {
            let message =
                format!("{groups} groups do not divide {in_channels} and {out_channels} channels");
            return Err(Error::invalid("Conv", message));
        }
        let shape = [
            &[out_channels],
            kernel_size.as_slice(),
            &[in_channels / groups],
        ]
        .concat();
        let (weight, bias) = fresh(&shape, true)?;
        Ok(Self {
            weight,
            bias,
            stride: [1; D],
            padding: [0; D],
            dilation: [1; D],
            groups,
        })
    }

    /// Sets the steps between outputs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a step is not positive.
    pub fn stride(mut self, stride: [i32; D]) -> Result<Self> {
        check_dims("Conv", &stride)?;
        self.stride = stride;
        Ok(self)
    }

    /// Sets the zeros on both sides of each axis.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a number is negative.
    pub fn padding(mut self, padding: [i32; D]) -> Result<Self> {
        if padding.iter().any(|&zeros| zeros < 0) {
            return Err(Error::invalid(
                "Conv",
                format!("padding {padding:?} is negative"),
            ));
        }
        self.padding = padding;
        Ok(self)
    }

    /// Sets the steps between the taps of a kernel.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a step is not positive.
    pub fn dilation(mut self, dilation: [i32; D]) -> Result<Self> {
        check_dims("Conv", &dilation)?;
        self.dilation = dilation;
        Ok(self)
    }

    /// Leaves out the bias.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    fn convolve(
        &self,
        x: &Array,
        op: fn(&Array, &Array, ConvOptions<D>) -> mlx_core::Result<Array>,
    ) -> Result<Array> {
        let options = ConvOptions::default()
            .stride(self.stride)
            .padding(self.padding)
            .dilation(self.dilation)
            .groups(self.groups);
        let y = op(x, &self.weight, options)?;
        match &self.bias {
            Some(bias) => Ok((y + bias)?),
            None => Ok(y),
        }
    }
}

/// Gives each rank its forward pass, because the operations are named by rank.
macro_rules! ranks {
    ($($rank:literal $op:ident)*) => {$(
        impl Conv<$rank> {
            /// Runs the layer.
            ///
            /// # Errors
            /// [`Error::Core`] if the channels or the number of axes do not fit.
            pub fn forward(&self, x: &Array) -> Result<Array> {
                self.convolve(x, $op)
            }
        }

        impl UnaryLayer for Conv<$rank> {
            fn forward(&self, x: &Array) -> Result<Array> {
                Self::forward(self, x)
            }
        }
    )*};
}

ranks!(1 conv1d 2 conv2d 3 conv3d);
