//! Attention with several heads.

use mlx_core::{
    Array, Dtype,
    ops::{
        comparison::less,
        misc::astype,
        shape::{expand_dims, flatten, transpose_axes, unflatten},
    },
};

use crate::{
    Error, Linear, Mask, Module, Result, linear::check_dims, scaled_dot_product_attention,
};

/// Projects queries, keys and values, attends with several heads, and projects the result.
///
/// Keys: `query_proj`, `key_proj`, `value_proj` and `out_proj`, each with `weight` and, if asked
/// for, `bias`.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Mask, MultiHeadAttention};
///
/// let attention = MultiHeadAttention::new(8, 2)?;
/// let x = Array::ones::<f32>(&[1, 5, 8])?;
/// assert_eq!(attention.forward(&x, &x, &x, &Mask::Causal)?.shape(), [1, 5, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Module)]
pub struct MultiHeadAttention {
    /// Makes the queries.
    pub query_proj: Linear,
    /// Makes the keys.
    pub key_proj: Linear,
    /// Makes the values.
    pub value_proj: Linear,
    /// Mixes the heads.
    pub out_proj: Linear,
    num_heads: i32,
}

/// The sizes of a [`MultiHeadAttention`] whose parts differ.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
#[must_use]
pub struct MultiHeadAttentionDims {
    /// All heads together, for queries and keys.
    pub dims: i32,
    /// The query input; `dims` by default.
    pub query_input: i32,
    /// The key input; `dims` by default.
    pub key_input: i32,
    /// The value input; `dims` by default.
    pub value_input: i32,
    /// All heads together, for values; `dims` by default.
    pub value: i32,
    /// The result; `dims` by default.
    pub output: i32,
    /// Whether the projections have a bias; they have none by default.
    pub bias: bool,
}

impl MultiHeadAttentionDims {
    /// The same size for all parts, without biases.
    pub const fn new(dims: i32) -> Self {
        Self {
            dims,
            query_input: dims,
            key_input: dims,
            value_input: dims,
            value: dims,
            output: dims,
            bias: false,
        }
    }
}

impl MultiHeadAttention {
    /// Fresh projections without biases, all of the same size.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a size is not positive or the heads do not divide it.
    pub fn new(dims: i32, num_heads: i32) -> Result<Self> {
        Self::with_dims(num_heads, MultiHeadAttentionDims::new(dims))
    }

    /// Fresh projections of the given sizes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if a size is not positive or the heads do not divide `dims` and
    /// `value`.
    pub fn with_dims(num_heads: i32, dims: MultiHeadAttentionDims) -> Result<Self> {
        check_dims("MultiHeadAttention", &[num_heads])?;
        if dims.dims % num_heads != 0 || dims.value % num_heads != 0 {
            let message = format!(
                "{num_heads} heads do not divide {} and {}",
                dims.dims, dims.value
            );
            return Err(Error::invalid("MultiHeadAttention", message));
        }
        Ok(Self {
            query_proj: Linear::new(dims.query_input, dims.dims, dims.bias)?,
            key_proj: Linear::new(dims.key_input, dims.dims, dims.bias)?,
            value_proj: Linear::new(dims.value_input, dims.value, dims.bias)?,
            out_proj: Linear::new(dims.value, dims.output, dims.bias)?,
            num_heads,
        })
    }

    /// `[B, L, Dq]`, `[B, S, Dk]`, `[B, S, Dv]` → `[B, L, output]`.
    ///
    /// # Errors
    /// [`Error::Core`] if the shapes do not fit.
    pub fn forward(
        &self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        mask: &Mask,
    ) -> Result<Array> {
        let queries = self.heads(&self.query_proj.forward(queries)?)?;
        let keys = self.heads(&self.key_proj.forward(keys)?)?;
        let values = self.heads(&self.value_proj.forward(values)?)?;
        let scale = crate::init::reciprocal_sqrt(queries.dim(-1)?);
        let output = scaled_dot_product_attention(&queries, &keys, &values, scale, mask)?;
        self.out_proj
            .forward(&flatten(&transpose_axes(&output, &[0, 2, 1, 3])?, -2, -1)?)
    }

    /// `[B, L, D] → [B, heads, L, D / heads]`
    fn heads(&self, x: &Array) -> Result<Array> {
        let split = unflatten(x, -1, &[self.num_heads, -1])?;
        Ok(transpose_axes(&split, &[0, 2, 1, 3])?)
    }

    /// A causal mask `[n, n]` to be added to scores: the lowest finite number of the dtype where
    /// a position may not look, else zero.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if `dtype` is not floating point.
    pub fn create_additive_causal_mask(n: i32, dtype: Dtype) -> Result<Array> {
        let lowest = match dtype {
            Dtype::Float16 => f64::from(mlx_core::f16::MIN),
            Dtype::Bfloat16 => f64::from(mlx_core::bf16::MIN),
            Dtype::Float32 => f64::from(f32::MIN),
            Dtype::Float64 => f64::MIN,
            other => {
                let value = format!("{other:?}");
                return Err(Error::Unsupported {
                    what: "mask dtype",
                    value,
                });
            }
        };
        let indices = Array::arange_dtype(0.0, f64::from(n), 1.0, Dtype::Int32)?;
        let hidden = less(&expand_dims(&indices, &[1])?, &expand_dims(&indices, &[0])?)?;
        Ok((astype(&hidden, dtype)? * Array::scalar_dtype(lowest, dtype))?)
    }
}
