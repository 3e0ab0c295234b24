//! Adagrad.

use mlx_core::{
    Array,
    ops::arithmetic::{sqrt, square},
};

use super::{Rule, Update, check_positive};
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

    fn slots(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let v = (update.slot("v")? + square(update.gradient))?;
        let change = ((update.rate()? * update.gradient)? / (sqrt(&v)? + self.eps))?;
        update.keep("v", v);
        Ok((update.parameter - change)?)
    }
}
