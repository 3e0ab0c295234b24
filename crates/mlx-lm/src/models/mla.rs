//! Multi-head latent attention ("DeepSeek-V2", 2024): what is cached is one latent vector per token
//! and one rotated key that all heads share.
//!
//! The matrix that makes keys and values of a latent vector is kept in two parts. A single new token
//! goes into the latent space instead and attends there, so that no key or value of the past is ever
//! computed again.

use mlx_core::ops::indexing::{slice, r#where};
use mlx_core::ops::linalg_basic::matmul;
use mlx_core::ops::quantized::quantized_matmul;
use mlx_core::ops::shape::{contiguous, expand_dims, reshape, split_at, swapaxes};
use mlx_core::{Array, Dtype};
use mlx_nn::{
    LayerQuantization, Linear, Mask, Module, QuantMode, RmsNorm, Rope, Weight, Weights,
    create_causal_mask,
};

use super::heads;
use crate::cache::{Attend, LayerCache};
use crate::{Error, Result, config};

/// The shape of the attention.
#[derive(Debug, Clone)]
pub(super) struct MlaConfig {
    pub(super) hidden_size: i32,
    pub(super) num_attention_heads: i32,
    /// Queries come through a bottleneck of this width, or directly.
    pub(super) q_lora_rank: Option<i32>,
    pub(super) kv_lora_rank: i32,
    pub(super) qk_nope_head_dim: i32,
    pub(super) qk_rope_head_dim: i32,
    pub(super) v_head_dim: i32,
    pub(super) bias: bool,
    pub(super) scale: f32,
    pub(super) rope: Rope,
}

impl MlaConfig {
    /// Fails unless every width is positive.
    pub(super) fn validate(&self) -> Result<()> {
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("q_lora_rank", self.q_lora_rank.unwrap_or(1))?;
        for (field, width) in [
            ("kv_lora_rank", self.kv_lora_rank),
            ("qk_nope_head_dim", self.qk_nope_head_dim),
            ("qk_rope_head_dim", self.qk_rope_head_dim),
            ("v_head_dim", self.v_head_dim),
        ] {
            config::positive(field, width)?;
            config::heads(self.num_attention_heads, width)?;
        }
        Ok(())
    }
}

/// Attention in a latent space.
#[derive(Debug, Module)]
pub(super) struct MlaAttention {
    q_proj: Option<Linear>,
    q_a_proj: Option<Linear>,
    q_a_layernorm: Option<RmsNorm>,
    q_b_proj: Option<Linear>,
    kv_a_proj_with_mqa: Linear,
    kv_a_layernorm: RmsNorm,
    /// For each head `[kv_lora_rank, qk_nope_head_dim]`: a query goes into the latent space.
    embed_q: Linear,
    /// For each head `[v_head_dim, kv_lora_rank]`: what was attended to comes out of it.
    unembed_out: Linear,
    o_proj: Linear,
    #[module(skip)]
    config: MlaConfig,
}

impl MlaAttention {
    pub(super) fn new(config: MlaConfig) -> Result<Self> {
        let (dim, heads) = (config.hidden_size, config.num_attention_heads);
        let (rank, bias) = (config.kv_lora_rank, config.bias);
        let queries = heads * (config.qk_nope_head_dim + config.qk_rope_head_dim);
        let by_head = |output_dims, input_dims| Linear {
            weight: Weight::placeholder(&[heads, output_dims, input_dims]),
            bias: None,
        };
        let direct = config.q_lora_rank.is_none();
        let norm = |dims| RmsNorm::new(dims, 1e-6);
        Ok(Self {
            q_proj: direct
                .then(|| Linear::placeholder(dim, queries, false))
                .transpose()?,
            q_a_proj: config
                .q_lora_rank
                .map(|rank| Linear::placeholder(dim, rank, bias))
                .transpose()?,
            q_a_layernorm: config.q_lora_rank.map(norm).transpose()?,
            q_b_proj: config
                .q_lora_rank
                .map(|rank| Linear::placeholder(rank, queries, false))
                .transpose()?,
            kv_a_proj_with_mqa: Linear::placeholder(dim, rank + config.qk_rope_head_dim, bias)?,
            kv_a_layernorm: norm(rank)?,
            embed_q: by_head(rank, config.qk_nope_head_dim),
            unembed_out: by_head(config.v_head_dim, rank),
            o_proj: Linear::placeholder(heads * config.v_head_dim, dim, bias)?,
            config,
        })
    }

    pub(super) fn forward(
        &self,
        x: &Array,
        mask: &Mask,
        cache: &mut dyn LayerCache,
    ) -> Result<Array> {
        let config = &self.config;
        let length = x.dim(1)?;
        let queries = heads::split(&self.queries(x)?, config.num_attention_heads)?;
        let (q_nope, q_pe) = halves(&queries, config.qk_nope_head_dim)?;
        let compressed = self.kv_a_proj_with_mqa.forward(x)?;
        let (latent, k_pe) = halves(&compressed, config.kv_lora_rank)?;
        let latent = expand_dims(&self.kv_a_layernorm.forward(&latent)?, &[1])?; // [B, 1, L, R]
        let k_pe = heads::split(&k_pe, 1)?;

        let q_pe = config.rope.forward(&q_pe, cache.positions())?;
        let k_pe = config.rope.forward(&k_pe, cache.positions())?;
        let (latent, k_pe) = cache.update(&latent, &k_pe)?;

        // The rotated part of the scores goes in as a bias of the attention over the rest.
        let scores = matmul(&(q_pe * config.scale)?, &swapaxes(&k_pe, -1, -2)?)?;
        let scores = hide(&scores, mask, length)?;
        let biases = Mask::Array(scores);
        let attend = Attend::new(config.scale, &biases);
        let output = if length == 1 {
            let queries = self.embed_q.forward(&q_nope)?;
            let attended = attend.compute(&queries, &latent, &latent)?;
            self.unembed_out.forward(&attended)?
        } else {
            let keys = apply_transposed(&self.embed_q, &latent)?;
            let values = self.unembed_out.forward(&latent)?;
            attend.compute(&q_nope, &keys, &values)?
        };
        Ok(self.o_proj.forward(&heads::merge(&output)?)?)
    }

    fn queries(&self, x: &Array) -> Result<Array> {
        match (
            &self.q_proj,
            &self.q_a_proj,
            &self.q_a_layernorm,
            &self.q_b_proj,
        ) {
            (Some(direct), ..) => Ok(direct.forward(x)?),
            (None, Some(down), Some(norm), Some(up)) => {
                Ok(up.forward(&norm.forward(&down.forward(x)?)?)?)
            }
            _ => Err(Error::weights("queries have no projection")),
        }
    }
}

/// The first `width` features, and the others.
fn halves(x: &Array, width: i32) -> Result<(Array, Array)> {
    let mut parts = split_at(x, &[width], -1)?.into_iter();
    match (parts.next(), parts.next()) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err(Error::weights("a projection has no two parts")),
    }
}

