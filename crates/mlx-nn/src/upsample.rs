//! Upsampling of images, sequences and volumes, channels last.

mod taps;

use mlx_core::{
    Array,
    ops::{
        indexing::take,
        shape::{broadcast_to, expand_dims, reshape},
    },
};

use crate::{Error, Result, UnaryLayer, module::parameter_free};

/// How [`Upsample`] fills in values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum UpsampleMode {
    /// The nearest value.
    #[default]
    Nearest,
    /// Between the two nearest values of each axis.
    Linear,
    /// Along a cubic through the four nearest values of each axis.
    Cubic,
}

/// Scales the spatial axes of `[N, spatial.., C]`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Upsample, UpsampleMode};
///
/// let layer = Upsample::new(vec![2.0], UpsampleMode::Linear)?;
/// assert_eq!(layer.forward(&Array::ones::<f32>(&[1, 3, 4, 2])?)?.shape(), [1, 6, 8, 2]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Upsample {
    scale_factor: Vec<f64>,
    mode: UpsampleMode,
    align_corners: bool,
    antialias: bool,
}

impl Upsample {
    /// One factor for all spatial axes, or one for each.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a factor is not positive or there is none.
    pub fn new(scale_factor: Vec<f64>, mode: UpsampleMode) -> Result<Self> {
        let positive = scale_factor
            .iter()
            .all(|&factor| factor > 0.0 && factor.is_finite());
        if scale_factor.is_empty() || !positive {
            let message = format!("factors must be positive, found {scale_factor:?}");
            return Err(Error::invalid("Upsample", message));
        }
        Ok(Self {
            scale_factor,
            mode,
            align_corners: false,
            antialias: false,
        })
    }

    /// Keeps the corners where they are, instead of the edges.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] together with antialiasing.
    pub fn align_corners(mut self) -> Result<Self> {
        self.align_corners = true;
        self.check()
    }

    /// Widens the filter when it scales down.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for nearest values or together with aligned corners.
    pub fn antialias(mut self) -> Result<Self> {
        self.antialias = true;
        self.check()
    }

    fn check(self) -> Result<Self> {
        if self.antialias && (self.align_corners || self.mode == UpsampleMode::Nearest) {
            let message = "antialiasing needs linear or cubic values without aligned corners";
            return Err(Error::invalid("Upsample", message));
        }
        Ok(self)
    }

    /// Scales every spatial axis; the result has ⌊factor · size⌋ positions.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `x` has no spatial axis or not one for each factor.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let axes = x.ndim().saturating_sub(2);
        let factors = match self.scale_factor.as_slice() {
            [factor] => vec![*factor; axes],
            factors => factors.to_vec(),
        };
        if axes == 0 || factors.len() != axes {
            let message = format!("{} factors for {:?}", self.scale_factor.len(), x.shape());
            return Err(Error::invalid("Upsample", message));
        }
        if self.mode == UpsampleMode::Nearest && factors.iter().all(|factor| factor.fract() == 0.0)
        {
            return repeat(x, &factors);
        }
        let mut y = x.clone();
        for (axis, &factor) in (1..).zip(&factors) {
            y = self.scale_axis(&y, axis, factor)?;
        }
        Ok(y)
    }

    fn scale_axis(&self, x: &Array, axis: i32, factor: f64) -> Result<Array> {
        let size = x.dim(axis)?;
        let taps = match (self.mode, self.antialias) {
            (UpsampleMode::Nearest, _) => return Ok(take(x, &taps::nearest(size, factor)?, axis)?),
            (UpsampleMode::Linear, false) => taps::linear(size, factor, self.align_corners)?,
            (UpsampleMode::Cubic, false) => taps::cubic(size, factor, self.align_corners)?,
            (UpsampleMode::Linear, true) => {
                taps::antialiased(size, factor, taps::Kernel::Triangle)?
            }
            (UpsampleMode::Cubic, true) => taps::antialiased(size, factor, taps::Kernel::Cubic)?,
        };
        let mut shape = vec![1; x.ndim()];
        if let Some(dim) = usize::try_from(axis)
            .ok()
            .and_then(|axis| shape.get_mut(axis))
        {
            *dim = -1;
        }
        let mut sum: Option<Array> = None;
        for (indices, weights) in taps {
            let weights = reshape(&weights, &shape)?.astype(x.dtype())?;
            let part = (take(x, &indices, axis)? * weights)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        sum.ok_or_else(|| Error::invalid("Upsample", "the filter is empty"))
    }
}

/// Each value as often as its whole factor says.
fn repeat(x: &Array, factors: &[f64]) -> Result<Array> {
    let mut y = x.clone();
    for (axis, &factor) in (1..).zip(factors) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "saturates, and the shape check refuses it"
        )]
        let factor = factor as i32;
        let mut wide = expand_dims(&y, &[axis + 1])?.shape().to_vec();
        let mut flat = y.shape().to_vec();
        let index = usize::try_from(axis).unwrap_or_default();
        if let (Some(repeats), Some(dim)) = (wide.get_mut(index + 1), flat.get_mut(index)) {
            *repeats = factor;
            *dim = dim.saturating_mul(factor);
        }
        y = reshape(&broadcast_to(&expand_dims(&y, &[axis + 1])?, &wide)?, &flat)?;
    }
    Ok(y)
}

parameter_free!(Upsample);

impl UnaryLayer for Upsample {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
