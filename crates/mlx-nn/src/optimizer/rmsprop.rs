//! RMSprop.

use mlx_core::{
    Array,
    ops::arithmetic::{sqrt, square},
};

use super::{Rule, Update, check_positive};
use crate::Result;

/// Divides gradients by a moving root mean square, from "Neural networks for machine learning",
/// lecture 6e (2012).
#[doc(alias = "RMSprop")]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsProp {
    /// How much of the moving mean square is kept.
    pub alpha: f64,
    /// Keeps the denominator from zero.
    pub eps: f64,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self {
            alpha: 0.99,
            eps: 1e-8,
        }
    }
}

impl Rule for RmsProp {
    fn validate(&self) -> Result<()> {
        check_positive("RmsProp", "alpha", self.alpha, true)?;
        check_positive("RmsProp", "eps", self.eps, false)
    }

    fn slots(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let v = update.average("v", &square(update.gradient)?, self.alpha)?;
        let change = ((update.rate()? * update.gradient)? / (sqrt(&v)? + self.eps))?;
        Ok((update.parameter - change)?)
    }
}
