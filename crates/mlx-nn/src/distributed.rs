//! Layers and gradients spread over the processes of a [`Group`].
//!
//! | | what each process holds | what is exchanged |
//! |---|---|---|
//! | [`AllToShardedLinear`] | some rows of the weight | gradients of the input |
//! | [`ShardedToAllLinear`] | some columns | the sum of the outputs |
//! | [`FullySharded`] | a part of each parameter | parameters before, gradients after a pass |
//! | [`average_gradients`] | the whole model, a part of the batch | gradients |
//!
//! Every process runs the same program: the same layers in the same order. Weights that all hold
//! alike must begin alike, from the same file or seed.

mod average;
mod fully;
mod linear;
mod shard;

use mlx_core::{
    Array,
    distributed::{Group, all_sum},
};
use mlx_transforms::custom_vjp;

pub use average::{AverageOptions, average_gradients, clip_grad_norm_sharded};
pub use fully::FullySharded;
pub use linear::{AllToShardedLinear, ShardedToAllLinear, shard_linear};
pub use shard::{Segments, Sharding, shard_inplace, shard_with};

use crate::Result;

/// `x` itself, whose gradient is the sum of its gradients in all processes of `group`.
///
/// It stands where an array that all processes share enters what each computes for itself.
///
/// # Errors
/// [`Error::Core`](crate::Error::Core) if there is no memory left.
pub fn sum_gradients(x: &Array, group: &Group) -> Result<Array> {
    if group.size() == 1 {
        return Ok(x.clone());
    }
    let group = group.clone();
    let identity = custom_vjp(
        |xs| Ok(xs.to_vec()),
        move |_, cotangents, _| {
            let summed = cotangents
                .iter()
                .map(|cotangent| all_sum(cotangent, &group));
            summed.collect()
        },
    )?;
    let mut outputs = identity(std::slice::from_ref(x))?;
    Ok(outputs.pop().unwrap_or_else(|| x.clone()))
}

/// What all processes say about a number, agreed on: its largest value.
#[cfg(feature = "train")]
pub(crate) fn largest(number: i64, group: Option<&Group>) -> Result<i64> {
    match group {
        Some(group) => {
            let own = Array::scalar(number)?;
            Ok(mlx_core::distributed::all_max(&own, group)?.item::<i64>()?)
        }
        None => Ok(number),
    }
}

/// The mean of an array over the processes.
pub(crate) fn mean(array: &Array, group: Option<&Group>) -> Result<Array> {
    match group {
        Some(group) => Ok((all_sum(array, group)? / f64::from(group.size()))?),
        None => Ok(array.clone()),
    }
}
