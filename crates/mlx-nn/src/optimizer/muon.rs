//! Muon.

use mlx_core::{
    Array,
    ops::{
        arithmetic::{sqrt, square},
        linalg_basic::{addmm, matmul},
        reduction::sum,
        shape::{reshape, transpose},
    },
};

use super::{Rule, Update};
use crate::Result;

/// Momentum whose matrices are brought close to orthogonal, from "Muon: An optimizer for hidden
/// layers in neural networks" (2024).
///
/// Parameters with fewer than two axes take the plain step; give them to another rule with
/// [`MultiOptimizer`](super::MultiOptimizer).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Muon {
    /// How much of the momentum is kept.
    pub momentum: f64,
    /// How much of the parameter is added to its gradient.
    pub weight_decay: f64,
    /// Whether the momentum looks one step ahead.
    pub nesterov: bool,
    /// The Newton–Schulz iterations of a step.
    pub ns_steps: u32,
}

impl Default for Muon {
    fn default() -> Self {
        Self {
            momentum: 0.95,
            weight_decay: 0.01,
            nesterov: true,
            ns_steps: 5,
        }
    }
}

impl Muon {
    /// Newton–Schulz iteration towards the closest semi-orthogonal matrix.
    fn orthogonalize(&self, matrix: &Array) -> Result<Array> {
        let (a, b, c) = (3.4445_f64, -4.775_f64, 2.0315_f32);
        let tall = matrix.dim(0)? > matrix.dim(1)?;
        let matrix = if tall {
            transpose(matrix)?
        } else {
            matrix.clone()
        };
        let norm = sqrt(&sum(&square(&matrix)?, true)?)?;
        let mut x = (matrix / (norm + 1e-7_f64))?;
        for _ in 0..self.ns_steps {
            let gram = matmul(&x, &transpose(&x)?)?;
            let polynomial = addmm(&(&gram * b)?, &gram, &gram, c, 1.0)?;
            x = addmm(&(&x * a)?, &polynomial, &x, 1.0, 1.0)?;
        }
        Ok(if tall { transpose(&x)? } else { x })
    }
}

impl Rule for Muon {
    fn slots(&self) -> &'static [&'static str] {
        &["v"]
    }

    fn apply(&self, update: &mut Update<'_>) -> Result<Array> {
        let gradient = update.regularized(self.weight_decay)?;
        let v = update.average("v", &gradient, self.momentum)?;
        let mut change = if self.nesterov {
            ((&gradient * (1.0 - self.momentum))? + &v * self.momentum)?
        } else {
            v
        };
        let (mut rate, parameter) = (update.rate()?, update.parameter);
        if let &[rows, .., last] = parameter.shape() {
            let flat = reshape(&change, &[rows, -1])?;
            change = reshape(&self.orthogonalize(&flat)?, &parameter.shape())?;
            // Python takes the ratio of the last two axes of the reshaped-back update.
            let second_last = parameter.dim(-2)?;
            let ratio = f64::from(second_last) / f64::from(last);
            rate = (rate * ratio.max(1.0).sqrt())?;
        }
        Ok((parameter - rate * change)?)
    }
}
