//! Adam and its relatives.

use mlx_core::{
    Array, Dtype,
    ops::arithmetic::{abs, maximum, power, rsqrt, sqrt, square},
};

use super::{Rule, Slots, Step, check_betas, check_positive, slot, zeros};
use crate::Result;

/// Moving averages of gradient and squared gradient, from "Adam: A Method for Stochastic
/// Optimization" (2014).
///
/// Like Python MLX's, it leaves out the paper's bias correction unless asked for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// How much of the two averages is kept.
    pub betas: (f64, f64),
    /// Keeps the denominator from zero.
    pub eps: f64,
    /// Whether the averages are scaled up while they are young.
    pub bias_correction: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-8,
            bias_correction: false,
        }
    }
}

/// `beta · old + (1 − beta) · new`
fn average(old: &Array, new: &Array, beta: f64) -> Result<Array> {
    Ok(((old * beta)? + new * (1.0 - beta))?)
}

impl Rule for Adam {
    fn validate(&self) -> Result<()> {
        check_betas("Adam", self.betas)?;
        check_positive("Adam", "eps", self.eps, true)
    }

    fn init(&self, parameter: &Array) -> Result<Slots> {
        zeros(parameter, &["m", "v"])
    }

    fn apply(
        &self,
        step: &Step,
        gradient: &Array,
        parameter: &Array,
        slots: &mut Slots,
    ) -> Result<Array> {
        let m = average(slot(slots, "m")?, gradient, self.betas.0)?;
        let v = average(slot(slots, "v")?, &square(gradient)?, self.betas.1)?;
        let rate = step.rate(gradient)?;
        let update = if self.bias_correction {
            let number = step.number.astype(Dtype::Float32)?;
            let remaining = |beta: f64| -> Result<Array> {
                let powered = power(&Array::scalar_dtype(beta, Dtype::Float32)?, &number)?;
                Ok((1.0 - &powered)?)
            };
            let first = (&rate / remaining(self.betas.0)?)?.astype(gradient.dtype())?;
            let second = rsqrt(&remaining(self.betas.1)?)?.astype(gradient.dtype())?;
            let denominator = ((sqrt(&v)? * second)? + self.eps)?;
            ((first * &m)? / denominator)?
        } else {
            ((rate * &m)? / (sqrt(&v)? + self.eps))?
        };
        slots.extend([("m", m), ("v", v)]);
        Ok((parameter - update)?)
    }
}

/// [`Adam`] with weight decay of the parameter itself, from "Decoupled Weight Decay
/// Regularization" (2017).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// The settings it shares with Adam.
    pub adam: Adam,
    /// The part of a parameter that a step with learning rate one takes away.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            adam: Adam::default(),
            weight_decay: 0.01,
        }
    }
}

impl Rule for AdamW {
    fn validate(&self) -> Result<()> {
        self.adam.validate()
    }

    fn init(&self, parameter: &Array) -> Result<Slots> {
        self.adam.init(parameter)
    }

    fn apply(
        &self,
        step: &Step,
        gradient: &Array,
        parameter: &Array,
        slots: &mut Slots,
    ) -> Result<Array> {
        let kept = (1.0 - &(step.rate(gradient)? * self.weight_decay)?)?;
        self.adam.apply(step, gradient, &(parameter * kept)?, slots)
    }
}

/// [`Adam`] with the maximum in place of the second average, from the same paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adamax {
    /// How much of the average and of the maximum is kept.
    pub betas: (f64, f64),
    /// Keeps the denominator from zero.
    pub eps: f64,
}

impl Default for Adamax {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-8,
        }
    }
}

impl Rule for Adamax {
    fn validate(&self) -> Result<()> {
        check_betas("Adamax", self.betas)?;
        check_positive("Adamax", "eps", self.eps, true)
    }

    fn init(&self, parameter: &Array) -> Result<Slots> {
        zeros(parameter, &["m", "v"])
    }

    fn apply(
        &self,
        step: &Step,
        gradient: &Array,
        parameter: &Array,
        slots: &mut Slots,
    ) -> Result<Array> {
        let m = average(slot(slots, "m")?, gradient, self.betas.0)?;
        let v = maximum(&(slot(slots, "v")? * self.betas.1)?, &abs(gradient)?)?;
        let update = ((step.rate(gradient)? * &m)? / (&v + self.eps))?;
        slots.extend([("m", m), ("v", v)]);
        Ok((parameter - update)?)
    }
}
