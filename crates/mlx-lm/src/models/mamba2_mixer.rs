//! The state-space layer of Mamba 2 ("Transformers are SSMs", 2024), which several hybrids share.
//!
//! Follows `mlx_lm/models/ssm.py` and the mixers of mlx-lm 0.32.2, and transformers where a
//! gated norm works by groups.

use mlx_core::ops::arithmetic::{clip, exp};
use mlx_core::ops::fast::rms_norm;
use mlx_core::ops::indexing::slice;
use mlx_core::ops::linalg_basic::matmul;
use mlx_core::ops::misc::{astype, tril};
use mlx_core::ops::reduction::{ScanOptions, cumsum, sum_axes};
use mlx_core::ops::shape::{
    broadcast_to, concatenate, expand_dims, flatten, repeat_axis, reshape, split_at, swapaxes,
    unflatten,
};
use mlx_core::{Array, Dtype};
use mlx_nn::activation::{silu, softplus, swiglu};
use mlx_nn::{Conv1d, Linear, Module};
use serde::Deserialize;

use super::causal_conv::{causal_conv, convolve};
use super::parts::three;
use crate::cache::StateCache;
use crate::{Result, config};

/// Tokens that are mixed by one set of matrix products; the state carries over between sets.
const CHUNK: i32 = 256;

/// The shape of a mixer, under the names of `config.json`'s Mamba 2.
#[derive(Debug, Clone)]
pub(super) struct MixerConfig {
    pub(super) hidden_size: i32,
    pub(super) num_heads: i32,
    pub(super) head_dim: i32,
    pub(super) state_size: i32,
    pub(super) n_groups: i32,
    pub(super) conv_kernel: i32,
    pub(super) use_conv_bias: bool,
    pub(super) in_bias: bool,
    pub(super) out_bias: bool,
    pub(super) time_step_limit: (f32, f32),
    pub(super) norm: Option<GatedNormConfig>,
}

/// The norm between the scan and the way out.
#[derive(Debug, Clone)]
pub(super) struct GatedNormConfig {
    pub(super) eps: f32,
    /// Parts of the width that are normalised each by itself.
    pub(super) groups: i32,
    /// Whether the gate is applied to the normalised values, not before.
    pub(super) norm_before_gate: bool,
}

impl MixerConfig {
    /// Checks what the arithmetic below relies on.
    pub(super) fn validate(&self) -> Result<()> {
        config::positive("mamba num_heads", self.num_heads)?;
        config::positive("mamba head_dim", self.head_dim)?;
        config::positive("mamba state_size", self.state_size)?;
        config::positive("mamba n_groups", self.n_groups)?;
        config::positive("conv_kernel", self.conv_kernel)?;
        config::heads(self.num_heads, self.head_dim)?;
        config::heads(self.n_groups, self.state_size)?;
        config::divisible("mamba num_heads", self.num_heads, "n_groups", self.n_groups)?;
        if let Some(norm) = &self.norm {
            let width = self.inner();
            config::divisible("mamba intermediate size", width, "groups", norm.groups)?;
        }
        let (least, most) = self.time_step_limit;
        if least.is_nan() || most.is_nan() || least > most {
            return Err(crate::Error::config(
                "time_step_limit",
                format!("[{least}, {most}] is not a range"),
            ));
        }
        Ok(())
    }

    /// The width of the scan.
    pub(super) fn inner(&self) -> i32 {
        self.num_heads * self.head_dim
    }

    /// The widths of the two projections B and C.
    fn groups_state(&self) -> i32 {
        self.n_groups * self.state_size
    }

    fn conv_dim(&self) -> i32 {
        self.inner()
            .saturating_add(self.groups_state().saturating_mul(2))
    }
}

/// A norm whose input or output is gated by SiLU.
#[derive(Debug, Module)]
struct GatedNorm {
    weight: Array,
    eps: f32,
    groups: i32,
    norm_before_gate: bool,
}

