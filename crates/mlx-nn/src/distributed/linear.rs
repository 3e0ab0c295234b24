//! Linear layers of which each process holds a part.

use mlx_core::{
    Array,
    distributed::{Group, all_sum},
};

use super::{Segments, Sharding, shard_inplace, sum_gradients};
use crate::{
    Error, KeyPath, Linear, Module, Result, UnaryLayer, Visitor, VisitorMut, Weight, init,
};

/// Computes this process's outputs from an input that all have: `[.., in] → [.., out / N]`.
///
/// The gradient of the input is the sum over the processes. The weight may be dense or quantised.
/// Keys: `weight [out / N, in]` and `bias [out / N]`.
#[doc(alias = "QuantizedAllToShardedLinear")]
#[derive(Debug, Clone)]
pub struct AllToShardedLinear {
    part: Linear,
    group: Group,
}

/// Adds up what the processes compute from their parts of an input:
/// `[.., in / N] → [.., out]`, the same in all of them.
///
/// The weight may be dense or quantised. Keys: `weight [out, in / N]` and `bias [out]`.
#[doc(alias = "QuantizedShardedToAllLinear")]
#[derive(Debug, Clone)]
pub struct ShardedToAllLinear {
    part: Linear,
    group: Group,
}

impl AllToShardedLinear {
    /// A layer with fresh weights, from the thread's random key: each process needs a seed of its
    /// own.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive or the outputs do not divide
    /// among the processes.
    pub fn new(input_dims: i32, output_dims: i32, bias: bool, group: &Group) -> Result<Self> {
        let output_dims = divide("AllToShardedLinear", output_dims, group)?;
        Ok(Self {
            part: Linear::new(input_dims, output_dims, bias)?,
            group: group.clone(),
        })
    }

    /// This process's part of a whole layer.
    ///
    /// # Errors
    /// [`Error::Weight`] if the outputs do not divide among the processes, or the weight is not
    /// loaded or has an adapter.
    pub fn from_linear(linear: &Linear, segments: &Segments, group: &Group) -> Result<Self> {
        Ok(Self {
            part: cut(linear, Sharding::AllToSharded, segments, group)?,
            group: group.clone(),
        })
    }

    /// Runs the layer: `[.., in] → [.., out / N]`.
    ///
    /// # Errors
    /// [`Error::Core`] if the last axis of `x` is not `in` long.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.part.forward(&sum_gradients(x, &self.group)?)
    }
}

impl ShardedToAllLinear {
    /// A layer with fresh weights, from the thread's random key: each process needs a seed of its
    /// own. The bias, which is not cut, is the one that the first process draws; the processes
    /// must build their layers in the same order to agree on it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a dimension is not positive or the inputs do not divide among
    /// the processes; [`Error::Core`] if they cannot reach each other.
    pub fn new(input_dims: i32, output_dims: i32, bias: bool, group: &Group) -> Result<Self> {
        let part = divide("ShardedToAllLinear", input_dims, group)?;
        let mut part = Linear::new(part, output_dims, false)?;
        if let Weight::Dense(weight) = &mut part.weight {
            // The bound of a whole row, of which this is a part.
            *weight = (&*weight * (1.0 / f64::from(group.size())).sqrt())?;
        }
        if bias {
            let own = init::symmetric_uniform(init::reciprocal_sqrt(input_dims), &[output_dims])?;
            let first = if group.rank() == 0 {
                own
            } else {
                Array::zeros::<f32>(&[output_dims])?
            };
            let agreed = all_sum(&first, group)?;
            // Now, as the processes may come to use their layers in another order.
            agreed.eval()?;
            part.bias = Some(agreed);
        }
        Ok(Self {
            part,
            group: group.clone(),
        })
    }

    /// This process's part of a whole layer.
    ///
    /// # Errors
    /// [`Error::Weight`] if the inputs (in groups, for a quantised weight) do not divide among the
    /// processes, or the weight is not loaded or has an adapter.
    pub fn from_linear(linear: &Linear, segments: &Segments, group: &Group) -> Result<Self> {
        Ok(Self {
            part: cut(linear, Sharding::ShardedToAll, segments, group)?,
            group: group.clone(),
        })
    }

    /// Runs the layer: `[.., in / N] → [.., out]`.
    ///
    /// # Errors
    /// [`Error::Core`] if the last axis of `x` is not `in / N` long.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let part = self.part.weight.apply("ShardedToAllLinear", x, None)?;
        let y = all_sum(&part, &self.group)?;
        match &self.part.bias {
            Some(bias) => Ok((y + bias)?),
            None => Ok(y),
        }
    }
}

/// This process's part of a linear layer, as an [`AllToShardedLinear`] or a
/// [`ShardedToAllLinear`].
///
/// ```
/// use mlx_core::{Array, distributed::Group};
/// use mlx_nn::{Linear, distributed::{Segments, Sharding, shard_linear}};
///
/// let group = Group::alone()?;
/// let layer = Linear::new(8, 4, true)?;
/// let part = shard_linear(&layer, Sharding::AllToSharded, &Segments::default(), &group)?;
/// assert_eq!(part.forward(&Array::ones::<f32>(&[1, 8])?)?.shape(), [1, 4 / group.size()]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// As the layers' `from_linear`.
pub fn shard_linear(
    linear: &Linear,
    sharding: Sharding,
    segments: &Segments,
    group: &Group,
) -> Result<Box<dyn UnaryLayer>> {
    Ok(match sharding {
        Sharding::AllToSharded => {
            Box::new(AllToShardedLinear::from_linear(linear, segments, group)?)
        }
        Sharding::ShardedToAll => {
            Box::new(ShardedToAllLinear::from_linear(linear, segments, group)?)
        }
    })
}

fn cut(linear: &Linear, sharding: Sharding, segments: &Segments, group: &Group) -> Result<Linear> {
    let mut part = linear.clone();
    shard_inplace(&mut part, sharding, segments, group)?;
    Ok(part)
}

fn divide(layer: &'static str, dims: i32, group: &Group) -> Result<i32> {
    if dims % group.size() == 0 {
        return Ok(dims / group.size());
    }
    let message = format!("{dims} do not divide among {} processes", group.size());
    Err(Error::invalid(layer, message))
}

macro_rules! as_linear {
    ($($layer:ty),*) => {$(
        /// Visited as the layer whose part it is.
        impl Module for $layer {
            fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
                self.part.visit(path, visitor);
            }

            fn visit_mut(
                &mut self,
                path: &KeyPath<'_>,
                visitor: &mut dyn VisitorMut,
            ) -> Result<()> {
                self.part.visit_mut(path, visitor)
            }
        }

        impl UnaryLayer for $layer {
            fn forward(&self, x: &Array) -> Result<Array> {
                Self::forward(self, x)
            }
        }
    )*};
}

as_linear!(AllToShardedLinear, ShardedToAllLinear);
