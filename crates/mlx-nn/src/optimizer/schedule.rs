//! Learning rates that depend on the step.

use std::{f64::consts::PI, fmt, sync::Arc};

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{cos, floor, minimum, power},
        comparison::less,
        indexing::r#where,
    },
};

use crate::{Error, Result};

/// The learning rate at a step, which counts from zero.
///
/// Schedules are array computations, so that they can be part of a compiled training step. A
/// plain number is a constant one.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::optimizer::Schedule;
///
/// let warmup = Schedule::linear(0.0, 1e-1, 100)?;
/// let schedule = Schedule::join(vec![warmup, Schedule::cosine_decay(1e-1, 900, 0.0)?], vec![100])?;
/// let rate = |step: u64| schedule.at(&Array::scalar(step)?)?.item::<f32>();
/// assert_eq!((rate(0)?, rate(100)?, rate(1000)?), (0.0, 0.1, 0.0));
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Schedule {
    /// The same at every step.
    Constant(f32),
    /// `init · decay_rate ^ step`
    Exponential {
        /// The first rate.
        init: f64,
        /// The factor of a step.
        decay_rate: f64,
    },
    /// `init · decay_rate ^ ⌊step / step_size⌋`
    Stepwise {
        /// The first rate.
        init: f64,
        /// The factor of `step_size` steps.
        decay_rate: f64,
        /// How long a rate is kept.
        step_size: u32,
    },
    /// Half a cosine wave from `init` to `end`, then constant.
    Cosine {
        /// The first rate.
        init: f64,
        /// The length of the wave.
        decay_steps: u32,
        /// The last rate.
        end: f64,
    },
    /// A line from `init` to `end`, then constant.
    Linear {
        /// The first rate.
        init: f64,
        /// The last rate.
        end: f64,
        /// The length of the line.
        steps: u32,
    },
    /// One schedule after the other, each counting from its own start.
    Joined {
        /// At least one.
        schedules: Vec<Schedule>,
        /// Where the second, third, … begins.
        boundaries: Vec<u32>,
    },
    /// Any function of the step.
    Custom(CustomSchedule),
}

type Function = dyn Fn(&Array) -> Result<Array> + Send + Sync;

/// A function of the step, as [`Schedule::custom`] takes it. It equals its copies alone.
#[derive(Clone)]
pub struct CustomSchedule(Arc<Function>);

impl fmt::Debug for CustomSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomSchedule")
    }
}

impl PartialEq for CustomSchedule {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<f32> for Schedule {
    fn from(learning_rate: f32) -> Self {
        Self::Constant(learning_rate)
    }
}

impl Schedule {
    /// `init · decay_rate ^ step`
    #[must_use]
    pub const fn exponential_decay(init: f64, decay_rate: f64) -> Self {
        Self::Exponential { init, decay_rate }
    }

    /// `init · decay_rate ^ ⌊step / step_size⌋`
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `step_size` is zero.
    pub fn step_decay(init: f64, decay_rate: f64, step_size: u32) -> Result<Self> {
        at_least_one("step_size", step_size)?;
        Ok(Self::Stepwise {
            init,
            decay_rate,
            step_size,
        })
    }

    /// Half a cosine wave from `init` to `end`, then constant.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `decay_steps` is zero.
    pub fn cosine_decay(init: f64, decay_steps: u32, end: f64) -> Result<Self> {
        at_least_one("decay_steps", decay_steps)?;
        Ok(Self::Cosine {
            init,
            decay_steps,
            end,
        })
    }

    /// A line from `init` to `end`, then constant.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `steps` is zero.
    pub fn linear(init: f64, end: f64, steps: u32) -> Result<Self> {
        at_least_one("steps", steps)?;
        Ok(Self::Linear { init, end, steps })
    }

    /// One schedule after the other; `boundaries` says where the second, third, … begins.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no schedule or not one boundary less.
    pub fn join(schedules: Vec<Self>, boundaries: Vec<u32>) -> Result<Self> {
        if schedules.len() != boundaries.len() + 1 {
            let (found, expected) = (schedules.len(), boundaries.len());
            let message = format!("{found} schedules do not join at {expected} boundaries");
            return Err(Error::invalid("Schedule", message));
        }
        Ok(Self::Joined {
            schedules,
            boundaries,
        })
    }

    /// Any function of the step, which it gets as 32-bit floats of any shape, to a rate for each.
    ///
    /// It is traced in a compiled training step: it must compute with arrays and not read them.
    ///
    /// ```
    /// use mlx_core::{Array, ops::arithmetic::rsqrt};
    /// use mlx_nn::optimizer::Schedule;
    ///
    /// let schedule = Schedule::custom(|step| Ok(rsqrt(&(step + 1.0_f32)?)?));
    /// assert_eq!(schedule.at(&Array::scalar(3_u64)?)?.item::<f32>()?, 0.5);
    /// # Ok::<(), mlx_nn::Error>(())
    /// ```
    pub fn custom(rate: impl Fn(&Array) -> Result<Array> + Send + Sync + 'static) -> Self {
        Self::Custom(CustomSchedule(Arc::new(rate)))
    }

    /// The rate at `step`, a number from zero, as a 32-bit float.
    ///
    /// # Errors
    /// [`Error::Core`] if `step` is not a number; what a [custom](Self::custom) function reports.
    pub fn at(&self, step: &Array) -> Result<Array> {
        self.at_float(&step.astype(Dtype::Float32)?)
    }

    fn at_float(&self, step: &Array) -> Result<Array> {
        let number = |value: f64| Array::scalar_dtype(value, Dtype::Float32);
        match self {
            Self::Constant(rate) => Ok(Array::scalar(*rate)?),
            Self::Custom(rate) => Ok((rate.0)(step)?.astype(Dtype::Float32)?),
            Self::Exponential { init, decay_rate } => {
                Ok((power(&number(*decay_rate)?, step)? * *init)?)
            }
            Self::Stepwise {
                init,
                decay_rate,
                step_size,
            } => {
                let times = floor(&(step / f64::from(*step_size))?)?;
                Ok((power(&number(*decay_rate)?, &times)? * *init)?)
            }
            Self::Cosine {
                init,
                decay_steps,
                end,
            } => {
                let step = minimum(step, &number(f64::from(*decay_steps))?)?;
                let wave = cos(&(step * (PI / f64::from(*decay_steps)))?)?;
                let decay = ((wave + 1.0_f64)? * 0.5)?;
                Ok(((decay * (init - end))? + *end)?)
            }
            Self::Linear { init, end, steps } => {
                let step = minimum(step, &number(f64::from(*steps))?)?;
                Ok(((step * ((end - init) / f64::from(*steps)))? + *init)?)
            }
            Self::Joined {
                schedules,
                boundaries,
            } => {
                let mut parts = schedules.iter();
                let first = parts
                    .next()
                    .ok_or_else(|| Error::invalid("Schedule", "no schedule"))?;
                let mut rate = first.at_float(step)?;
                for (schedule, boundary) in parts.zip(boundaries) {
                    let boundary = number(f64::from(*boundary))?;
                    let next = schedule.at_float(&(step - &boundary)?)?;
                    rate = r#where(&less(step, &boundary)?, &rate, &next)?;
                }
                Ok(rate)
            }
        }
    }
}

fn at_least_one(name: &str, steps: u32) -> Result<()> {
    if steps == 0 {
        return Err(Error::invalid(
            "Schedule",
            format!("{name} must be positive"),
        ));
    }
    Ok(())
}
