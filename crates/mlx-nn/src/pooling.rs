//! Pooling over one to three spatial axes, channels last.

use mlx_core::{
    Array,
    ops::{
        misc::as_strided,
        reduction::{max_axes, mean_axes},
        shape::{PadMode, pad},
    },
};

use crate::{Error, Result, UnaryLayer, linear::check_dims, module::parameter_free};

/// Reduces windows of `D` spatial axes to their mean or maximum:
/// `[N, spatial.., C] → [N, spatial.., C]`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Pool2d;
///
/// let pool = Pool2d::max([2, 2])?;
/// assert_eq!(pool.forward(&Array::ones::<f32>(&[1, 6, 8, 3])?)?.shape(), [1, 3, 4, 3]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool<const D: usize> {
    kind: Kind,
    kernel_size: [i32; D],
    stride: [i32; D],
    padding: [i32; D],
}

/// Pooling over sequences `[N, L, C]`.
pub type Pool1d = Pool<1>;
/// Pooling over images `[N, H, W, C]`.
pub type Pool2d = Pool<2>;
/// Pooling over volumes `[N, D, H, W, C]`.
pub type Pool3d = Pool<3>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Max,
    Mean,
}

impl<const D: usize> Pool<D> {
    /// The maximum of windows side by side; padding counts as −∞.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a size is not positive.
    pub fn max(kernel_size: [i32; D]) -> Result<Self> {
        Self::new(Kind::Max, kernel_size)
    }

    /// The mean of windows side by side; padding counts as zeros.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a size is not positive.
    pub fn mean(kernel_size: [i32; D]) -> Result<Self> {
        Self::new(Kind::Mean, kernel_size)
    }

    fn new(kind: Kind, kernel_size: [i32; D]) -> Result<Self> {
        check_dims("Pool", &kernel_size)?;
        Ok(Self {
            kind,
            kernel_size,
            stride: kernel_size,
            padding: [0; D],
        })
    }

    /// Sets the steps between windows.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a step is not positive.
    pub fn stride(mut self, stride: [i32; D]) -> Result<Self> {
        check_dims("Pool", &stride)?;
        self.stride = stride;
        Ok(self)
    }

    /// Sets the padding on both sides of each axis.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if it is negative.
    pub fn padding(mut self, padding: [i32; D]) -> Result<Self> {
        if padding.iter().any(|&size| size < 0) {
            return Err(Error::invalid(
                "Pool",
                format!("padding {padding:?} is negative"),
            ));
        }
        self.padding = padding;
        Ok(self)
    }

    /// Reduces the windows; what no whole window covers at the end of an axis is left out.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `x` has another number of axes or is smaller than a window.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        if x.ndim() != D + 2 {
            let message = format!("expected {} axes, found {:?}", D + 2, x.shape());
            return Err(Error::invalid("Pool", message));
        }
        let padded = self.pad(x)?;
        let windows = self.windows(&padded)?;
        let axes: [i32; D] = std::array::from_fn(|axis| -2 - small(axis));
        match self.kind {
            Kind::Max => Ok(max_axes(&windows, &axes, false)?),
            Kind::Mean => Ok(mean_axes(&windows, &axes, false)?),
        }
    }

    fn pad(&self, x: &Array) -> Result<Array> {
        if self.padding == [0; D] {
            return Ok(x.clone());
        }
        let mut widths = vec![(0, 0)];
        widths.extend(self.padding.map(|size| (size, size)));
        widths.push((0, 0));
        let value = match self.kind {
            Kind::Max => f64::NEG_INFINITY,
            Kind::Mean => 0.0,
        };
        let value = Array::scalar_dtype(value, x.dtype())?;
        Ok(pad(x, &widths, &value, PadMode::Constant)?)
    }

    /// All windows as one view: `[N, outputs.., kernel.., C]`.
    fn windows(&self, x: &Array) -> Result<Array> {
        let shape = x.shape();
        let too_small = || {
            let message = format!("{shape:?} is smaller than a window {:?}", self.kernel_size);
            Error::invalid("Pool", message)
        };
        let mut strides = vec![1_i64; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * i64::from(shape[axis]);
        }
        let mut view_shape = vec![shape[0]];
        let mut view_strides = vec![strides[0]];
        for axis in 0..D {
            let room = shape[axis + 1] - self.kernel_size[axis];
            if room < 0 {
                return Err(too_small());
            }
            view_shape.push(room / self.stride[axis] + 1);
            view_strides.push(strides[axis + 1] * i64::from(self.stride[axis]));
        }
        view_shape.extend(self.kernel_size);
        view_strides.extend_from_slice(&strides[1..=D]);
        view_shape.push(shape[D + 1]);
        view_strides.push(1);
        Ok(as_strided(x, &view_shape, &view_strides, 0)?)
    }
}

fn small(index: usize) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

parameter_free!(Pool1d, Pool2d, Pool3d);

impl<const D: usize> UnaryLayer for Pool<D>
where
    Self: crate::Module,
{
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
