//! Convolutions. Layouts are channels-last: inputs `[N, spatial.., C]`, weights
//! `[O, spatial.., C / groups]`.

use crate::ffi::ops as ffi;
use crate::{Array, Error, Result};

/// How a convolution with `D` spatial axes moves over its input.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvOptions<const D: usize> {
    stride: [i32; D],
    padding: [(i32, i32); D],
    dilation: [i32; D],
    input_dilation: [i32; D],
    groups: i32,
    flip: bool,
}

impl<const D: usize> Default for ConvOptions<D> {
    fn default() -> Self {
        ConvOptions {
            stride: [1; D],
            padding: [(0, 0); D],
            dilation: [1; D],
            input_dilation: [1; D],
            groups: 1,
            flip: false,
        }
    }
}

impl<const D: usize> ConvOptions<D> {
    /// Steps between outputs (default 1).
    pub fn stride(mut self, stride: [i32; D]) -> Self {
        self.stride = stride;
        self
    }

    /// Zeros on both sides of each axis (default 0).
    pub fn padding(mut self, padding: [i32; D]) -> Self {
        self.padding = padding.map(|size| (size, size));
        self
    }

    /// Zeros before and after each axis.
    pub fn padding_sides(mut self, padding: [(i32, i32); D]) -> Self {
        self.padding = padding;
        self
    }

    /// Steps between the taps of the kernel (default 1).
    pub fn dilation(mut self, dilation: [i32; D]) -> Self {
        self.dilation = dilation;
        self
    }

    /// Steps between the elements of the input (default 1).
    pub fn input_dilation(mut self, dilation: [i32; D]) -> Self {
        self.input_dilation = dilation;
        self
    }

    /// Groups of channels that do not mix (default 1).
    pub fn groups(mut self, groups: i32) -> Self {
        self.groups = groups;
        self
    }

    /// Whether the kernel is flipped along its spatial axes, as in signal processing.
    pub fn flip(mut self, flip: bool) -> Self {
        self.flip = flip;
        self
    }

    fn check(&self, op: &'static str, input: &Array, weight: &Array) -> Result<()> {
        // MLX divides by each of these without looking.
        let positive = |values: &[i32]| values.iter().all(|&value| value > 0);
        if !positive(&self.stride)
            || !positive(&self.dilation)
            || !positive(&self.input_dilation)
            || self.groups <= 0
        {
            return Err(Error::shape(
                op,
                "stride, dilation and groups must be positive",
            ));
        }
        if self.padding.iter().any(|&(low, high)| low < 0 || high < 0) {
            return Err(Error::shape(op, "padding must not be negative"));
        }
        if input.ndim() != D + 2 || weight.ndim() != D + 2 {
            return Err(Error::shape(
                op,
                format!(
                    "input {:?} and weight {:?} need {} axes",
                    input.shape(),
                    weight.shape(),
                    D + 2
                ),
            ));
        }
        if weight.size() == 0 {
            return Err(Error::shape(
                op,
                format!("weight {:?} is empty", weight.shape()),
            ));
        }
        Ok(())
    }

    /// As [`check`](Self::check), for the transposed forms: MLX's take less, and here nothing that
    /// was asked for is left out in silence.
    fn check_transposed(&self, op: &'static str, input: &Array, weight: &Array) -> Result<()> {
        self.check(op, input, weight)?;
        let even = self.padding.iter().all(|&(low, high)| low == high);
        if even && self.input_dilation == [1; D] && !self.flip {
            return Ok(());
        }
        Err(Error::shape(
            op,
            "a transposed convolution has no uneven padding, input dilation or flip",
        ))
    }
}

fn general<const D: usize>(
    op: &'static str,
    input: &Array,
    weight: &Array,
    options: ConvOptions<D>,
) -> Result<Array> {
    options.check(op, input, weight)?;
    ffi::conv_general(
        input,
        weight,
        &options.stride,
        &options.padding.map(|side| side.0),
        &options.padding.map(|side| side.1),
        &options.dilation,
        &options.input_dilation,
        options.groups,
        options.flip,
    )
}

/// Convolution over any number of spatial axes that MLX has kernels for (1 to 3), with everything
/// that [`ConvOptions`] offers.
///
/// # Errors
/// As [`conv1d`].
pub fn conv_general<const D: usize>(
    input: &Array,
    weight: &Array,
    options: ConvOptions<D>,
) -> Result<Array> {
    general("conv_general", input, weight, options)
}

/// How much of a [`convolve`] to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConvolveMode {
    /// Everything: `N + M - 1` points.
    #[default]
    Full,
    /// As many points as the longer operand.
    Same,
    /// Where both overlap completely: `max(N, M) - min(N, M) + 1` points.
    Valid,
}

