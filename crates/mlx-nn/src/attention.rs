//! Attention over queries, keys and values, and its masks.

use mlx_core::{
    Array, Dtype,
    ops::{
        comparison::{greater_equal, less},
        fast::{self, AttentionMask},
        logical::logical_and,
        shape::expand_dims,
    },
};

use crate::{Error, Result};

/// Which keys a query may see.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Mask {
    /// All of them.
    #[default]
    None,
    /// Those up to its own position; the last query is aligned with the last key.
    Causal,
    /// Those where a boolean array is true, or by how much an array of the scores' dtype adds to
    /// them. Broadcast to `[B, heads, queries, keys]`.
    Array(Array),
}

impl Mask {
    /// The mask of `n` new positions after `offset` cached ones, of which each sees at most the
    /// last `window`; an array is built only where the fused kernels have no name for it.
    ///
    /// A single position with no window to leave needs no mask. With a window, the keys must
    /// cover all `offset + n` positions.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for negative lengths or an empty window.
    pub fn causal(n: i32, offset: i32, window: Option<i32>) -> Result<Self> {
        match window {
            Some(window) if n.saturating_add(offset) > window => {
                Ok(Self::Array(create_causal_mask(n, offset, Some(window))?))
            }
            _ if n == 1 => Ok(Self::None),
            _ => Ok(Self::Causal),
        }
    }
}

/// Computes `softmax(scale · Q Kᵀ + mask) V` without materialising the scores where the device
/// can: `[B, heads, L, D]`, `[B, kv_heads, S, D]`, `[B, kv_heads, S, Dv]` → `[B, heads, L, Dv]`.
///
/// `heads` must be a multiple of `kv_heads`, which are shared rather than repeated.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Mask, scaled_dot_product_attention};
///
/// let queries = Array::ones::<f32>(&[1, 4, 3, 8])?;
/// let keys = Array::ones::<f32>(&[1, 2, 3, 8])?;
/// let y = scaled_dot_product_attention(&queries, &keys, &keys, 0.35, &Mask::Causal)?;
/// assert_eq!(y.shape(), [1, 4, 3, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::Core`] if the shapes do not fit each other.
pub fn scaled_dot_product_attention(
    queries: &Array,
    keys: &Array,
    values: &Array,
    scale: f32,
    mask: &Mask,
) -> Result<Array> {
    let mask = match mask {
        Mask::None => AttentionMask::None,
        Mask::Causal => AttentionMask::Causal,
        Mask::Array(mask) => AttentionMask::Array(mask),
    };
    Ok(fast::scaled_dot_product_attention(
        queries, keys, values, scale, mask, None,
    )?)
}

/// The boolean mask `[n, offset + n]` that is true where query `offset + i` may see key `j`: at
/// `j ≤ offset + i`, and with a window only at the last `window` of those.
///
/// ```
/// let mask = mlx_nn::create_causal_mask(2, 1, Some(2))?;
/// assert_eq!(mask.to_vec::<bool>()?, [true, true, false, false, true, true]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] for negative lengths or an empty window.
pub fn create_causal_mask(n: i32, offset: i32, window: Option<i32>) -> Result<Array> {
    let invalid = |message| Err(Error::invalid("create_causal_mask", message));
    let Some(total) = n.checked_add(offset).filter(|_| n >= 0 && offset >= 0) else {
        return invalid(format!(
            "lengths must not be negative, found {n} after {offset}"
        ));
    };
    if let Some(window) = window.filter(|&window| window <= 0) {
        return invalid(format!("the window must be positive, found {window}"));
    }
    let positions =
        |start: i32| Array::arange_dtype(f64::from(start), f64::from(total), 1.0, Dtype::Int32);
    let queries = expand_dims(&positions(offset)?, &[1])?; // [n, 1]
    let keys = positions(0)?; // [total]
    let mask = greater_equal(&queries, &keys)?;
    match window {
        Some(window) => {
            let recent = less(&queries, &(&keys + window)?)?;
            Ok(logical_and(&mask, &recent)?)
        }
        None => Ok(mask),
    }
}