/// Scores `[B, H, L, S]` with those that the mask hides set to the least value.
fn hide(scores: &Array, mask: &Mask, length: i32) -> Result<Array> {
    let mask = match mask {
        Mask::Array(mask) => mask.clone(),
        Mask::Causal => create_causal_mask(length, scores.dim(-1)? - length, None)?,
        _ => return Ok(scores.clone()),
    };
    if mask.dtype() != Dtype::Bool {
        return Ok((scores + mask)?);
    }
    let hidden = Array::scalar::<f32>(f32::NEG_INFINITY)?.astype(scores.dtype())?;
    Ok(r#where(&mask, scores, &hidden)?)
}

/// `x W`, where [`Linear::forward`] computes `x Wᵀ`.
fn apply_transposed(layer: &Linear, x: &Array) -> Result<Array> {
    match &layer.weight {
        Weight::Quantized(weight) => Ok(quantized_matmul(
            x,
            &weight.codes,
            &weight.scales,
            weight.biases.as_ref(),
            false,
            weight.quantization.into(),
        )?),
        weight => Ok(matmul(x, &weight.to_dense("MlaAttention")?)?),
    }
}

/// Parts the published `kv_b_proj` into `embed_q` and `unembed_out`, in every layer.
///
/// Of a quantised one, the second part keeps its codes; the first is transposed, which groups along
/// rows do not survive, and becomes dense.
pub(super) fn split_kv_b(weights: &mut Weights, config: &MlaConfig) -> Result<()> {
    let suffix = ".kv_b_proj.weight";
    let keys: Vec<String> = weights
        .keys()
        .filter(|key| key.ends_with(suffix))
        .map(str::to_owned)
        .collect();
    let nope = config.qk_nope_head_dim;
    let rows = nope + config.v_head_dim;
    for key in keys {
        let path = key.strip_suffix(suffix).unwrap_or_default().to_owned();
        let mut part = |name: &str| -> Result<Option<(Array, Array)>> {
            let Some(array) = weights.take(&format!("{path}.kv_b_proj.{name}")) else {
                return Ok(None);
            };
            let columns = array.dim(-1)?;
            if array.shape() != [config.num_attention_heads * rows, columns] {
                let message = format!(
                    "`{path}.kv_b_proj.{name}` has shape {:?}, not {} heads of {rows} rows",
                    array.shape(),
                    config.num_attention_heads
                );
                return Err(Error::weights(message));
            }
            let by_head = reshape(&array, &[config.num_attention_heads, rows, columns])?;
            let heads = config.num_attention_heads;
            let keys = slice(&by_head, &[0, 0, 0], &[heads, nope, columns])?;
            let values = slice(&by_head, &[0, nope, 0], &[heads, rows, columns])?;
            Ok(Some((keys, contiguous(&values, false)?)))
        };
        let codes = part("weight")?;
        let (scales, biases) = (part("scales")?, part("biases")?);
        let Some((keys, values)) = codes else {
            continue;
        };
        let keys = match &scales {
            None => keys,
            Some((scales, _)) => {
                let biases = biases.as_ref().map(|(biases, _)| biases);
                dequantized(&keys, scales, biases, config.kv_lora_rank)?
            }
        };
        let keys = contiguous(&swapaxes(&keys, -1, -2)?, false)?;
        weights.insert(format!("{path}.embed_q.weight"), keys)?;
        weights.insert(format!("{path}.unembed_out.weight"), values)?;
        for (name, array) in [("scales", scales), ("biases", biases)] {
            if let Some((_, values)) = array {
                weights.insert(format!("{path}.unembed_out.{name}"), values)?;
            }
        }
    }
    Ok(())
}

/// Codes of any mode as numbers; the arrays tell which mode it is.
fn dequantized(
    codes: &Array,
    scales: &Array,
    biases: Option<&Array>,
    columns: i32,
) -> Result<Array> {
    let (words, groups) = (codes.dim(-1)?, scales.dim(-1)?.max(1));
    let mut layer = LayerQuantization::new(match (biases, words * 32 / columns.max(1)) {
        (Some(_), _) => QuantMode::Affine,
        (None, 8) => QuantMode::Mxfp8,
        (None, _) if columns / groups == 16 => QuantMode::Nvfp4,
        (None, _) => QuantMode::Mxfp4,
    });
    layer.group_size = columns / groups;
    layer.bits = words * 32 / columns.max(1);
    let dtype = biases.map(Array::dtype);
    Ok(mlx_core::ops::quantized::dequantize(
        codes,
        scales,
        biases,
        layer.into(),
        dtype,
    )?)
}