impl GatedNorm {
    fn forward(&self, x: &Array, gate: &Array) -> Result<Array> {
        if self.norm_before_gate {
            return Ok(swiglu(gate, &self.norm(x)?)?);
        }
        self.norm(&swiglu(gate, x)?)
    }

    fn norm(&self, x: &Array) -> Result<Array> {
        if self.groups == 1 {
            return Ok(rms_norm(x, Some(&self.weight), self.eps)?);
        }
        let grouped = unflatten(x, -1, &[self.groups, -1])?;
        let normed = flatten(&rms_norm(&grouped, None, self.eps)?, -2, -1)?;
        Ok((&self.weight * normed)?)
    }
}

/// One Mamba 2 layer.
#[derive(Debug, Module)]
pub(super) struct Mixer {
    in_proj: Linear,
    conv1d: Conv1d,
    dt_bias: Array,
    #[module(name = "A_log")]
    a_log: Array,
    #[module(name = "D")]
    d: Array,
    norm: Option<GatedNorm>,
    out_proj: Linear,
    #[module(skip)]
    config: MixerConfig,
}

/// The convolution's part of a mixer's [`StateCache`].
const CONVOLUTION: usize = 0;
/// The scan's part.
const SCAN: usize = 1;
/// Slots of the cache of one mixer.
pub(super) const SLOTS: usize = 2;

impl Mixer {
    pub(super) fn new(config: MixerConfig) -> Result<Self> {
        config.validate()?;
        let heads = config.num_heads;
        let projections = config
            .inner()
            .saturating_add(config.conv_dim())
            .saturating_add(heads);
        let norm = match &config.norm {
            None => None,
            Some(norm) => Some(GatedNorm {
                weight: Array::ones::<f32>(&[config.inner()])?,
                eps: norm.eps,
                groups: norm.groups,
                norm_before_gate: norm.norm_before_gate,
            }),
        };
        Ok(Self {
            in_proj: Linear::placeholder(config.hidden_size, projections, config.in_bias)?,
            conv1d: causal_conv(config.conv_dim(), config.conv_kernel, config.use_conv_bias)?,
            dt_bias: Array::ones::<f32>(&[heads])?,
            a_log: Array::zeros::<f32>(&[heads])?,
            d: Array::ones::<f32>(&[heads])?,
            norm,
            out_proj: Linear::placeholder(config.inner(), config.hidden_size, config.out_bias)?,
            config,
        })
    }

    /// `[B, L, D] → [B, L, D]`; `mask` is true where a token is real.
    pub(super) fn forward(
        &self,
        x: &Array,
        mask: Option<&Array>,
        state: &mut StateCache,
    ) -> Result<Array> {
        let config = &self.config;
        let (batch, length) = (x.dim(0)?, x.dim(1)?);
        let (inner, groups_state) = (config.inner(), config.groups_state());
        let projected = self.in_proj.forward(x)?;
        let [gate, mixed, dt] = three(split_at(
            &projected,
            &[inner, inner + config.conv_dim()],
            -1,
        )?)?;

        let mixed = silu(&convolve(&self.conv1d, &mixed, state, CONVOLUTION, mask)?)?;
        let [x, b, c] = three(split_at(&mixed, &[inner, inner + groups_state], -1)?)?;
        let grouped = [batch, length, config.n_groups, config.state_size];
        let scan = Scan {
            x: reshape(&x, &[batch, length, config.num_heads, config.head_dim])?,
            dt: self.time_steps(&dt, mask)?,
            a: exp(&astype(&self.a_log, Dtype::Float32)?)?.negative()?,
            b: reshape(&b, &grouped)?,
            c: reshape(&c, &grouped)?,
        };
        let (y, last) = scan.run(state.get(SCAN).cloned())?;
        state.set(SCAN, last)?;
        state.advance(length);

        let skip = reshape(&astype(&self.d, scan.x.dtype())?, &[1, 1, -1, 1])?;
        let y = (astype(&y, scan.x.dtype())? + (&scan.x * skip)?)?;
        let y = reshape(&y, &[batch, length, inner])?;
        let y = match &self.norm {
            Some(norm) => norm.forward(&y, &gate)?,
            None => swiglu(&gate, &y)?,
        };
        Ok(self.out_proj.forward(&y)?)
    }

