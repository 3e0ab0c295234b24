//! Linear attention by the gated delta rule ("Gated Delta Networks: Improving Mamba2 with Delta
//! Rule", 2024), as Qwen3-Next and Qwen3.5 use it.
//!
//! Follows `mlx_lm/models/gated_delta.py` and `qwen3_next.py` of mlx-lm 0.32.2.

use mlx_core::ops::arithmetic::{exp, sigmoid};
use mlx_core::ops::fast::{gated_delta_update, rms_norm};
use mlx_core::ops::misc::astype;
use mlx_core::ops::shape::{reshape, split_at};
use mlx_core::{Array, Dtype};
use mlx_nn::Conv1d;
use mlx_nn::activation::{silu, softplus};

use super::causal_conv::{causal_conv, convolve};
use super::parts::three;
use crate::cache::StateCache;
use crate::{Error, Result, config};

/// The shape of the layer, under the names of `config.json`.
#[derive(Debug, Clone)]
pub(super) struct DeltaConfig {
    pub(super) hidden_size: i32,
    pub(super) linear_num_value_heads: i32,
    pub(super) linear_num_key_heads: i32,
    pub(super) linear_key_head_dim: i32,
    pub(super) linear_value_head_dim: i32,
    pub(super) linear_conv_kernel_dim: i32,
    pub(super) rms_norm_eps: f32,
}

impl DeltaConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let (key_heads, value_heads) = (self.linear_num_key_heads, self.linear_num_value_heads);
        config::positive("linear_num_key_heads", key_heads)?;
        config::positive("linear_num_value_heads", value_heads)?;
        config::positive("linear_key_head_dim", self.linear_key_head_dim)?;
        config::positive("linear_value_head_dim", self.linear_value_head_dim)?;
        config::positive("linear_conv_kernel_dim", self.linear_conv_kernel_dim)?;
        config::divisible(
            "linear_num_value_heads",
            value_heads,
            "linear_num_key_heads",
            key_heads,
        )?;
        config::heads(key_heads, self.linear_key_head_dim)?;
        config::heads(value_heads, self.linear_value_head_dim)
    }

    pub(super) fn key_dim(&self) -> i32 {
        self.linear_num_key_heads * self.linear_key_head_dim
    }

    pub(super) fn value_dim(&self) -> i32 {
        self.linear_num_value_heads * self.linear_value_head_dim
    }

    fn conv_dim(&self) -> i32 {
        self.key_dim()
            .saturating_mul(2)
            .saturating_add(self.value_dim())
    }
}

/// What a layer projects its input to, whatever the layout of its weights.
pub(super) struct Projected {
    /// Queries, keys and values side by side, `[B, L, 2 Dk Hk + Dv Hv]`.
    pub(super) qkv: Array,
    /// The gate of the output, `[B, L, Hv, Dv]`.
    pub(super) z: Array,
    /// The rate of change before its sigmoid, `[B, L, Hv]`.
    pub(super) b: Array,
    /// The decay before its softplus, `[B, L, Hv]`.
    pub(super) a: Array,
}

/// The part of a layer between its projections: convolution, recurrence and gated norm.
#[derive(Debug)]
pub(super) struct DeltaRule<'a> {
    pub(super) config: &'a DeltaConfig,
    pub(super) conv1d: &'a Conv1d,
    pub(super) dt_bias: &'a Array,
    pub(super) a_log: &'a Array,
    pub(super) norm: &'a Array,
}

/// The convolution's part of a layer's [`StateCache`].
const CONVOLUTION: usize = 0;
/// The recurrence's part.
const RECURRENCE: usize = 1;
/// Slots of the cache of one layer.
pub(super) const SLOTS: usize = 2;

