//! The simple recurrent layer.

use mlx_core::Array;

use super::{fresh, project, sequence, steps};
use crate::{Activation, Module, Result, linear::check_dims};

/// `hₜ = φ(Wxh xₜ + Whh hₜ₋₁ + b)`, with the hyperbolic tangent as φ by default.
///
/// Keys: `Wxh [hidden, input]`, `Whh [hidden, hidden]` and, if there is one, `bias [hidden]`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Rnn;
///
/// let layer = Rnn::new(3, 4, true)?;
/// assert_eq!(layer.forward(&Array::ones::<f32>(&[2, 5, 3])?, None)?.shape(), [2, 5, 4]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[doc(alias = "RNN")]
#[derive(Debug, Clone, Module)]
pub struct Rnn {
    /// From the input.
    #[module(name = "Wxh")]
    pub wxh: Array,
    /// From the previous step.
    #[module(name = "Whh")]
    pub whh: Array,
    /// The offset.
    pub bias: Option<Array>,
    nonlinearity: Activation,
}

impl Rnn {
    /// A layer drawn uniformly from ±1 / √`hidden_size`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a size is not positive.
    pub fn new(input_size: i32, hidden_size: i32, bias: bool) -> Result<Self> {
        check_dims("Rnn", &[input_size, hidden_size])?;
        Ok(Self {
            wxh: fresh(hidden_size, &[hidden_size, input_size])?,
            whh: fresh(hidden_size, &[hidden_size, hidden_size])?,
            bias: bias
                .then(|| fresh(hidden_size, &[hidden_size]))
                .transpose()?,
            nonlinearity: Activation::Tanh,
        })
    }

    /// Replaces the hyperbolic tangent.
    #[must_use]
    pub fn nonlinearity(mut self, nonlinearity: Activation) -> Self {
        self.nonlinearity = nonlinearity;
        self
    }

    /// All hidden states: `[.., T, input] → [.., T, hidden]`, starting from `hidden [.., hidden]`
    /// or zeros.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if there is no step;
    /// [`Error::Core`](crate::Error::Core) if the sizes do not fit.
    pub fn forward(&self, x: &Array, hidden: Option<&Array>) -> Result<Array> {
        let inputs = project(x, &self.wxh, self.bias.as_ref())?;
        let mut hidden = hidden.cloned();
        let mut states = Vec::new();
        for input in steps("Rnn", &inputs)? {
            let sum = match &hidden {
                Some(hidden) => project(hidden, &self.whh, Some(&input))?,
                None => input,
            };
            let next = self.nonlinearity.forward(&sum)?;
            states.push(next.clone());
            hidden = Some(next);
        }
        sequence(&states)
    }
}
