//! Adagrad.

use mlx_core::{
    Array,
    ops::arithmetic::{sqrt, square},
};

use super::{Rule, Slots, Step, check_positive, slot, zeros};
use crate::Result;

/// Divides gradients by the root of all their squares so far, from "Adaptive Subgradient Methods
/// for Online Learning and Stochastic Optimization" (2011).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adagrad {
    /// Keeps the denominator from zero.
    pub eps: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self { eps: 1e-8 }
    }
}

impl Rule for Adagrad {
    fn validate(&self) -> Result<()> {
        check_positive("Adagrad", "eps", self.eps, false)
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
        let v = (slot(slots, "v")? + square(gradient))?;
        let update = ((step.rate(gradient)? * gradient)? / (sqrt(&v)? + self.eps))?;
        slots.insert("v", v);
        Ok((parameter - update)?)
    }
}
