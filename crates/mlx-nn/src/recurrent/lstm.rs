//! Long short-term memory.

use mlx_core::{
    Array,
    ops::{
        arithmetic::{sigmoid, tanh},
        shape::split,
    },
};

use super::{fresh, gru::gates, project, sequence, steps};
use crate::{Error, Module, Result, linear::check_dims};

/// Long short-term memory, from the paper of that name (1997).
///
/// Keys: `Wx [4·hidden, input]`, `Wh [4·hidden, hidden]` and, if there is one, `bias [4·hidden]`;
/// the gates are in the order input, forget, cell, output.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Lstm;
///
/// let layer = Lstm::new(3, 4, true)?;
/// let steps = layer.forward(&Array::ones::<f32>(&[2, 5, 3])?, None, None)?;
/// assert_eq!((steps.hidden.shape(), steps.cell.shape()), (&[2, 5, 4][..], &[2, 5, 4][..]));
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[doc(alias = "LSTM")]
#[derive(Debug, Clone, Module)]
pub struct Lstm {
    /// From the input.
    #[module(name = "Wx")]
    pub wx: Array,
    /// From the previous step.
    #[module(name = "Wh")]
    pub wh: Array,
    /// The offset.
    pub bias: Option<Array>,
}

/// Every step of an [`Lstm`].
#[derive(Debug, Clone)]
pub struct LstmSteps {
    /// The hidden states, `[.., T, hidden]`.
    pub hidden: Array,
    /// The cell states, `[.., T, hidden]`.
    pub cell: Array,
}

impl Lstm {
    /// A layer drawn uniformly from ±1 / √`hidden_size`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a size is not positive.
    pub fn new(input_size: i32, hidden_size: i32, bias: bool) -> Result<Self> {
        check_dims("Lstm", &[input_size, hidden_size])?;
        let gates = gates("Lstm", 4, hidden_size)?;
        Ok(Self {
            wx: fresh(hidden_size, &[gates, input_size])?,
            wh: fresh(hidden_size, &[gates, hidden_size])?,
            bias: bias.then(|| fresh(hidden_size, &[gates])).transpose()?,
        })
    }

    /// All states for `[.., T, input]`, starting from the given ones `[.., hidden]` or zeros.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is no step; [`Error::Core`] if the sizes do not fit.
    pub fn forward(
        &self,
        x: &Array,
        hidden: Option<&Array>,
        cell: Option<&Array>,
    ) -> Result<LstmSteps> {
        let inputs = project(x, &self.wx, self.bias.as_ref())?;
        let (mut hidden, mut cell) = (hidden.cloned(), cell.cloned());
        let (mut hidden_states, mut cell_states) = (Vec::new(), Vec::new());
        for input in steps("Lstm", &inputs)? {
            let sum = match &hidden {
                Some(hidden) => project(hidden, &self.wh, Some(&input))?,
                None => input,
            };
            let [input, forget, candidate, output]: [Array; 4] = split(&sum, 4, -1)?
                .try_into()
                .map_err(|_| Error::invalid("Lstm", "the gates have no four parts"))?;
            let mut next_cell = (sigmoid(&input)? * tanh(&candidate))?;
            if let Some(cell) = &cell {
                next_cell = ((sigmoid(&forget)? * cell)? + next_cell)?;
            }
            let next_hidden = (sigmoid(&output)? * tanh(&next_cell))?;
            hidden_states.push(next_hidden.clone());
            cell_states.push(next_cell.clone());
            (hidden, cell) = (Some(next_hidden), Some(next_cell));
        }
        Ok(LstmSteps {
            hidden: sequence(&hidden_states)?,
            cell: sequence(&cell_states)?,
        })
    }
}
