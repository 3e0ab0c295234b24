//! Positional encodings that are added to embeddings or to attention scores.

use std::f64::consts::TAU;

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{abs, cos, exp, negative, sin},
        shape::{concatenate, expand_dims},
    },
};

use crate::{Error, Result, linear::check_dims, module::parameter_free};

/// Sines and cosines of positions, from "Attention Is All You Need" (2017).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::SinusoidalPositionalEncoding;
///
/// let encoding = SinusoidalPositionalEncoding::new(8)?;
/// let positions = Array::arange::<f32>(0.0, 5.0, 1.0)?;
/// assert_eq!(encoding.forward(&positions)?.shape(), [5, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SinusoidalPositionalEncoding {
    frequencies: Array,
    scale: f64,
    cos_first: bool,
}

impl SinusoidalPositionalEncoding {
    /// Frequencies from 1 down to 0.0001, scaled by √(2 / `dims`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `dims` is not positive and even.
    pub fn new(dims: i32) -> Result<Self> {
        Self::with_frequencies(dims, 1e-4, 1.0)
    }

    /// Frequencies from `max_freq` down to `min_freq`, evenly spaced on a logarithmic scale.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `dims` is not positive and even or a frequency not positive.
    pub fn with_frequencies(dims: i32, min_freq: f64, max_freq: f64) -> Result<Self> {
        if dims <= 0 || dims % 2 != 0 || min_freq <= 0.0 || max_freq <= 0.0 {
            let message = format!(
                "{dims} features of frequencies from {max_freq} to {min_freq}: both must be \
                 positive, the first even"
            );
            return Err(Error::invalid("SinusoidalPositionalEncoding", message));
        }
        let half = f64::from(dims / 2);
        let steps = Array::arange_dtype(0.0, half, 1.0, Dtype::Float32)?;
        let falling = (1.0 - &(steps / (half - 1.0).max(1.0))?)?;
        let (low, high) = (min_freq.ln(), max_freq.ln());
        let frequencies = exp(&((falling * (high - low))? + low)?)?;
        Ok(Self {
            frequencies,
            scale: (2.0 / f64::from(dims)).sqrt(),
            cos_first: false,
        })
    }

    /// Sets the factor of all features.
    #[must_use]
    pub fn scale(mut self, scale: f64) -> Self {
        self.scale = scale;
        self
    }

    /// Puts the cosines before the sines.
    #[must_use]
    pub fn cos_first(mut self, cos_first: bool) -> Self {
        self.cos_first = cos_first;
        self
    }

    /// Counts positions in full turns instead of radians.
    ///
    /// # Errors
    /// [`Error::Core`] if the frequencies cannot be scaled.
    pub fn full_turns(mut self) -> Result<Self> {
        self.frequencies = (self.frequencies * TAU)?;
        Ok(self)
    }

    /// Encodes positions: `[..] → [.., dims]`.
    ///
    /// # Errors
    /// [`Error::Core`] if the positions are not real numbers.
    pub fn forward(&self, positions: &Array) -> Result<Array> {
        let angles = (expand_dims(positions, &[-1])? * &self.frequencies)?;
        let (sines, cosines) = (sin(&angles)?, cos(&angles)?);
        let parts = if self.cos_first {
            [&cosines, &sines]
        } else {
            [&sines, &cosines]
        };
        let y = concatenate(&parts, -1)?;
        if self.scale == 1.0 {
            Ok(y)
        } else {
            Ok((y * self.scale)?)
        }
    }
}

/// Scores that fall with distance, from "Train Short, Test Long: Attention with Linear Biases
/// Enables Input Length Extrapolation" (2021).
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Alibi;
///
/// let scores = Array::zeros::<f32>(&[1, 4, 3, 3])?; // [B, heads, L, S]
/// assert_eq!(Alibi.forward(&scores, 0, None)?.shape(), [1, 4, 3, 3]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[doc(alias = "ALiBi")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alibi;

impl Alibi {
    /// Adds the bias, and a mask if there is one, to scores `[B, heads, L, S]` of which the first
    /// query is at position `offset`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are not four axes or no heads.
    pub fn forward(&self, scores: &Array, offset: i32, mask: Option<&Array>) -> Result<Array> {
        let &[_, heads, queries, keys] = scores.shape() else {
            let message = format!("expected [B, heads, L, S], found {:?}", scores.shape());
            return Err(Error::invalid("Alibi", message));
        };
        let mut bias = Self::create_matrix(queries, keys, heads, offset, scores.dtype())?;
        if let Some(mask) = mask {
            bias = (bias + mask)?;
        }
        Ok((scores + bias)?)
    }

    /// The bias `[1, num_heads, queries, keys]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are no heads.
    pub fn create_matrix(
        queries: i32,
        keys: i32,
        num_heads: i32,
        offset: i32,
        dtype: Dtype,
    ) -> Result<Array> {
        let range = |start: i32, length: i32| {
            let (start, stop) = (f64::from(start), f64::from(start) + f64::from(length));
            Array::arange_dtype(start, stop, 1.0, Dtype::Int32)
        };
        let queries = expand_dims(&range(offset, queries)?, &[1])?;
        let distances = negative(&abs(&(queries - range(0, keys)?)?)?)?;
        let slopes = Self::create_slopes(num_heads, dtype)?;
        Ok((expand_dims(&distances, &[0, 1])? * slopes)?.astype(dtype)?)
    }

    /// How fast the scores of each head fall, `[num_heads, 1, 1]`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there are no heads.
    pub fn create_slopes(num_heads: i32, dtype: Dtype) -> Result<Array> {
        check_dims("Alibi", &[num_heads])?;
        let heads = usize::try_from(num_heads).unwrap_or_default();
        let slopes = slopes(heads);
        let slopes = Array::from_slice::<f64>(&slopes, &[num_heads])?.astype(dtype)?;
        Ok(expand_dims(&slopes, &[-1, -2])?)
    }
}

/// A geometric sequence for a power of two; other counts take every second slope of the next
/// larger one for what is left over.
fn slopes(heads: usize) -> Vec<f64> {
    let power = if heads.is_power_of_two() {
        heads
    } else {
        heads.next_power_of_two() / 2
    };
    let exponent = -(-(f64::from(power.trailing_zeros()) - 3.0)).exp2();
    let start = exponent.exp2();
    let mut found: Vec<f64> = std::iter::successors(Some(start), |slope| Some(slope * start))
        .take(power)
        .collect();
    if power < heads {
        found.extend(slopes(2 * power).into_iter().step_by(2).take(heads - power));
    }
    found
}

parameter_free!(SinusoidalPositionalEncoding, Alibi);
