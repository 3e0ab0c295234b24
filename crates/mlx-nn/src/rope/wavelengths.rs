//! The wavelengths of rotary positions, one for each pair of features, by kind.
//!
//! They are computed with array operations in 32-bit floats, in the order of MLX's Python models:
//! at position 100,000 the last bits of a wavelength decide the angle.

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{divide, maximum, minimum, power},
        comparison::{greater, less},
        indexing::r#where,
        logical::logical_and,
        shape::concatenate,
    },
};

use super::parameters::{Factors, RopeParameters, fraction, yarn_mscale};
use crate::{Error, Result};

/// `base^(2i / dims)` for the pairs `i` below `rotated / 2`.
pub(super) fn plain(base: f32, rotated: i32, dims: i32) -> Result<Array> {
    let exponents =
        (Array::arange_dtype(0.0, f64::from(rotated), 2.0, Dtype::Float32)? / f64::from(dims))?;
    Ok(power(&Array::scalar::<f32>(base)?, &exponents)?)
}

/// The plain wavelengths for a base that is only known on the device.
pub(super) fn plain_lazy(base: &Array, dims: i32) -> Result<Array> {
    let exponents =
        (Array::arange_dtype(0.0, f64::from(dims), 2.0, Dtype::Float32)? / f64::from(dims))?;
    Ok(power(base, &exponents)?)
}

pub(super) fn llama3(parameters: &RopeParameters, base: f32, dims: i32) -> Result<Array> {
    let factor = f64::from(RopeParameters::require("factor", parameters.factor)?);
    let low = f64::from(parameters.low_freq_factor.unwrap_or(1.0));
    let high = f64::from(parameters.high_freq_factor.unwrap_or(4.0));
    let context = f64::from(parameters.original_max_position_embeddings.unwrap_or(8192));
    if high <= low {
        let message = format!("`high_freq_factor` {high} must exceed `low_freq_factor` {low}");
        return Err(Error::invalid("Rope", message));
    }
    let number = |value: f64| Array::scalar_dtype(value, Dtype::Float32);
    let plain = plain(base, dims, dims)?;
    let wavelengths = (&plain * std::f64::consts::TAU)?;
    let is_long = greater(&wavelengths, &number(context / low)?)?;
    let is_medium = logical_and(
        &greater(&wavelengths, &number(context / high)?)?,
        &less(&wavelengths, &number(context / low)?)?,
    )?;
    let smooth = ((divide(&number(context)?, &wavelengths)? - low)? / (high - low))?;
    let blend = (((1.0_f32 - &smooth)? / factor)? + &smooth)?;
    let scaled = r#where(&is_long, &(&plain * factor)?, &plain)?;
    Ok(r#where(&is_medium, &divide(&plain, &blend)?, &scaled)?)
}

pub(super) fn yarn(
    parameters: &RopeParameters,
    base: f32,
    dims: i32,
    max_position_embeddings: Option<i32>,
) -> Result<Array> {
    let factor = f64::from(RopeParameters::require("factor", parameters.factor)?);
    let context = parameters
        .original_max_position_embeddings
        .or(max_position_embeddings)
        .map_or(4096.0, f64::from);
    let boundary = |rotations: f32| {
        let turns = f64::from(rotations) * std::f64::consts::TAU;
        f64::from(dims) * (context / turns).ln() / (2.0 * f64::from(base).ln())
    };
    let mut low = boundary(parameters.beta_fast.unwrap_or(32.0));
    let mut high = boundary(parameters.beta_slow.unwrap_or(1.0));
    if parameters.truncate.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    low = low.max(0.0);
    high = high.min(f64::from(dims - 1));
    if low == high {
        high += 0.001;
    }

    let kept = plain(base, dims, dims)?;
    let scaled = (&kept * factor)?;
    let ramp = Array::arange_dtype(0.0, f64::from(dims / 2), 1.0, Dtype::Float32)?;
    let ramp = ((ramp - low)? / (high - low))?;
    let number = |value: f64| Array::scalar_dtype(value, Dtype::Float32);
    let ramp = minimum(&maximum(&ramp, &number(0.0)?)?, &number(1.0)?)?;
    let keep = (1.0_f32 - &ramp)?;
    let blend = ((&scaled * &keep)? + (&kept * (1.0_f32 - &keep)?)?)?;
    Ok(divide(&(&scaled * &kept)?, &blend)?)
}

/// The amplification of the rotated features under yarn.
pub(super) fn yarn_amplification(parameters: &RopeParameters) -> Result<f32> {
    if let Some(factor) = parameters.attention_factor {
        return Ok(factor);
    }
    let factor = RopeParameters::require("factor", parameters.factor)?;
    let mscale = yarn_mscale(factor, parameters.mscale.unwrap_or(1.0));
    Ok(mscale / yarn_mscale(factor, parameters.mscale_all_dim.unwrap_or(0.0)))
}

/// Wavelengths and amplification up to, and beyond, the context of pretraining.
pub(super) struct LongRope {
    pub(super) short: (Array, f32),
    pub(super) long: (Array, f32),
    pub(super) context: i32,
}

pub(super) fn longrope(
    parameters: &RopeParameters,
    base: f32,
    dims: i32,
    max_position_embeddings: Option<i32>,
) -> Result<LongRope> {
    let context = RopeParameters::require(
        "original_max_position_embeddings",
        parameters.original_max_position_embeddings,
    )?;
    let extension = match (max_position_embeddings, parameters.factor) {
        (Some(longest), _) => f64::from(longest) / f64::from(context),
        (None, Some(factor)) => f64::from(factor),
        (None, None) => 1.0,
    };
    let amplification = parameters.attention_factor.unwrap_or_else(|| {
        if extension <= 1.0 {
            return 1.0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a factor near one")]
        let amplification = (1.0 + extension.ln() / f64::from(context).ln()).sqrt() as f32;
        amplification
    });
    let plain = plain(base, dims, dims)?;
    let scaled = |field, factors: &Option<Factors>| -> Result<Array> {
        match RopeParameters::require(field, factors.as_ref())? {
            Factors::One(factor) => Ok((&plain * *factor)?),
            Factors::Each(factors)
                if plain.shape() == [i32::try_from(factors.len()).unwrap_or(-1)] =>
            {
                Ok((Array::from_slice::<f32>(factors, &[factors.len()])? * &plain)?)
            }
            Factors::Each(factors) => {
                let message = format!(
                    "`{field}` has {} values for {} rotated features",
                    factors.len(),
                    dims
                );
                Err(Error::invalid("Rope", message))
            }
        }
    };
    Ok(LongRope {
        short: (
            scaled("short_factor", &parameters.short_factor)?,
            parameters.short_mscale.unwrap_or(amplification),
        ),
        long: (
            scaled("long_factor", &parameters.long_factor)?,
            parameters.long_mscale.unwrap_or(amplification),
        ),
        context,
    })
}

pub(super) fn proportional(parameters: &RopeParameters, base: f32, dims: i32) -> Result<Array> {
    let rotated = fraction(dims, parameters.partial_rotary_factor.unwrap_or(1.0));
    let rotated_wavelengths =
        (plain(base, rotated, dims)? * f64::from(parameters.factor.unwrap_or(1.0)))?;
    // An infinite wavelength is an angle of zero at every position.
    let still = Array::full::<f32>(&[(dims - rotated) / 2], f32::INFINITY)?;
    Ok(concatenate(&[&rotated_wavelengths, &still], 0)?)
}
