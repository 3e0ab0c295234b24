//! Normalisation layers.

mod batch_norm;
mod group_norm;
mod instance_norm;
mod layer_norm;
mod rms_norm;

use mlx_core::Array;

pub use batch_norm::BatchNorm;
pub use group_norm::GroupNorm;
pub use instance_norm::InstanceNorm;
pub use layer_norm::LayerNorm;
pub use rms_norm::RmsNorm;

use crate::{Error, Result};

/// Refuses an `eps` that does not keep the denominator from zero.
fn check_eps(layer: &'static str, eps: f32) -> Result<()> {
    if eps > 0.0 && eps.is_finite() {
        Ok(())
    } else {
        Err(Error::invalid(
            layer,
            format!("eps must be positive, found {eps}"),
        ))
    }
}

/// Applies factors and offsets where there are any.
fn affine(y: Array, weight: Option<&Array>, bias: Option<&Array>) -> Result<Array> {
    let y = match weight {
        Some(weight) => (y * weight)?,
        None => y,
    };
    match bias {
        Some(bias) => Ok((y + bias)?),
        None => Ok(y),
    }
}
