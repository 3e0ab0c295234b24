//! Lion.

use mlx_core::{Array, ops::arithmetic::sign};

use super::{Rule, Update, average, check_betas};
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

    fn slots(&self) -> &'static [&'static str] {
        &["m"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let direction = sign(&average(update.slot("m")?, update.gradient, self.betas.0)?)?;
        let _kept = update.average("m", update.gradient, self.betas.1)?;
        let decayed = update.decayed(self.weight_decay)?;
        Ok((decayed - update.rate()? * direction)?)
    }
}
