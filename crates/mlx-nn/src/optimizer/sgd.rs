//! Stochastic gradient descent.

use mlx_core::Array;

use super::{Rule, Update};
use crate::{Error, Result};

/// Gradient descent, with momentum if asked for.
#[doc(alias = "SGD")]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sgd {
    /// How much of the last update is kept.
    pub momentum: f64,
    /// How much of the parameter is added to its gradient.
    pub weight_decay: f64,
    /// How much less of the gradient the momentum takes up.
    pub dampening: f64,
    /// Whether the momentum looks one step ahead.
    pub nesterov: bool,
}

impl Rule for Sgd {
    fn validate(&self) -> Result<()> {
        if self.nesterov && (self.momentum <= 0.0 || self.dampening != 0.0) {
            return Err(Error::invalid(
                "Sgd",
                "nesterov requires a momentum and no dampening",
            ));
        }
        Ok(())
    }

    fn slots(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let rate = update.rate()?;
        let gradient = update.regularized(self.weight_decay)?;
        if self.momentum <= 0.0 {
            return Ok((update.parameter - rate * gradient)?);
        }
        let taken = if self.dampening > 0.0 {
            1.0 - self.dampening
        } else {
            1.0
        };
        let v = ((update.slot("v")? * self.momentum)? + &gradient * taken)?;
        update.keep("v", v.clone());
        let change = if self.nesterov {
            (gradient + &v * self.momentum)?
        } else {
            v
        };
        Ok((update.parameter - rate * change)?)
    }
}