    /// The length of each token's step, `[B, L, H]` in 32 bits; padding takes none, so that it
    /// changes no state.
    fn time_steps(&self, dt: &Array, mask: Option<&Array>) -> Result<Array> {
        let dt = softplus(&(astype(dt, Dtype::Float32)? + &self.dt_bias)?)?;
        let (least, most) = self.config.time_step_limit;
        let dt = clip(
            &dt,
            Some(&Array::scalar(least)?),
            Some(&Array::scalar(most)?),
        )?;
        match mask {
            Some(mask) => {
                let real = astype(&expand_dims(mask, &[-1])?, Dtype::Float32)?;
                Ok((dt * real)?)
            }
            None => Ok(dt),
        }
    }
}

/// `state' = exp(a·dt) state + dt x ⊗ b`, `y = state' c`, for each head; `H / G` heads share
/// one `b` and `c`.
struct Scan {
    /// `[B, L, H, P]`
    x: Array,
    /// `[B, L, H]`, 32 bits
    dt: Array,
    /// `[H]`, negative, 32 bits
    a: Array,
    /// `[B, L, G, N]`
    b: Array,
    /// `[B, L, G, N]`
    c: Array,
}

impl Scan {
    /// The outputs `[B, L, H, P]` and the last state `[B, H, P, N]`, both in 32 bits.
    fn run(&self, state: Option<Array>) -> Result<(Array, Array)> {
        let (batch, length, heads) = (self.dt.dim(0)?, self.dt.dim(1)?, self.dt.dim(2)?);
        let shape = [batch, heads, self.x.dim(3)?, self.b.dim(3)?];
        let mut state = match state {
            Some(state) => state,
            None => Array::zeros::<f32>(&shape)?,
        };
        if length == 1 {
            return self.step(&state);
        }
        let mut outputs = Vec::new();
        let mut start = 0;
        while start < length {
            let stop = length.min(start.saturating_add(CHUNK));
            let (y, next) = self.span(start, stop)?.chunk(&state)?;
            outputs.push(y);
            state = next;
            start = stop;
        }
        let outputs: Vec<&Array> = outputs.iter().collect();
        Ok((concatenate(&outputs, 1)?, state))
    }

    /// Positions `start..stop`.
    fn span(&self, start: i32, stop: i32) -> Result<Self> {
        let cut = |x: &Array| -> Result<Array> {
            let mut starts = vec![0; x.ndim()];
            let mut stops = x.shape().to_vec();
            (starts[1], stops[1]) = (start, stop);
            Ok(slice(x, &starts, &stops)?)
        };
        Ok(Self {
            x: cut(&self.x)?,
            dt: cut(&self.dt)?,
            a: self.a.clone(),
            b: cut(&self.b)?,
            c: cut(&self.c)?,
        })
    }

    /// `b` or `c` with one entry for each head, `[B, H, L, N]`.
    fn per_head(&self, grouped: &Array) -> Result<Array> {
        let repeats = self.dt.dim(2)? / grouped.dim(2)?;
        let heads_first = swapaxes(&astype(grouped, Dtype::Float32)?, 1, 2)?;
        Ok(repeat_axis(&heads_first, repeats, 1)?)
    }

