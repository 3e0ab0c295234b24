//! Which values of an axis make up each new one, and with what weight.

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{abs, ceil, clip, divide, floor, maximum, round},
        comparison::{greater, greater_equal, less, less_equal},
        indexing::r#where,
        logical::logical_and,
    },
};

use crate::{Error, Result};

/// Indices along an axis, and the weight of the value at each.
pub(super) type Taps = Vec<(Array, Array)>;

/// The filters that antialiasing widens.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    Triangle,
    Cubic,
}

impl Kernel {
    const fn radius(self) -> f64 {
        match self {
            Self::Triangle => 1.0,
            Self::Cubic => 2.0,
        }
    }

    fn weigh(self, distance: &Array) -> Result<Array> {
        match self {
            Self::Triangle => Ok(maximum(&(1.0 - distance)?, &number(0.0)?)?),
            Self::Cubic => {
                let inner = cubic_inner(distance, -0.5)?;
                let outer = cubic_outer(distance, -0.5)?;
                let outer = r#where(&less_equal(distance, &number(2.0)?)?, &outer, &number(0.0)?)?;
                Ok(r#where(
                    &less_equal(distance, &number(1.0)?)?,
                    &inner,
                    &outer,
                )?)
            }
        }
    }
}

fn number(value: f64) -> Result<Array> {
    Ok(Array::scalar_dtype(value, Dtype::Float32)?)
}

/// ⌊factor · size⌋, if that is a size.
fn scaled_size(size: i32, factor: f64) -> Result<i32> {
    let scaled = (factor * f64::from(size)).floor();
    if scaled > f64::from(i32::MAX) {
        return Err(Error::invalid(
            "Upsample",
            format!("{factor} times {size} is too large"),
        ));
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
    let scaled = scaled as i32;
    Ok(scaled)
}

fn range(size: i32) -> Result<Array> {
    Ok(Array::arange_dtype(
        0.0,
        f64::from(size),
        1.0,
        Dtype::Float32,
    )?)
}

/// Where each new value lies among the old ones.
fn positions(size: i32, factor: f64, align_corners: bool) -> Result<Array> {
    let scaled = scaled_size(size, factor)?;
    let (old, new) = (f64::from(size), f64::from(scaled));
    if align_corners {
        return Ok((range(scaled)? * ((old - 1.0) / (new - 1.0).max(1.0)))?);
    }
    let step = 1.0 / factor;
    let start = ((new - 1.0) * step - old + 1.0) / 2.0;
    Ok(((range(scaled)? * step)? - start)?)
}

/// Positions as indices, moved into the axis.
fn indices(positions: &Array, size: i32) -> Result<Array> {
    let last = number(f64::from(size - 1))?;
    Ok(clip(positions, Some(&number(0.0)?), Some(&last))?.astype(Dtype::Uint32)?)
}

pub(super) fn nearest(size: i32, factor: f64) -> Result<Array> {
    let scaled = scaled_size(size, factor)?;
    let ratio = f64::from(size) / f64::from(scaled.max(1));
    let positions = if scaled > size {
        round(&(((range(scaled)? + 0.5)? * ratio)? - 0.5)?, 0)?
    } else {
        (range(scaled)? * ratio)?
    };
    indices(&positions, size)
}

pub(super) fn linear(size: i32, factor: f64, align_corners: bool) -> Result<Taps> {
    let positions = positions(size, factor, align_corners)?;
    let last = number(f64::from(size - 1))?;
    let positions = clip(&positions, Some(&number(0.0)?), Some(&last))?;
    let (left, right) = (floor(&positions)?, ceil(&positions)?);
    let weight = (&positions - &left)?;
    let other = (1.0 - &weight)?;
    Ok(vec![
        (indices(&left, size)?, other),
        (indices(&right, size)?, weight),
    ])
}

pub(super) fn cubic(size: i32, factor: f64, align_corners: bool) -> Result<Taps> {
    let positions = positions(size, factor, align_corners)?;
    let (left, right) = (floor(&positions)?, floor(&(&positions + 1.0)?)?);
    let (far_left, far_right) = ((&left - 1.0)?, (&right + 1.0)?);
    let distance = |grid: &Array| -> Result<Array> { Ok(abs(&(&positions - grid)?)?) };
    Ok(vec![
        (
            indices(&left, size)?,
            cubic_inner(&distance(&left)?, -0.75)?,
        ),
        (
            indices(&right, size)?,
            cubic_inner(&distance(&right)?, -0.75)?,
        ),
        (
            indices(&far_left, size)?,
            cubic_outer(&distance(&far_left)?, -0.75)?,
        ),
        (
            indices(&far_right, size)?,
            cubic_outer(&distance(&far_right)?, -0.75)?,
        ),
    ])
}

/// Keys' cubic within one step: `((a + 2) x − (a + 3)) x² + 1`.
fn cubic_inner(x: &Array, a: f64) -> Result<Array> {
    let slope = ((x * (a + 2.0))? - (a + 3.0))?;
    Ok((((slope * x)? * x)? + 1.0)?)
}

/// Keys' cubic between one and two steps: `(((x − 5) x + 8) x − 4) a`.
fn cubic_outer(x: &Array, a: f64) -> Result<Array> {
    let inner = (((x - 5.0)? * x)? + 8.0)?;
    Ok((((inner * x)? - 4.0)? * a)?)
}

pub(super) fn antialiased(size: i32, factor: f64, kernel: Kernel) -> Result<Taps> {
    let positions = positions(size, factor, false)?;
    let stretch = if factor < 1.0 { 1.0 / factor } else { 1.0 };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates; a filter wider than the axis is cut below"
    )]
    let reach = (kernel.radius() * stretch).ceil() as i32;
    let reach = reach.min(size.saturating_add(1)).saturating_add(1);
    let centre = floor(&positions)?;
    let mut taps = Vec::new();
    let mut sum: Option<Array> = None;
    for offset in 1 - reach..reach {
        let grid = (&centre + f64::from(offset))?;
        let distance = (abs(&(&positions - &grid)?)? / stretch)?;
        let inside = logical_and(
            &greater_equal(&grid, &number(0.0)?)?,
            &less(&grid, &number(f64::from(size))?)?,
        )?;
        let weight = r#where(&inside, &kernel.weigh(&distance)?, &number(0.0)?)?;
        sum = Some(match sum {
            Some(sum) => (sum + &weight)?,
            None => weight.clone(),
        });
        taps.push((grid, weight));
    }
    let Some(sum) = sum else {
        return Ok(Vec::new());
    };
    let sum = r#where(&greater(&sum, &number(0.0)?)?, &sum, &number(1.0)?)?;
    let normalized =
        |(grid, weight): (Array, Array)| Ok((indices(&grid, size)?, divide(&weight, &sum)?));
    taps.into_iter().map(normalized).collect()
}
