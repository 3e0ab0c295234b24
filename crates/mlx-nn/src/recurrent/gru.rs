//! The gated recurrent unit.

use mlx_core::{
    Array,
    ops::{
        arithmetic::{sigmoid, tanh},
        shape::{split, split_at},
    },
};

use super::{fresh, project, sequence, steps};
use crate::{Error, Module, Result, linear::check_dims};

/// A gated recurrent unit, from "Learning Phrase Representations using RNN Encoder-Decoder for
/// Statistical Machine Translation" (2014).
///
/// Keys: `Wx [3·hidden, input]`, `Wh [3·hidden, hidden]` and, with bias, `b [3·hidden]` and
/// `bhn [hidden]`; the gates are in the order reset, update, new.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Gru;
///
/// let layer = Gru::new(3, 4, true)?;
/// assert_eq!(layer.forward(&Array::ones::<f32>(&[2, 5, 3])?, None)?.shape(), [2, 5, 4]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[doc(alias = "GRU")]
#[derive(Debug, Clone, Module)]
pub struct Gru {
    /// From the input.
    #[module(name = "Wx")]
    pub wx: Array,
    /// From the previous step.
    #[module(name = "Wh")]
    pub wh: Array,
    /// The offset of all gates.
    pub b: Option<Array>,
    /// The offset of the recurrent part of the new gate.
    pub bhn: Option<Array>,
    hidden_size: i32,
}

impl Gru {
    /// A layer drawn uniformly from ±1 / √`hidden_size`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a size is not positive.
    pub fn new(input_size: i32, hidden_size: i32, bias: bool) -> Result<Self> {
        check_dims("Gru", &[input_size, hidden_size])?;
        let gates = gates("Gru", 3, hidden_size)?;
        Ok(Self {
            wx: fresh(hidden_size, &[gates, input_size])?,
            wh: fresh(hidden_size, &[gates, hidden_size])?,
            b: bias.then(|| fresh(hidden_size, &[gates])).transpose()?,
            bhn: bias
                .then(|| fresh(hidden_size, &[hidden_size]))
                .transpose()?,
            hidden_size,
        })
    }

    /// All hidden states: `[.., T, input] → [.., T, hidden]`, starting from `hidden [.., hidden]`
    /// or zeros.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no step; [`Error::Core`] if the sizes do not fit.
    pub fn forward(&self, x: &Array, hidden: Option<&Array>) -> Result<Array> {
        let inputs = project(x, &self.wx, self.b.as_ref())?;
        let mut hidden = hidden.cloned();
        let mut states = Vec::new();
        for input in steps("Gru", &inputs)? {
            let (mut reset_update, mut new) = self.parts(&input)?;
            let mut recurrent = self.bhn.clone();
            if let Some(hidden) = &hidden {
                let (gates, candidate) = self.parts(&project(hidden, &self.wh, None)?)?;
                reset_update = (reset_update + gates)?;
                recurrent = Some(match &recurrent {
                    Some(bias) => (candidate + bias)?,
                    None => candidate,
                });
            }
            let [reset, update] = halves(&sigmoid(&reset_update)?)?;
            if let Some(recurrent) = recurrent {
                new = (new + reset * recurrent)?;
            }
            let new = tanh(&new)?;
            let mut next = ((1.0 - &update)? * new)?;
            if let Some(hidden) = &hidden {
                next = (next + update * hidden)?;
            }
            states.push(next.clone());
            hidden = Some(next);
        }
        sequence(&states)
    }

    /// Reset and update together, and new: `[.., 3·hidden]` → `[.., 2·hidden]`, `[.., hidden]`.
    fn parts(&self, gates: &Array) -> Result<(Array, Array)> {
        let mut parts = split_at(gates, &[2 * self.hidden_size], -1)?.into_iter();
        match (parts.next(), parts.next()) {
            (Some(reset_update), Some(new)) => Ok((reset_update, new)),
            _ => Err(Error::invalid("Gru", "the gates have no two parts")),
        }
    }
}

/// `count · hidden`, if that is a size.
pub(super) fn gates(layer: &'static str, count: i32, hidden_size: i32) -> Result<i32> {
    hidden_size
        .checked_mul(count)
        .ok_or_else(|| Error::invalid(layer, format!("{hidden_size} features are too many")))
}

fn halves(gates: &Array) -> Result<[Array; 2]> {
    split(gates, 2, -1)?
        .try_into()
        .map_err(|_| Error::invalid("Gru", "the gates have no two halves"))
}