    /// A single token: the recurrence as it stands.
    fn step(&self, state: &Array) -> Result<(Array, Array)> {
        let decay = exp(&(&self.dt * &self.a)?)?; // [B, 1, H]
        let decay = expand_dims(&swapaxes(&decay, 1, 2)?, &[-1])?; // [B, H, 1, 1]
        let input = (expand_dims(&self.dt, &[-1])? * &self.x)?; // [B, 1, H, P]
        let input = expand_dims(&input.squeeze_axes(&[1])?, &[-1])?; // [B, H, P, 1]
        let state = (decay * state + (input * self.per_head(&self.b)?)?)?;
        let y = sum_axes(&(&state * self.per_head(&self.c)?)?, &[-1], false)?; // [B, H, P]
        Ok((expand_dims(&y, &[1])?, state))
    }

    /// Several tokens as attention with decaying weights, plus what the state before them adds.
    fn chunk(&self, state: &Array) -> Result<(Array, Array)> {
        let length = self.dt.dim(1)?;
        let decays = swapaxes(&(&self.dt * &self.a)?, 1, 2)?; // [B, H, L]
        let input = (expand_dims(&self.dt, &[-1])? * &self.x)?;
        let input = swapaxes(&input, 1, 2)?; // [B, H, L, P]
        let (b, c) = (self.per_head(&self.b)?, self.per_head(&self.c)?);

        let between = exp(&segment_sums(&decays)?)?; // [B, H, L, L]
        let weights = tril(&(matmul(&c, &swapaxes(&b, -1, -2)?)? * &between)?, 0)?;
        let since_start = exp(&cumsum(&decays, -1, ScanOptions::default())?)?; // [B, H, L]
        let since_start = expand_dims(&since_start, &[-1])?;
        let carried = matmul(&c, &swapaxes(state, -1, -2)?)?; // [B, H, L, P]
        let y = (matmul(&weights, &input)? + (carried * &since_start)?)?;

        let last = |x: &Array| -> Result<Array> {
            let mut starts = vec![0; x.ndim()];
            starts[2] = length - 1;
            Ok(slice(x, &starts, x.shape())?)
        };
        let until_end = swapaxes(&last(&between)?, -1, -2)?; // [B, H, L, 1]
        let added = matmul(&swapaxes(&(input * until_end)?, -1, -2)?, &b)?; // [B, H, P, N]
        let state = ((last(&since_start)? * state)? + added)?;
        Ok((swapaxes(&y, 1, 2)?, state))
    }
}

/// `[.., L] → [.., L, L]`: entry `(i, j)` is the sum of entries `j+1..=i`, for `j ≤ i`.
///
/// Summing each column by itself keeps the small differences that subtracting two long running
/// sums would lose.
fn segment_sums(x: &Array) -> Result<Array> {
    let length = x.dim(-1)?;
    let mut shape = x.shape().to_vec();
    shape.push(length);
    let repeated = broadcast_to(&expand_dims(x, &[-1])?, &shape)?;
    Ok(cumsum(&tril(&repeated, -1)?, -2, ScanOptions::default())?)
}

/// `time_step_limit`: the range of a token's step, by default without limits.
///
/// Python writes infinity in ways that JSON does not know, so a number may also be a string
/// (`"Infinity"`) or an object with one.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "(Bound, Bound)")]
pub struct TimeStepLimit(pub(super) (f32, f32));

impl Default for TimeStepLimit {
    fn default() -> Self {
        Self((0.0, f32::INFINITY))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Bound {
    Number(f32),
    Text(String),
    Tagged { __float__: String },
}

impl TryFrom<Bound> for f32 {
    type Error = String;

    fn try_from(bound: Bound) -> Result<Self, String> {
        match bound {
            Bound::Number(number) => Ok(number),
            Bound::Text(text) | Bound::Tagged { __float__: text } => text
                .parse()
                .map_err(|_| format!("`{text}` is not a number")),
        }
    }
}

impl TryFrom<(Bound, Bound)> for TimeStepLimit {
    type Error = String;

    fn try_from((least, most): (Bound, Bound)) -> Result<Self, String> {
        Ok(Self((least.try_into()?, most.try_into()?)))
    }
}
