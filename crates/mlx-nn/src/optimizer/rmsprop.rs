//! RMSprop.

use mlx_core::{
    Array,
    ops::arithmetic::{sqrt, square},
};

use super::{Rule, Slots, Step, check_positive, slot, zeros};
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

    fn init(&self, parameter: &Array) -> Result<Slots> {
        zeros(parameter, &["v"])
    }

    fn apply(
        &self,
        step: &Step,
        gradient: &Array,
        parameter: &Array,
        slots: &mut Slots,
    ) -> Result<Array> {
        let kept = (slot(slots, "v")? * self.alpha)?;
        let v = (kept + square(gradient)? * (1.0 - self.alpha))?;
        let update = ((step.rate(gradient)? * gradient)? / (sqrt(&v)? + self.eps))?;
        slots.insert("v", v);
        Ok((parameter - update)?)
    }
}
