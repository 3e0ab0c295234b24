//! Feed-forward blocks of experts.

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::floor_divide,
        indexing::take,
        misc::{argsort, stop_gradient},
        shape::{expand_dims, flatten, squeeze_axes, unflatten},
    },
};

use super::SwitchLinear;
use crate::{
    Error, Module, Result,
    activation::{gelu_approx, swiglu},
};

/// From this many choices on, sorting them by expert costs less than it saves.
const SORT_FROM: usize = 64;

/// A gated feed-forward block for each expert: `down(act(gate(x)) · up(x))`.
///
/// Keys: `gate_proj`, `up_proj` and `down_proj`, each a [`SwitchLinear`]. Where there are many
/// tokens they are sorted by expert first, so that each expert's weights are read once.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::SwitchGlu;
///
/// let experts = SwitchGlu::new(4, 16, 8, false)?;
/// let x = Array::ones::<f32>(&[2, 3, 4])?; // [B, L, D]
/// let chosen = Array::zeros::<u32>(&[2, 3, 2])?; // two experts for each token
/// assert_eq!(experts.forward(&x, &chosen)?.shape(), [2, 3, 2, 4]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct SwitchGlu {
    /// What decides how much of each feature passes, `[experts, hidden, in]`.
    pub gate_proj: SwitchLinear,
    /// What passes, `[experts, hidden, in]`.
    pub up_proj: SwitchLinear,
    /// The way back, `[experts, in, hidden]`.
    pub down_proj: SwitchLinear,
}

impl SwitchGlu {
    /// A block with fresh weights.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn new(input_dims: i32, hidden_dims: i32, num_experts: i32, bias: bool) -> Result<Self> {
        Ok(Self {
            gate_proj: SwitchLinear::new(input_dims, hidden_dims, num_experts, bias)?,
            up_proj: SwitchLinear::new(input_dims, hidden_dims, num_experts, bias)?,
            down_proj: SwitchLinear::new(hidden_dims, input_dims, num_experts, bias)?,
        })
    }

    /// A block that only knows its shapes, for a model that is about to be loaded.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn placeholder(
        input_dims: i32,
        hidden_dims: i32,
        num_experts: i32,
        bias: bool,
    ) -> Result<Self> {
        Ok(Self {
            gate_proj: SwitchLinear::placeholder(input_dims, hidden_dims, num_experts, bias)?,
            up_proj: SwitchLinear::placeholder(input_dims, hidden_dims, num_experts, bias)?,
            down_proj: SwitchLinear::placeholder(hidden_dims, input_dims, num_experts, bias)?,
        })
    }

    /// Runs the chosen experts of each token with SiLU as activation:
    /// `x [.., D]` and `indices [.., K] → [.., K, D]`.
    ///
    /// # Errors
    /// As [`SwitchLinear::forward`]; [`Error::InvalidArgument`] if `indices` has no axis.
    pub fn forward(&self, x: &Array, indices: &Array) -> Result<Array> {
        self.forward_with(x, indices, |up, gate| swiglu(gate, up))
    }

    /// [`forward`](Self::forward) with another activation, a function of `(up, gate)`.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and what `activation` reports.
    pub fn forward_with(
        &self,
        x: &Array,
        indices: &Array,
        activation: impl FnOnce(&Array, &Array) -> Result<Array>,
    ) -> Result<Array> {
        by_expert("SwitchGlu", x, indices, |x, indices, sorted| {
            let up = self.up_proj.forward(x, indices, sorted)?;
            let gate = self.gate_proj.forward(x, indices, sorted)?;
            self.down_proj
                .forward(&activation(&up, &gate)?, indices, sorted)
        })
    }
}

/// A feed-forward block of two layers for each expert: `fc2(act(fc1(x)))`.
///
/// Keys: `fc1` and `fc2`, each a [`SwitchLinear`].
#[derive(Debug, Clone, Module)]
pub struct SwitchMlp {
    /// `[experts, hidden, in]`
    pub fc1: SwitchLinear,
    /// `[experts, in, hidden]`
    pub fc2: SwitchLinear,
}

impl SwitchMlp {
    /// A block with fresh weights.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn new(input_dims: i32, hidden_dims: i32, num_experts: i32, bias: bool) -> Result<Self> {
        Ok(Self {
            fc1: SwitchLinear::new(input_dims, hidden_dims, num_experts, bias)?,
            fc2: SwitchLinear::new(hidden_dims, input_dims, num_experts, bias)?,
        })
    }

    /// A block that only knows its shapes, for a model that is about to be loaded.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive.
    pub fn placeholder(
        input_dims: i32,
        hidden_dims: i32,
        num_experts: i32,
        bias: bool,
    ) -> Result<Self> {
        Ok(Self {
            fc1: SwitchLinear::placeholder(input_dims, hidden_dims, num_experts, bias)?,
            fc2: SwitchLinear::placeholder(hidden_dims, input_dims, num_experts, bias)?,
        })
    }

    /// Runs the chosen experts of each token with tanh-approximated GELU as activation:
    /// `x [.., D]` and `indices [.., K] → [.., K, D]`.
    ///
    /// # Errors
    /// As [`SwitchLinear::forward`]; [`Error::InvalidArgument`] if `indices` has no axis.
    pub fn forward(&self, x: &Array, indices: &Array) -> Result<Array> {
        self.forward_with(x, indices, gelu_approx)
    }

    /// [`forward`](Self::forward) with another activation.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and what `activation` reports.
    pub fn forward_with(
        &self,
        x: &Array,
        indices: &Array,
        activation: impl FnOnce(&Array) -> Result<Array>,
    ) -> Result<Array> {
        by_expert("SwitchMlp", x, indices, |x, indices, sorted| {
            let hidden = activation(&self.fc1.forward(x, indices, sorted)?)?;
            self.fc2.forward(&hidden, indices, sorted)
        })
    }
}

/// Gives each token the two axes that experts need, sorts many of them by expert, and undoes both.
fn by_expert(
    layer: &'static str,
    x: &Array,
    indices: &Array,
    run: impl FnOnce(&Array, &Array, bool) -> Result<Array>,
) -> Result<Array> {
    let Some(&choices) = indices.shape().last() else {
        return Err(Error::invalid(layer, "`indices` has no axis of choices"));
    };
    let x = expand_dims(x, &[-2, -3])?; // [.., 1, 1, D]
    let chosen = stop_gradient(indices)?;
    if indices.size() < SORT_FROM {
        return Ok(squeeze_axes(&run(&x, &chosen, false)?, &[-2])?);
    }
    let flat = flatten(&chosen, 0, -1)?;
    let order = argsort(&flat, 0)?;
    let back = argsort(&order, 0)?;
    let token = floor_divide(
        &order,
        &Array::scalar_dtype(f64::from(choices), Dtype::Uint32)?,
    )?;
    let sorted_x = take(&flatten(&x, 0, -3)?, &token, 0)?; // [N · K, 1, D]
    let y = run(&sorted_x, &take(&flat, &order, 0)?, true)?;
    let y = unflatten(&take(&y, &back, 0)?, 0, indices.shape())?;
    Ok(squeeze_axes(&y, &[-2])?)
}
