//! Lion.

use mlx_core::{Array, ops::arithmetic::sign};

use super::{Rule, Slots, Step, check_betas, slot, zeros};
use crate::Result;

/// Steps by the sign of an average, from "Symbolic Discovery of Optimization Algorithms" (2023).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lion {
    /// How much of the average counts for the update, and how much of it is kept.
    pub betas: (f64, f64),
    /// The part of a parameter that a step with learning rate one takes away.
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.99),
            weight_decay: 0.0,
        }
    }
}

impl Rule for Lion {
    fn validate(&self) -> Result<()> {
        check_betas("Lion", self.betas)
    }

    fn init(&self, parameter: &Array) -> Result<Slots> {
        zeros(parameter, &["m"])
    }

    fn apply(
        &self,
        step: &Step,
        gradient: &Array,
        parameter: &Array,
        slots: &mut Slots,
    ) -> Result<Array> {
        let average = |m: &Array, beta: f64| -> Result<Array> {
            Ok(((m * beta)? + gradient * (1.0 - beta))?)
        };
        let m = slot(slots, "m")?;
        let direction = sign(&average(m, self.betas.0)?)?;
        let m = average(m, self.betas.1)?;
        slots.insert("m", m);
        let rate = step.rate(gradient)?;
        let parameter = if self.weight_decay > 0.0 {
            ((1.0 - &(&rate * self.weight_decay)?)? * parameter)?
        } else {
            parameter.clone()
        };
        Ok((parameter - rate * direction)?)
    }
}
