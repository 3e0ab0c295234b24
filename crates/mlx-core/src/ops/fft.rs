//! Fourier transforms. Results are complex64, or float32 for the inverse real ones.

use super::shape::PadMode;
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
            return Err(Error::shape(
                op,
                format!("{} sizes for {} axes", n.len(), axes.len()),
            ));
        }
        None => {
            let mut sizes = axes
                .iter()
                .map(|&axis| a.dim(axis))
                .collect::<Result<Vec<_>>>()?;
            if inverse_real && let Some(last) = sizes.last_mut() {
                *last = (*last - 1).saturating_mul(2);
            }
            sizes
        }
    };
    if sizes.iter().any(|&size| size <= 0) {
        return Err(Error::shape(
            op,
            format!("sizes {sizes:?} must be positive"),
        ));
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

/// [`fftn`] over two axes, by default the last two.
///
/// # Errors
/// As [`fftn`].
pub fn fft2(
    a: &Array,
    n: Option<[i32; 2]>,
    axes: Option<[i32; 2]>,
    norm: FftNorm,
) -> Result<Array> {
    let axes = axes.unwrap_or([-2, -1]);
    fftn(a, n.as_ref().map(<[i32; 2]>::as_slice), &axes, norm)
}

/// [`ifftn`] over two axes, by default the last two.
///
/// # Errors
/// As [`fftn`].
pub fn ifft2(
    a: &Array,
    n: Option<[i32; 2]>,
    axes: Option<[i32; 2]>,
    norm: FftNorm,
) -> Result<Array> {
    let axes = axes.unwrap_or([-2, -1]);
    ifftn(a, n.as_ref().map(<[i32; 2]>::as_slice), &axes, norm)
}

/// [`rfftn`] over two axes, by default the last two.
///
/// # Errors
/// As [`fftn`].
pub fn rfft2(
    a: &Array,
    n: Option<[i32; 2]>,
    axes: Option<[i32; 2]>,
    norm: FftNorm,
) -> Result<Array> {
    let axes = axes.unwrap_or([-2, -1]);
    rfftn(a, n.as_ref().map(<[i32; 2]>::as_slice), &axes, norm)
}

/// [`irfftn`] over two axes, by default the last two.
///
/// # Errors
/// As [`fftn`].
pub fn irfft2(
    a: &Array,
    n: Option<[i32; 2]>,
    axes: Option<[i32; 2]>,
    norm: FftNorm,
) -> Result<Array> {
    let axes = axes.unwrap_or([-2, -1]);
    irfftn(a, n.as_ref().map(<[i32; 2]>::as_slice), &axes, norm)
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

/// How [`stft`] and [`istft`] cut and scale.
#[must_use]
#[derive(Clone, Copy, Debug)]
pub struct StftOptions<'a> {
    hop_length: Option<i32>,
    win_length: Option<i32>,
    window: Option<&'a Array>,
    center: bool,
    pad_mode: PadMode,
    norm: FftNorm,
    onesided: Option<bool>,
}

impl Default for StftOptions<'_> {
    fn default() -> Self {
        StftOptions {
            hop_length: None,
            win_length: None,
            window: None,
            center: true,
            pad_mode: PadMode::Reflect,
            norm: FftNorm::Backward,
            onesided: None,
        }
    }
}

impl<'a> StftOptions<'a> {
    /// Samples between frames (default a quarter of the window).
    pub fn hop_length(mut self, hop_length: i32) -> Self {
        self.hop_length = Some(hop_length);
        self
    }

    /// Samples of the window (default the size of the transform).
    pub fn win_length(mut self, win_length: i32) -> Self {
        self.win_length = Some(win_length);
        self
    }

    /// The window, `[win_length]` (default Hann).
    pub fn window(mut self, window: &'a Array) -> Self {
        self.window = Some(window);
        self
    }

    /// Whether frames are centred on their sample, the signal padded at its ends (default).
    pub fn center(mut self, center: bool) -> Self {
        self.center = center;
        self
    }

    /// How the ends of a signal are padded for centred frames (default reflected). [`stft`] only.
    pub fn pad_mode(mut self, mode: PadMode) -> Self {
        self.pad_mode = mode;
        self
    }

    /// How transforms are scaled.
    pub fn norm(mut self, norm: FftNorm) -> Self {
        self.norm = norm;
        self
    }

    /// Whether only the non-negative frequencies are kept (default for real signals).
    pub fn onesided(mut self, onesided: bool) -> Self {
        self.onesided = Some(onesided);
        self
    }

    fn check(&self, op: &'static str, n_fft: Option<i32>) -> Result<()> {
        let lengths = [n_fft, self.hop_length, self.win_length];
        if lengths.into_iter().flatten().any(|length| length <= 0) {
            return Err(Error::shape(op, "sizes and lengths must be positive"));
        }
        if self.win_length > n_fft && n_fft.is_some() {
            return Err(Error::shape(op, "the window is longer than the transform"));
        }
        Ok(())
    }
}

/// The short-time Fourier transform of signals `[.., T]`, with transforms of `n_fft` samples.
///
/// # Errors
/// [`Error::Shape`] if a length is not positive or an empty signal is to be padded; [`Error::Op`] if
/// the signal is too short.
pub fn stft(a: &Array, n_fft: i32, options: StftOptions<'_>) -> Result<Array> {
    options.check("stft", Some(n_fft))?;
    if options.center {
        let half = n_fft / 2;
        options.pad_mode.check("stft", a.dim(-1)?, half, half)?;
    }
    ffi::fft_stft(
        a,
        n_fft,
        options.hop_length,
        options.win_length,
        options.window,
        options.center,
        options.pad_mode.as_str(),
        options.norm as i32,
        options.onesided,
    )
}

/// The inverse of [`stft`], cut to `length` samples if given.
///
/// # Errors
/// [`Error::Shape`] if a length is not positive; [`Error::Op`] if the shapes do not fit.
pub fn istft(
    a: &Array,
    n_fft: Option<i32>,
    options: StftOptions<'_>,
    length: Option<i32>,
) -> Result<Array> {
    options.check("istft", n_fft)?;
    // MLX records an addition for each hop within a frame.
    const MOST_OVERLAP: i32 = 1 << 12;
    let points = n_fft.unwrap_or(a.dim(-1)?.saturating_mul(2));
    if options
        .hop_length
        .is_some_and(|hop| points / hop.max(1) > MOST_OVERLAP)
    {
        return Err(Error::shape(
            "istft",
            format!("more than {MOST_OVERLAP} frames of {points} points overlap"),
        ));
    }
    ffi::fft_istft(
        a,
        n_fft,
        options.hop_length,
        options.win_length,
        options.window,
        options.center,
        options.norm as i32,
        options.onesided,
        length,
    )
}
