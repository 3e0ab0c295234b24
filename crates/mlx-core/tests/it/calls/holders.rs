//! Option types from an argument source: each holder owns what its options borrow.

use mlx_core::ops::conv::{self as ops_conv, ConvOptions};
use mlx_core::ops::quantized::QuantizationMode;
use mlx_core::ops::{comparison, fast, fft, misc, quantized, reduction, shape};
use mlx_core::{Array, Error, Result};

use super::Arguments;

/// A fixed number of integers.
pub(crate) fn fixed<const N: usize>(values: &[i32]) -> Result<[i32; N]> {
    values
        .try_into()
        .map_err(|_| Error::Unsupported(format!("{N} integers wanted, found {values:?}")))
}

/// Options that borrow nothing.
pub(crate) struct Plain<T>(T);

impl<T: Clone> Plain<T> {
    pub(crate) fn get(&self) -> T {
        self.0.clone()
    }
}

macro_rules! plain {
    ($($name:ident: $s:ident -> $type:ty = $read:expr;)*) => {$(
        pub(crate) struct $name;
        impl $name {
            pub(crate) fn read($s: &mut dyn Arguments, _: &str) -> Result<Plain<$type>> {
                Ok(Plain($read))
            }
        }
    )*};
}

plain! {
    ConvOptions1: s -> ConvOptions<1> = conv(s)?;
    ConvOptions2: s -> ConvOptions<2> = conv(s)?;
    ConvOptions3: s -> ConvOptions<3> = conv(s)?;
    ConvOptionsD: s -> ConvOptions<2> = conv(s)?;
    CloseOptions: s -> comparison::CloseOptions = comparison::CloseOptions::default()
        .rtol(s.f64("rtol")?)
        .atol(s.f64("atol")?)
        .equal_nan(s.bool("equal_nan")?);
    ConvolveMode: s -> ops_conv::ConvolveMode = match s.opt_text("mode")?.as_deref() {
        Some("same") => ops_conv::ConvolveMode::Same,
        Some("valid") => ops_conv::ConvolveMode::Valid,
        _ => ops_conv::ConvolveMode::Full,
    };
    FftNorm: s -> fft::FftNorm = norm(s)?;
    PadMode: s -> shape::PadMode = pad_mode(s, "mode")?.unwrap_or_default();
    ScanOptions: s -> reduction::ScanOptions = reduction::ScanOptions::default()
        .reverse(s.opt_bool("reverse")?.unwrap_or(false))
        .inclusive(s.opt_bool("inclusive")?.unwrap_or(true));
    SoftmaxOptions: s -> reduction::SoftmaxOptions =
        reduction::SoftmaxOptions::default().precise(s.bool("precise")?);
    UniqueOptions: s -> misc::UniqueOptions = misc::UniqueOptions::default()
        .index(s.bool("return_index")?)
        .inverse(s.bool("return_inverse")?)
        .counts(s.bool("return_counts")?);
    QuantizationLayout: s -> quantized::QuantizationLayout = quantized::QuantizationLayout {
        group_size: s.opt_int("group_size")?,
        bits: s.opt_int("bits")?,
        mode: s
            .opt_text("mode")?
            .and_then(|mode| QuantizationMode::from_name(&mode))
            .unwrap_or_default(),
    };
}

fn pad_mode(s: &mut dyn Arguments, name: &str) -> Result<Option<shape::PadMode>> {
    let mode = s.opt_text(name)?;
    Ok(mode.and_then(|mode| shape::PadMode::from_name(&mode)))
}

fn norm(s: &mut dyn Arguments) -> Result<fft::FftNorm> {
    Ok(match s.opt_text("norm")?.as_deref() {
        Some("ortho") => fft::FftNorm::Ortho,
        Some("forward") => fft::FftNorm::Forward,
        _ => fft::FftNorm::Backward,
    })
}

fn conv<const D: usize>(s: &mut dyn Arguments) -> Result<ConvOptions<D>> {
    let mut options = ConvOptions::default();
    if let Some(stride) = s.opt_ints("stride")? {
        options = options.stride(fixed(&stride)?);
    }
    if let Some(padding) = s.opt_ints("padding")? {
        options = options.padding(fixed(&padding)?);
    }
    if let (Some(low), Some(high)) = (s.opt_ints("padding_lo")?, s.opt_ints("padding_hi")?) {
        let (low, high) = (fixed::<D>(&low)?, fixed::<D>(&high)?);
        options = options.padding_sides(std::array::from_fn(|axis| (low[axis], high[axis])));
    }
    if let Some(dilation) = s.opt_ints("dilation")? {
        options = options.dilation(fixed(&dilation)?);
    }
    if let Some(dilation) = s.opt_ints("input_dilation")? {
        options = options.input_dilation(fixed(&dilation)?);
    }
    Ok(options
        .groups(s.opt_int("groups")?.unwrap_or(1))
        .flip(s.bool("flip")?))
}

