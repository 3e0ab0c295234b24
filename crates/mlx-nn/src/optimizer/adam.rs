//! Adam and its relatives.

use mlx_core::{
    Array, Dtype,
    ops::arithmetic::{abs, maximum, power, rsqrt, sqrt, square},
};

use super::{Rule, Update, check_betas, check_positive};
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

impl Rule for Adam {
    fn validate(&self) -> Result<()> {
        check_betas("Adam", self.betas)?;
        check_positive("Adam", "eps", self.eps, true)
    }

    fn slots(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let dtype = update.gradient.dtype();
        let m = update.average("m", update.gradient, self.betas.0)?;
        let v = update.average("v", &square(update.gradient)?, self.betas.1)?;
        let rate = update.rate()?;
        let change = if self.bias_correction {
            let number = update.step.number.astype(Dtype::Float32)?;
            let remaining = |beta: f64| -> Result<Array> {
                let powered = power(&Array::scalar_dtype(beta, Dtype::Float32)?, &number)?;
                Ok((1.0 - &powered)?)
            };
            let first = (&rate / remaining(self.betas.0)?)?.astype(dtype)?;
            let second = rsqrt(&remaining(self.betas.1)?)?.astype(dtype)?;
            let denominator = ((sqrt(&v)? * second)? + self.eps)?;
            ((first * &m)? / denominator)?
        } else {
            ((rate * &m)? / (sqrt(&v)? + self.eps))?
        };
        Ok((update.parameter - change)?)
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

    fn slots(&self) -> &'static [&'static str] {
        self.adam.slots()
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let decayed = update.decayed(self.weight_decay)?;
        self.adam.apply(&mut update.with_parameter(&decayed))
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

    fn slots(&self) -> &'static [&'static str] {
        &["m", "v"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let m = update.average("m", update.gradient, self.betas.0)?;
        let v = maximum(&(update.slot("v")? * self.betas.1)?, &abs(update.gradient)?)?;
        let change = ((update.rate()? * &m)? / (&v + self.eps))?;
        update.keep("v", v);
        Ok((update.parameter - change)?)
    }
}