/// The convolution of two signals, `[N]` and `[M]`, as in signal processing.
///
/// ```
/// # use mlx_core::{Array, ops::conv::{ConvolveMode, convolve}};
/// let a = Array::from_slice(&[1.0f32, 2.0, 3.0], &[3])?;
/// let v = Array::from_slice(&[0.0f32, 1.0, 0.5], &[3])?;
/// assert_eq!(convolve(&a, &v, ConvolveMode::Full)?.to_vec::<f32>()?, [0.0, 1.0, 2.5, 4.0, 1.5]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] if an operand is empty or not one-dimensional; [`Error::Op`] if the dtypes are
/// not floating point.
pub fn convolve(a: &Array, v: &Array, mode: ConvolveMode) -> Result<Array> {
    let op = "convolve";
    if a.ndim() != 1 || v.ndim() != 1 || a.size() == 0 || v.size() == 0 {
        return Err(Error::shape(
            op,
            format!(
                "needs two signals, found {:?} and {:?}",
                a.shape(),
                v.shape()
            ),
        ));
    }
    let (long, short) = if a.size() < v.size() { (v, a) } else { (a, v) };
    let taps = short.dim(0)?;
    let padding = match mode {
        ConvolveMode::Full => (taps - 1, taps - 1),
        // Of an even kernel the later tap is the centre.
        ConvolveMode::Same => (taps / 2, (taps - 1) / 2),
        ConvolveMode::Valid => (0, 0),
    };
    let input = ffi::reshape(long, &[1, -1, 1])?;
    let weight = ffi::reshape(short, &[1, -1, 1])?;
    let options = ConvOptions::default().padding_sides([padding]).flip(true);
    ffi::reshape(&general(op, &input, &weight, options)?, &[-1])
}

/// One-dimensional convolution: `[N, L, C]` with `[O, K, C / groups]` gives `[N, L', O]`.
///
/// Floating-point dtypes only; the result has the promoted dtype.
///
/// # Errors
/// [`Error::Shape`] for zero or negative options or wrong ranks; [`Error::Op`] if the channels do
/// not fit.
pub fn conv1d(input: &Array, weight: &Array, options: ConvOptions<1>) -> Result<Array> {
    general("conv1d", input, weight, options)
}

/// Two-dimensional convolution: `[N, H, W, C]` with `[O, KH, KW, C / groups]`.
///
/// # Errors
/// As [`conv1d`].
pub fn conv2d(input: &Array, weight: &Array, options: ConvOptions<2>) -> Result<Array> {
    general("conv2d", input, weight, options)
}

/// Three-dimensional convolution: `[N, D, H, W, C]` with `[O, KD, KH, KW, C / groups]`.
///
/// # Errors
/// As [`conv1d`].
pub fn conv3d(input: &Array, weight: &Array, options: ConvOptions<3>) -> Result<Array> {
    general("conv3d", input, weight, options)
}

/// The transpose of [`conv1d`]. `output_padding` adds zeros at the end of the result.
///
/// # Errors
/// As [`conv1d`], or [`Error::Shape`] for padding that differs between the sides, input dilation or
/// a flip, which MLX's transposed forms do not have.
pub fn conv_transpose1d(
    input: &Array,
    weight: &Array,
    options: ConvOptions<1>,
    output_padding: i32,
) -> Result<Array> {
    options.check_transposed("conv_transpose1d", input, weight)?;
    ffi::conv_transpose1d(
        input,
        weight,
        options.stride[0],
        options.padding[0].0,
        options.dilation[0],
        output_padding,
        options.groups,
    )
}

/// The transpose of [`conv2d`].
///
/// # Errors
/// As [`conv_transpose1d`].
pub fn conv_transpose2d(
    input: &Array,
    weight: &Array,
    options: ConvOptions<2>,
    output_padding: [i32; 2],
) -> Result<Array> {
    options.check_transposed("conv_transpose2d", input, weight)?;
    ffi::conv_transpose2d(
        input,
        weight,
        &options.stride,
        &options.padding.map(|side| side.0),
        &options.dilation,
        &output_padding,
        options.groups,
    )
}

/// The transpose of [`conv3d`].
///
/// # Errors
/// As [`conv_transpose1d`].
pub fn conv_transpose3d(
    input: &Array,
    weight: &Array,
    options: ConvOptions<3>,
    output_padding: [i32; 3],
) -> Result<Array> {
    options.check_transposed("conv_transpose3d", input, weight)?;
    ffi::conv_transpose3d(
        input,
        weight,
        &options.stride,
        &options.padding.map(|side| side.0),
        &options.dilation,
        &output_padding,
        options.groups,
    )
}