impl DeltaRule<'_> {
    /// `[B, L, Dv Hv]`; `mask` (`[B, L]`) is true where a token is real.
    pub(super) fn run(
        &self,
        projected: &Projected,
        mask: Option<&Array>,
        state: &mut StateCache,
    ) -> Result<Array> {
        let config = self.config;
        let (batch, length) = (projected.qkv.dim(0)?, projected.qkv.dim(1)?);
        let mixed = convolve(self.conv1d, &projected.qkv, state, CONVOLUTION, mask)?;
        let mixed = silu(&mixed)?;
        let key_dim = config.key_dim();
        let [queries, keys, values] = three(split_at(&mixed, &[key_dim, 2 * key_dim], -1)?)?;
        let heads = |x: &Array, count: i32| reshape(x, &[batch, length, count, -1]);
        let (key_heads, value_heads) = (config.linear_num_key_heads, config.linear_num_value_heads);
        let scale = config::attention_scale(config.linear_key_head_dim);
        let queries = (unit(&heads(&queries, key_heads)?, scale)? * scale)?;
        let keys = unit(&heads(&keys, key_heads)?, scale)?;
        let values = heads(&values, value_heads)?;

        let decay = self.decay(&projected.a)?;
        let beta = sigmoid(&projected.b)?;
        let found = gated_delta_update(
            &queries,
            &keys,
            &values,
            &decay,
            &beta,
            state.get(RECURRENCE),
            mask,
        )?;
        let [y, last] = <[Array; 2]>::try_from(found)
            .map_err(|_| Error::weights("the gated delta rule gave no state".to_owned()))?;
        state.set(RECURRENCE, last)?;
        state.advance(length);

        // The gate works in 32 bits, as the norm does inside.
        let normed = rms_norm(&y, Some(self.norm), config.rms_norm_eps)?;
        let gate = silu(&astype(&projected.z, Dtype::Float32)?)?;
        let gated = (gate * astype(&normed, Dtype::Float32)?)?;
        let gated = astype(&gated, projected.qkv.dtype())?;
        Ok(reshape(&gated, &[batch, length, -1])?)
    }

    /// The part of the state that each token leaves of what came before, `[B, L, Hv]`, in 32 bits:
    /// it is raised to the power of the length of the text.
    fn decay(&self, a: &Array) -> Result<Array> {
        let rate = exp(&astype(self.a_log, Dtype::Float32)?)?;
        let step = softplus(&(astype(a, Dtype::Float32)? + self.dt_bias)?)?;
        Ok(exp(&(step * rate)?.negative()?)?)
    }
}

impl DeltaConfig {
    pub(super) fn convolution(&self) -> Result<Conv1d> {
        causal_conv(self.conv_dim(), self.linear_conv_kernel_dim, false)
    }
}

/// Scales the last axis to length one; `scale` is the inverse root of its width.
///
/// The published epsilon of 1e-6 is added to the sum of squares, `rms_norm` adds its own to their
/// mean.
fn unit(x: &Array, scale: f32) -> Result<Array> {
    Ok((rms_norm(x, None, 1e-6 * scale * scale)? * scale)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decay_is_computed_in_32_bits_of_a_model_of_16() -> Result<()> {
        let config = DeltaConfig {
            hidden_size: 8,
            linear_num_value_heads: 2,
            linear_num_key_heads: 1,
            linear_key_head_dim: 4,
            linear_value_head_dim: 4,
            linear_conv_kernel_dim: 4,
            rms_norm_eps: 1e-6,
        };
        let half = |values: &[f32]| -> Result<Array> {
            let values = Array::from_slice::<f32>(values, &[values.len()])?;
            Ok(astype(&values, Dtype::Bfloat16)?)
        };
        let (dt_bias, a_log, norm) = (
            half(&[-7.03, -5.02])?,
            half(&[0.5, -1.0])?,
            half(&[1.0; 4])?,
        );
        let rule = DeltaRule {
            config: &config,
            conv1d: &config.convolution()?,
            dt_bias: &dt_bias,
            a_log: &a_log,
            norm: &norm,
        };
        let a = half(&[0.0137, -0.0244])?;
        let found = rule.decay(&a)?;
        assert_eq!(found.dtype(), Dtype::Float32);

        let wide = |array: &Array| astype(array, Dtype::Float32)?.to_vec::<f32>();
        let inputs = wide(&a)?
            .into_iter()
            .zip(wide(&dt_bias)?)
            .zip(wide(&a_log)?);
        let expected = inputs.map(|((a, bias), log)| (-(a + bias).exp().ln_1p() * log.exp()).exp());
        for (found, expected) in found.to_vec::<f32>()?.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} for {expected}");
        }
        Ok(())
    }
}
