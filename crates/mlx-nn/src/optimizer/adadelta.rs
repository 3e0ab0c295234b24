//! AdaDelta.

use mlx_core::{
    Array,
    ops::arithmetic::{sqrt, square},
};

use super::{Rule, Slots, Step, check_positive, slot, zeros};
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

    fn init(&self, parameter: &Array) -> Result<Slots> {
        zeros(parameter, &["v", "u"])
    }

    fn apply(
        &self,
        step: &Step,
        gradient: &Array,
        parameter: &Array,
        slots: &mut Slots,
    ) -> Result<Array> {
        let average = |old: &Array, new: &Array| -> Result<Array> {
            Ok(((old * self.rho)? + square(new)? * (1.0 - self.rho))?)
        };
        let root = |x: &Array| -> Result<Array> { Ok(sqrt(&(x + self.eps)?)?) };
        let v = average(slot(slots, "v")?, gradient)?;
        let u = slot(slots, "u")?;
        let update = ((root(u)? / root(&v)?)? * gradient)?;
        let u = average(u, &update)?;
        slots.extend([("v", v), ("u", u)]);
        Ok((parameter - step.rate(gradient)? * update)?)
    }
}
