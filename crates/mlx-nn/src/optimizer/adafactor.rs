//! Adafactor.

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::{divide, maximum, minimum, power, rsqrt, sqrt, square},
        reduction::{mean, mean_axes},
        shape::expand_dims,
    },
};

use super::{Rule, Slots, Step, Update, zeros};
use crate::Result;

/// Squared gradients kept as row and column means, from "Adafactor: Adaptive Learning Rates with
/// Sublinear Memory Cost" (2018).
///
/// The learning rate given to the optimizer counts only if `relative_step` is off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adafactor {
    /// Keeps squares and parameter scales from zero.
    pub eps: (f64, f64),
    /// The largest root mean square of an update.
    pub clip_threshold: f64,
    /// How fast past squares are forgotten, as an exponent of the step.
    pub decay_rate: f64,
    /// How much of past updates is kept, if any.
    pub beta_1: Option<f64>,
    /// The part of a parameter that a step with learning rate one takes away.
    pub weight_decay: f64,
    /// Whether steps are proportional to the size of the parameter.
    pub scale_parameter: bool,
    /// Whether the learning rate follows from the step.
    pub relative_step: bool,
    /// Whether that one starts small.
    pub warmup_init: bool,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self {
            eps: (1e-30, 1e-3),
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta_1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

impl Adafactor {
    fn rate(&self, step: &Step, parameter_rms: &Array) -> Result<Array> {
        let number = step.number.astype(Dtype::Float32)?;
        let size = if self.relative_step {
            let start = if self.warmup_init {
                (&number * 1e-6)?
            } else {
                Array::scalar_dtype(0.01, Dtype::Float32)?
            };
            minimum(&start, &rsqrt(&number)?)?
        } else {
            step.learning_rate.clone()
        };
        let size = size.astype(parameter_rms.dtype())?;
        if !self.scale_parameter {
            return Ok(size);
        }
        let floor = Array::scalar_dtype(self.eps.1, parameter_rms.dtype())?;
        Ok((maximum(&floor, parameter_rms)? * size)?)
    }
}

fn root_mean_square(x: &Array) -> Result<Array> {
    Ok(sqrt(&mean(&square(x)?, false)?)?)
}

impl Rule for Adafactor {
    fn init(&self, parameter: &Array) -> Result<Slots> {
        let shape = parameter.shape();
        let mut slots = match shape {
            [leading @ .., rows, columns] => {
                let zeros = |dim: i32| {
                    let shape = [leading, &[dim]].concat();
                    Array::zeros_dtype(&shape, parameter.dtype())
                };
                Slots::from([
                    ("exp_avg_sq_row", zeros(*rows)?),
                    ("exp_avg_sq_col", zeros(*columns)?),
                ])
            }
            _ => zeros(parameter, &["exp_avg_sq"])?,
        };
        if self.beta_1.is_some() {
            slots.extend(zeros(parameter, &["exp_avg"])?);
        }
        Ok(slots)
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let (gradient, parameter) = (update.gradient, update.parameter);
        let parameter_rms = root_mean_square(parameter)?;
        let rate = self.rate(update.step, &parameter_rms)?;
        let exponent = Array::scalar_dtype(self.decay_rate, Dtype::Float32)?;
        let forgotten = power(&update.step.number.astype(Dtype::Float32)?, &exponent)?;
        let kept = (1.0 - &forgotten.astype(parameter_rms.dtype())?)?;
        let new = (1.0 - &kept)?;
        let average =
            |old: &Array, x: &Array| -> Result<Array> { Ok(((&kept * old)? + &new * x)?) };
        let squares = (square(gradient)? + self.eps.0)?;
        let change = if gradient.ndim() >= 2 {
            let rows = average(
                update.slot("exp_avg_sq_row")?,
                &mean_axes(&squares, &[-1], false)?,
            )?;
            let columns = average(
                update.slot("exp_avg_sq_col")?,
                &mean_axes(&squares, &[-2], false)?,
            )?;
            let row_factor = rsqrt(&divide(&rows, &mean_axes(&rows, &[-1], true)?)?)?;
            let factors =
                (expand_dims(&row_factor, &[-1])? * expand_dims(&rsqrt(&columns)?, &[-2]))?;
            update.keep("exp_avg_sq_row", rows);
            update.keep("exp_avg_sq_col", columns);
            (factors * gradient)?
        } else {
            let squares = average(update.slot("exp_avg_sq")?, &squares)?;
            let change = (rsqrt(&squares)? * gradient)?;
            update.keep("exp_avg_sq", squares);
            change
        };
        let one = Array::scalar_dtype(1.0, change.dtype())?;
        let excess = maximum(&one, &(root_mean_square(&change)? / self.clip_threshold)?)?;
        let mut change = (&rate * (change / excess))?;
        if let Some(beta) = self.beta_1 {
            change = update.average("exp_avg", &change, beta)?;
        }
        let parameter = if self.weight_decay == 0.0 {
            parameter.clone()
        } else {
            (parameter + parameter * (rate * -self.weight_decay)?)?
        };
        Ok((parameter - change)?)
    }
}
