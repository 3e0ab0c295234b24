//! AdaDelta.

use mlx_core::{
    Array,
    ops::arithmetic::{sqrt, square},
};

use super::{Rule, Update, check_positive};
use crate::Result;

/// Scales gradients by the ratio of past updates to past gradients, from "ADADELTA: An Adaptive
/// Learning Rate Method" (2012).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaDelta {
    /// How much of the moving averages is kept.
    pub rho: f64,
    /// Keeps roots from zero.
    pub eps: f64,
}

impl Default for AdaDelta {
    fn default() -> Self {
        Self {
            rho: 0.9,
            eps: 1e-6,
        }
    }
}

impl Rule for AdaDelta {
    fn validate(&self) -> Result<()> {
        check_positive("AdaDelta", "rho", self.rho, true)?;
        check_positive("AdaDelta", "eps", self.eps, false)
    }

    fn slots(&self) -> &'static [&'static str] {
        &["v", "u"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let root = |x: &Array| -> Result<Array> { Ok(sqrt(&(x + self.eps)?)?) };
        let v = update.average("v", &square(update.gradient)?, self.rho)?;
        let change = ((root(update.slot("u")?)? / root(&v)?)? * update.gradient)?;
        let _kept = update.average("u", &square(&change)?, self.rho)?;
        Ok((update.parameter - update.rate()? * change)?)
    }
}
