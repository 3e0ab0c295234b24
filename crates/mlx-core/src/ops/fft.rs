//! Fourier transforms. Results are complex64, or float32 for the inverse real ones.

use crate::ffi::ops as ffi;
use crate::{Array, Error, Result};

/// How transforms are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FftNorm {
    /// The inverse by `1/n`.
    #[default]
    Backward,
    /// Both by `1/sqrt(n)`.
    Ortho,
    /// The forward by `1/n`.
    Forward,
}

fn sizes(
    op: &'static str,
    a: &Array,
    n: Option<&[i32]>,
    axes: &[i32],
    inverse_real: bool,
) -> Result<Vec<i32>> {
    if axes.is_empty() {
        return Err(Error::empty_input(format!("{op}: `axes`")));
    }
    let sizes = match n {
        Some(n) if n.len() == axes.len() => n.to_vec(),
        Some(n) => {
            return Err(Error::shape(op, format!("{} sizes for {} axes", n.len(), axes.len())));
        }
        None => {
            let mut sizes = axes.iter().map(|&axis| a.dim(axis)).collect::<Result<Vec<_>>>()?;
            if inverse_real && let Some(last) = sizes.last_mut() {
                *last = (*last - 1).saturating_mul(2);
            }
            sizes
        }
    };
    if sizes.iter().any(|&size| size <= 0) {
        return Err(Error::shape(op, format!("sizes {sizes:?} must be positive")));
    }
    Ok(sizes)
}

/// The discrete Fourier transform over `axes`.
///
/// `n` gives the sizes to crop or zero-pad `axes` to; `None` keeps them.
///
/// # Errors
/// [`Error::Shape`] if a size is not positive or an axis out of range.
pub fn fftn(a: &Array, n: Option<&[i32]>, axes: &[i32], norm: FftNorm) -> Result<Array> {
    let sizes = sizes("fftn", a, n, axes, false)?;
    ffi::fft_fftn(a, &sizes, axes, norm as i32)
}

/// The inverse of [`fftn`].
///
/// # Errors
/// As [`fftn`].
pub fn ifftn(a: &Array, n: Option<&[i32]>, axes: &[i32], norm: FftNorm) -> Result<Array> {
    let sizes = sizes("ifftn", a, n, axes, false)?;
    ffi::fft_ifftn(a, &sizes, axes, norm as i32)
}

/// The transform of real values: the last of `axes` keeps its `n/2 + 1` non-negative frequencies.
///
/// # Errors
/// As [`fftn`].
pub fn rfftn(a: &Array, n: Option<&[i32]>, axes: &[i32], norm: FftNorm) -> Result<Array> {
    let sizes = sizes("rfftn", a, n, axes, false)?;
    ffi::fft_rfftn(a, &sizes, axes, norm as i32)
}

/// The inverse of [`rfftn`]: real values.
///
/// # Errors
/// As [`fftn`].
pub fn irfftn(a: &Array, n: Option<&[i32]>, axes: &[i32], norm: FftNorm) -> Result<Array> {
    let sizes = sizes("irfftn", a, n, axes, true)?;
    ffi::fft_irfftn(a, &sizes, axes, norm as i32)
}

/// [`fftn`] over one axis.
///
/// # Errors
/// As [`fftn`].
pub fn fft(a: &Array, n: Option<i32>, axis: i32, norm: FftNorm) -> Result<Array> {
    fftn(a, n.as_ref().map(std::slice::from_ref), &[axis], norm)
}

/// [`ifftn`] over one axis.
///
/// # Errors
/// As [`fftn`].
pub fn ifft(a: &Array, n: Option<i32>, axis: i32, norm: FftNorm) -> Result<Array> {
    ifftn(a, n.as_ref().map(std::slice::from_ref), &[axis], norm)
}

/// [`rfftn`] over one axis.
///
/// # Errors
/// As [`fftn`].
pub fn rfft(a: &Array, n: Option<i32>, axis: i32, norm: FftNorm) -> Result<Array> {
    rfftn(a, n.as_ref().map(std::slice::from_ref), &[axis], norm)
}

/// [`irfftn`] over one axis.
///
/// # Errors
/// As [`fftn`].
pub fn irfft(a: &Array, n: Option<i32>, axis: i32, norm: FftNorm) -> Result<Array> {
    irfftn(a, n.as_ref().map(std::slice::from_ref), &[axis], norm)
}

/// The frequencies of [`fft`] for `n` samples `d` apart: float32 `[n]`.
///
/// # Errors
/// [`Error::Shape`] if `n` is not positive.
pub fn fftfreq(n: i32, d: f64) -> Result<Array> {
    if n <= 0 {
        return Err(Error::shape("fftfreq", format!("{n} samples")));
    }
    ffi::fft_fftfreq(n, d)
}

/// The frequencies of [`rfft`] for `n` samples `d` apart: float32 `[n/2 + 1]`.
///
/// # Errors
/// [`Error::Shape`] if `n` is not positive.
pub fn rfftfreq(n: i32, d: f64) -> Result<Array> {
    if n <= 0 {
        return Err(Error::shape("rfftfreq", format!("{n} samples")));
    }
    ffi::fft_rfftfreq(n, d)
}

/// The zero frequency moved to the middle of `axes`.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn fftshift(a: &Array, axes: &[i32]) -> Result<Array> {
    ffi::fft_fftshift(a, axes)
}

/// The inverse of [`fftshift`].
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn ifftshift(a: &Array, axes: &[i32]) -> Result<Array> {
    ffi::fft_ifftshift(a, axes)
}