pub(crate) struct StftOptions {
    window: Option<Array>,
    hop_length: Option<i32>,
    win_length: Option<i32>,
    center: Option<bool>,
    pad_mode: Option<shape::PadMode>,
    norm: fft::FftNorm,
    onesided: Option<bool>,
}

impl StftOptions {
    pub(crate) fn read(s: &mut dyn Arguments, _: &str) -> Result<Self> {
        Ok(StftOptions {
            window: s.opt_array("window")?,
            hop_length: s.opt_int("hop_length")?,
            win_length: s.opt_int("win_length")?,
            center: s.opt_bool("center")?,
            pad_mode: pad_mode(s, "pad_mode")?,
            norm: norm(s)?,
            onesided: s.opt_bool("onesided")?,
        })
    }

    pub(crate) fn get(&self) -> fft::StftOptions<'_> {
        let mut options = fft::StftOptions::default()
            .norm(self.norm)
            .pad_mode(self.pad_mode.unwrap_or(shape::PadMode::Reflect))
            .center(self.center.unwrap_or(true));
        if let Some(window) = &self.window {
            options = options.window(window);
        }
        if let Some(length) = self.hop_length {
            options = options.hop_length(length);
        }
        if let Some(length) = self.win_length {
            options = options.win_length(length);
        }
        if let Some(onesided) = self.onesided {
            options = options.onesided(onesided);
        }
        options
    }
}

pub(crate) struct RopeOptions {
    traditional: bool,
    base: Option<f32>,
    scale: Option<f32>,
    freqs: Option<Array>,
}

impl RopeOptions {
    pub(crate) fn read(s: &mut dyn Arguments, _: &str) -> Result<Self> {
        Ok(RopeOptions {
            traditional: s.bool("traditional")?,
            base: s.opt_f32("base")?,
            scale: s.opt_f32("scale")?,
            freqs: s.opt_array("freqs")?,
        })
    }

    pub(crate) fn get(&self) -> fast::RopeOptions<'_> {
        let mut options = fast::RopeOptions::default()
            .traditional(self.traditional)
            .scale(self.scale.unwrap_or(1.0));
        if let Some(base) = self.base {
            options = options.base(base);
        }
        if let Some(freqs) = &self.freqs {
            options = options.freqs(freqs);
        }
        options
    }
}

pub(crate) struct AttentionMask(Option<String>, Option<Array>);

impl AttentionMask {
    pub(crate) fn read(s: &mut dyn Arguments, _: &str) -> Result<Self> {
        Ok(AttentionMask(
            s.opt_text("mask_mode")?,
            s.opt_array("mask")?,
        ))
    }

    pub(crate) fn get(&self) -> fast::AttentionMask<'_> {
        match (self.0.as_deref(), &self.1) {
            (Some("causal"), _) => fast::AttentionMask::Causal,
            (_, Some(mask)) => fast::AttentionMask::Array(mask),
            _ => fast::AttentionMask::None,
        }
    }
}

pub(crate) struct GatherIndices {
    lhs: Option<Array>,
    rhs: Option<Array>,
    sorted: bool,
}

impl GatherIndices {
    pub(crate) fn read(s: &mut dyn Arguments, _: &str) -> Result<Self> {
        Ok(GatherIndices {
            lhs: s.opt_array("lhs_indices")?,
            rhs: s.opt_array("rhs_indices")?,
            sorted: s.bool("sorted_indices")?,
        })
    }

    pub(crate) fn get(&self) -> quantized::GatherIndices<'_> {
        quantized::GatherIndices {
            lhs: self.lhs.as_ref(),
            rhs: self.rhs.as_ref(),
            sorted: self.sorted,
        }
    }
}

pub(crate) struct QqmmScales {
    w: Option<Array>,
    global_x: Option<Array>,
    global_w: Option<Array>,
}

impl QqmmScales {
    pub(crate) fn read(s: &mut dyn Arguments, _: &str) -> Result<Self> {
        Ok(QqmmScales {
            w: s.opt_array("w_scales")?,
            global_x: s.opt_array("global_scale_x")?,
            global_w: s.opt_array("global_scale_w")?,
        })
    }

    pub(crate) fn get(&self) -> quantized::QqmmScales<'_> {
        quantized::QqmmScales {
            w: self.w.as_ref(),
            global_x: self.global_x.as_ref(),
            global_w: self.global_w.as_ref(),
        }
    }
}
