//! Falcon-H1 ("Falcon-H1: A Family of Hybrid-Head Language Models", 2025): attention and Mamba 2
//! side by side in every layer, and a multiplier for everything.
//!
//! Follows transformers' `modeling_falcon_h1.py`. Like `mlx_lm/models/falcon_h1.py` of mlx-lm
//! 0.32.2 it folds the multipliers into the weights, but all of them: mlx-lm leaves out those of
//! the keys and values, and the groups of the gated norm.

use std::collections::BTreeSet;

use mlx_core::ops::misc::astype;
use mlx_core::ops::shape::{concatenate, expand_dims};
use mlx_core::{Array, Dtype};
use mlx_nn::activation::swiglu;
use mlx_nn::{
    Embedding, Linear, Mask, Module, RmsNorm, Rope, RopeParameters, RopeParametersField, Weights,
};
use serde::Deserialize;

use super::causal_conv::conv1d_from_torch;
use super::mamba2_mixer::{GatedNormConfig, Mixer, MixerConfig, SLOTS, TimeStepLimit};
use super::{heads, sanitize};
use crate::cache::{
    Attend, Cache, CacheList, CacheOptions, KindMasks, LayerCache, LayerKind, StateCache, as_list,
    as_state, attention_cache,
};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{Error, LanguageModel, Result};

/// The keys of `config.json` that shape a Falcon-H1 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub intermediate_size: i32,
    pub num_attention_heads: i32,
    pub num_key_value_heads: i32,
    #[serde(default)]
    pub head_dim: Option<i32>,
    pub rms_norm_eps: f32,
    pub vocab_size: i32,
    pub mamba_d_ssm: i32,
    pub mamba_n_heads: i32,
    pub mamba_d_head: i32,
    pub mamba_n_groups: i32,
    pub mamba_d_state: i32,
    pub mamba_d_conv: i32,
    #[serde(default = "default_mamba_conv_bias")]
    pub mamba_conv_bias: bool,
    #[serde(default)]
    pub mamba_proj_bias: bool,
    #[serde(default)]
    pub mamba_rms_norm: bool,
    #[serde(default = "default_mamba_norm_before_gate")]
    pub mamba_norm_before_gate: bool,
    #[serde(default)]
    pub time_step_limit: TimeStepLimit,
    #[serde(default)]
    pub attention_bias: bool,
    #[serde(default)]
    pub mlp_bias: bool,
    #[serde(default)]
    pub projectors_bias: bool,
    #[serde(default = "one")]
    pub attention_in_multiplier: f32,
    #[serde(default = "one")]
    pub attention_out_multiplier: f32,
    #[serde(default = "one")]
    pub embedding_multiplier: f32,
    #[serde(default = "one")]
    pub key_multiplier: f32,
    #[serde(default = "one")]
    pub lm_head_multiplier: f32,
    #[serde(default)]
    pub mlp_multipliers: Option<[f32; 2]>,
    #[serde(default = "one")]
    pub ssm_in_multiplier: f32,
    #[serde(default = "one")]
    pub ssm_out_multiplier: f32,
    #[serde(default)]
    pub ssm_multipliers: Option<[f32; 5]>,
    #[serde(default)]
    pub max_position_embeddings: Option<i32>,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub rope_theta: Option<f32>,
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    pub rope_parameters: Option<RopeParametersField>,
    #[serde(default)]
    pub tie_word_embeddings: bool,
}

fn one() -> f32 {
    1.0
}

fn default_mamba_conv_bias() -> bool {
    true
}

fn default_mamba_norm_before_gate() -> bool {
    true
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first field that is missing or unsupported.
    pub fn from_json(json: &ConfigMap) -> Result<Self> {
        let config: Self = config::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    fn validate(&self) -> Result<()> {
        config::positive("hidden_size", self.hidden_size)?;
        config::layers(self.num_hidden_layers)?;
        config::positive("intermediate_size", self.intermediate_size)?;
        config::positive("num_attention_heads", self.num_attention_heads)?;
        config::positive("num_key_value_heads", self.num_key_value_heads)?;
        config::positive("vocab_size", self.vocab_size)?;
        config::positive("head_dim", self.head_dim())?;
        config::heads(self.num_attention_heads, self.head_dim())?;
        config::divisible(
            "num_attention_heads",
            self.num_attention_heads,
            "num_key_value_heads",
            self.num_key_value_heads,
        )?;
        config::silu(&self.hidden_act)?;
        if self.embedding_multiplier == 0.0 {
            return Err(Error::config("embedding_multiplier", "must not be 0"));
        }
        let mixer = self.mixer();
        mixer.validate()?;
        if mixer.inner() != self.mamba_d_ssm {
            let message = format!(
                "is {}, but {} heads of {} make {}",
                self.mamba_d_ssm,
                self.mamba_n_heads,
                self.mamba_d_head,
                mixer.inner()
            );
            return Err(Error::config("mamba_d_ssm", message));
        }
        Ok(())
    }

    fn head_dim(&self) -> i32 {
        self.head_dim.unwrap_or_else(|| {
            self.hidden_size
                .checked_div(self.num_attention_heads)
                .unwrap_or(0)
        })
    }

    fn mixer(&self) -> MixerConfig {
        MixerConfig {
            hidden_size: self.hidden_size,
            num_heads: self.mamba_n_heads,
            head_dim: self.mamba_d_head,
            state_size: self.mamba_d_state,
            n_groups: self.mamba_n_groups,
            conv_kernel: self.mamba_d_conv,
            use_conv_bias: self.mamba_conv_bias,
            in_bias: self.mamba_proj_bias,
            out_bias: self.projectors_bias,
            time_step_limit: self.time_step_limit.0,
            norm: self.mamba_rms_norm.then_some(GatedNormConfig {
                eps: self.rms_norm_eps,
                groups: self.mamba_n_groups,
                norm_before_gate: self.mamba_norm_before_gate,
            }),
        }
    }

    fn rope(&self) -> Result<Rope> {
        let rope = config::RopeConfig {
            head_dim: self.head_dim(),
            theta: self.rope_theta,
            scaling: self.rope_scaling.as_ref(),
            parameters: self.rope_parameters.as_ref(),
            max_position_embeddings: self.max_position_embeddings,
            ..config::RopeConfig::default()
        };
        rope.build()
    }
}

#[derive(Debug, Module)]
struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    rope: Rope,
    num_attention_heads: i32,
    num_key_value_heads: i32,
    scale: f32,
}

impl Attention {
    fn new(config: &Config, rope: Rope) -> Result<Self> {
        let (dim, head_dim) = (config.hidden_size, config.head_dim());
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let bias = config.attention_bias;
        Ok(Self {
            q_proj: Linear::placeholder(dim, heads * head_dim, bias)?,
            k_proj: Linear::placeholder(dim, kv_heads * head_dim, bias)?,
            v_proj: Linear::placeholder(dim, kv_heads * head_dim, bias)?,
            o_proj: Linear::placeholder(heads * head_dim, dim, bias)?,
            rope,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            scale: config::attention_scale(head_dim),
        })
    }

    fn forward(&self, x: &Array, mask: &Mask, cache: &mut dyn LayerCache) -> Result<Array> {
        let queries = heads::split(&self.q_proj.forward(x)?, self.num_attention_heads)?;
        let keys = heads::split(&self.k_proj.forward(x)?, self.num_key_value_heads)?;
        let values = heads::split(&self.v_proj.forward(x)?, self.num_key_value_heads)?;
        let queries = self.rope.forward(&queries, cache.positions())?;
        let keys = self.rope.forward(&keys, cache.positions())?;
        let attend = Attend::new(self.scale, mask);
        let output = cache.attend(&queries, &keys, &values, attend)?;
        Ok(self.o_proj.forward(&heads::merge(&output)?)?)
    }
}

#[derive(Debug, Module)]
struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn new(config: &Config) -> Result<Self> {
        let (dim, hidden_dim) = (config.hidden_size, config.intermediate_size);
        let bias = config.mlp_bias;
        Ok(Self {
            gate_proj: Linear::placeholder(dim, hidden_dim, bias)?,
            up_proj: Linear::placeholder(dim, hidden_dim, bias)?,
            down_proj: Linear::placeholder(hidden_dim, dim, bias)?,
        })
    }

    fn forward(&self, x: &Array) -> Result<Array> {
        let hidden = swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?;
        Ok(self.down_proj.forward(&hidden)?)
    }
}

/// The parts of a layer's [`CacheList`].
const ATTENTION: usize = 0;
const MAMBA: usize = 1;

#[derive(Debug, Module)]
struct Block {
    self_attn: Attention,
    mamba: Mixer,
    feed_forward: Mlp,
    input_layernorm: RmsNorm,
    pre_ff_layernorm: RmsNorm,
}

impl Block {
    fn new(config: &Config, rope: Rope) -> Result<Self> {
        Ok(Self {
            self_attn: Attention::new(config, rope)?,
            mamba: Mixer::new(config.mixer())?,
            feed_forward: Mlp::new(config)?,
            input_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
            pre_ff_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
        })
    }

    fn forward(
        &self,
        x: &Array,
        mask: &Mask,
        tokens: Option<&Array>,
        cache: &mut dyn LayerCache,
    ) -> Result<Array> {
        let cache = as_list(cache)?;
        let normed = self.input_layernorm.forward(x)?;
        let mixed = self
            .mamba
            .forward(&normed, tokens, as_state(cache.part(MAMBA)?)?)?;
        let attended = self
            .self_attn
            .forward(&normed, mask, cache.part(ATTENTION)?)?;
        let x = ((x + mixed)? + attended)?;
        let transformed = self
            .feed_forward
            .forward(&self.pre_ff_layernorm.forward(&x)?)?;
        Ok((x + transformed)?)
    }
}

#[derive(Debug, Module)]
struct FalconH1 {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    final_layernorm: RmsNorm,
}

/// A Falcon-H1 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    model: FalconH1,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`] if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let rope = config.rope()?;
        let block = |_| Block::new(&config, rope.clone());
        let model = FalconH1 {
            embed_tokens: Embedding::placeholder(config.vocab_size, config.hidden_size)?,
            layers: (0..config.num_hidden_layers)
                .map(block)
                .collect::<Result<_>>()?,
            final_layernorm: RmsNorm::new(config.hidden_size, config.rms_norm_eps)?,
        };
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(Linear::placeholder(
                config.hidden_size,
                config.vocab_size,
                false,
            )?),
        };
        Ok(Self {
            model,
            lm_head,
            config,
        })
    }
}

impl LanguageModel for Model {
    fn embed(&self, tokens: &Array) -> Result<Array> {
        Ok(self.model.embed_tokens.forward(tokens)?)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        let layers = &self.model.layers;
        let mut x = input.embedded(|tokens| self.embed(tokens))?; // [B, L, D]
        let length = x.dim(1)?;
        let attention = KindMasks::new(cache, layers.iter().map(|_| LayerKind::Full), length)?;
        let recurrent = KindMasks::new(cache, layers.iter().map(|_| LayerKind::Recurrent), length)?;
        let (mask, tokens) = (attention.of(LayerKind::Full), recurrent.tokens());
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, mask, tokens, cache.as_mut())?;
        }
        Ok(self.model.final_layernorm.forward(&x)?)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        match &self.lm_head {
            Some(lm_head) => Ok(lm_head.forward(hidden)?),
            // The embeddings hold their own multiplier and not the head's.
            None => {
                let logits = self.model.embed_tokens.as_linear(hidden)?;
                let scale = self.config.lm_head_multiplier / self.config.embedding_multiplier;
                Ok((logits * scale)?)
            }
        }
    }

    fn make_cache(&self, options: &CacheOptions) -> Cache {
        let entry = |_: &Block| -> Box<dyn LayerCache> {
            let attention = attention_cache(None, options);
            let mamba = Box::new(StateCache::new(SLOTS));
            Box::new(CacheList::new(vec![attention, mamba]))
        };
        self.model.layers.iter().map(entry).collect()
    }

    fn vocab_size(&self) -> i32 {
        self.config.vocab_size
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        self.config.max_position_embeddings
    }
}

/// Drops what the model has no place for, and folds the multipliers into the weights of a
/// checkpoint in the published layout, which the order of the convolution's axes tells; one that
/// went through MLX has them folded in already.
///
/// # Errors
/// Fails if a convolution has too few axes, or a weight is packed with scales that are no
/// floating-point numbers.
pub fn sanitize(config: &Config, weights: &mut Weights) -> Result<()> {
    sanitize::tied_head(weights, config.tie_word_embeddings);
    if conv1d_from_torch(weights, ".mamba.conv1d.weight")? {
        fold_multipliers(config, weights)?;
    }
    Ok(())
}

fn fold_multipliers(config: &Config, weights: &mut Weights) -> Result<()> {
    let [gate, down] = config.mlp_multipliers.unwrap_or([1.0; 2]);
    let input = config.attention_in_multiplier;
    // What a projection's weight is multiplied with, and its bias: only a factor that applies to
    // the output reaches the bias.
    let factors: &[(&str, f32, f32)] = &[
        ("embed_tokens", config.embedding_multiplier, 1.0),
        ("lm_head", config.lm_head_multiplier, 1.0),
        ("q_proj", input, 1.0),
        (
            "k_proj",
            input * config.key_multiplier,
            config.key_multiplier,
        ),
        ("v_proj", input, 1.0),
        (
            "o_proj",
            config.attention_out_multiplier,
            config.attention_out_multiplier,
        ),
        (
            "out_proj",
            config.ssm_out_multiplier,
            config.ssm_out_multiplier,
        ),
        ("gate_proj", gate, gate),
        ("down_proj", down, down),
    ];
    let keys: Vec<String> = weights.keys().map(str::to_owned).collect();
    let packed: BTreeSet<String> = keys
        .iter()
        .filter_map(|key| Some(format!("{}.weight", key.strip_suffix(".scales")?)))
        .collect();
    let is_packed = |key: &str| packed.contains(key);
    let mixer = mixer_multipliers(config)?;
    for key in keys {
        let mut parts = key.rsplit('.');
        let (Some(part), Some(layer)) = (parts.next(), parts.next()) else {
            continue;
        };
        let found = factors.iter().find(|(name, _, _)| *name == layer);
        let factor = match (found, part) {
            // What packed codes stand for grows with their scales and offsets.
            (_, "weight") if is_packed(&key) => continue,
            (Some(&(_, weight, _)), "weight" | "scales" | "biases") => Array::scalar(weight)?,
            (Some(&(_, _, bias)), "bias") => Array::scalar(bias)?,
            (None, "weight" | "scales" | "biases") if layer == "in_proj" => {
                expand_dims(&(&mixer * config.ssm_in_multiplier)?, &[-1])?
            }
            (None, "bias") if layer == "in_proj" => mixer.clone(),
            _ => continue,
        };
        if let Some(weight) = weights.take(&key) {
            let dtype = weight.dtype();
            if !dtype.is_floating() {
                let message = format!("`{key}` is {dtype:?}, which multipliers do not fold into");
                return Err(Error::weights(message));
            }
            // A factor that is rounded to 16 bits first would be off in all of the weights.
            let folded = (astype(&weight, Dtype::Float32)? * factor)?;
            weights.insert(key, astype(&folded, dtype)?)?;
        }
    }
    Ok(())
}

/// One factor for each output of a mixer's `in_proj`: gate, values, B, C and time steps.
fn mixer_multipliers(config: &Config) -> Result<Array> {
    let groups_state = config.mamba_n_groups * config.mamba_d_state;
    let widths = [
        config.mamba_d_ssm,
        config.mamba_d_ssm,
        groups_state,
        groups_state,
        config.mamba_n_heads,
    ];
    let multipliers = config.ssm_multipliers.unwrap_or([1.0; 5]);
    let parts = widths.iter().zip(multipliers);
    let parts: Vec<Array> = parts
        .map(|(&width, multiplier)| Array::full::<f32>(&[width], multiplier))
        .collect::<mlx_core::Result<_>>()?;
    Ok(concatenate(&parts.iter().collect::<Vec<_>>(), 0)?)
}

#[cfg(test)]
mod tests {
    use mlx_core::ops::quantized::{QuantizationLayout, dequantize, quantize};

    use super::*;

    fn config() -> Result<Config> {
        let text = r#"{
            "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64,
            "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5,
            "vocab_size": 300, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8,
            "mamba_d_conv": 4, "mamba_n_groups": 2, "mamba_d_ssm": 64, "head_dim": 8,
            "key_multiplier": 0.7, "attention_in_multiplier": 0.8, "ssm_in_multiplier": 1.2,
            "ssm_multipliers": [0.5, 0.9, 0.8, 1.1, 0.6]
        }"#;
        Config::from_json(&serde_json::from_str(text).expect("an object"))
    }

    const KEYS: &str = "model.layers.0.self_attn.k_proj";
    const MIXER: &str = "model.layers.0.mamba.in_proj";

    /// A checkpoint in the published layout.
    fn published() -> Result<Weights> {
        let mut weights = Weights::new();
        for (path, rows) in [(KEYS, 16_u16), (MIXER, 168)] {
            let values: Vec<f32> = (0..rows * 32).map(|i| f32::from(i % 37) - 18.5).collect();
            let shape = [i32::from(rows), 32];
            weights.insert(
                format!("{path}.weight"),
                Array::from_slice::<f32>(&values, &shape)?,
            )?;
        }
        let kernel = Array::ones::<f32>(&[96, 1, 4])?;
        weights.insert("model.layers.0.mamba.conv1d.weight", kernel)?;
        Ok(weights)
    }

    #[test]
    fn multipliers_reach_the_scales_of_packed_weights() -> Result<()> {
        let (config, layout) = (config()?, QuantizationLayout::affine(32, 8));
        let mut dense = published()?;
        sanitize(&config, &mut dense)?;

        let mut packed = published()?;
        for path in [KEYS, MIXER] {
            let weight = packed.take(&format!("{path}.weight")).expect("a weight");
            let parts = quantize(&weight, layout)?;
            packed.insert(format!("{path}.weight"), parts.weight)?;
            packed.insert(format!("{path}.scales"), parts.scales)?;
            packed.insert(format!("{path}.biases"), parts.biases.expect("offsets"))?;
        }
        sanitize(&config, &mut packed)?;
        for path in [KEYS, MIXER] {
            let part = |part: &str| packed.get(&format!("{path}.{part}")).expect("a part");
            let (codes, scales) = (part("weight"), part("scales"));
            assert_eq!(codes.dtype(), Dtype::Uint32);
            let found = dequantize(codes, scales, Some(part("biases")), layout, None)?;
            let expected = dense.get(&format!("{path}.weight")).expect("a weight");
            let pairs = found
                .to_vec::<f32>()?
                .into_iter()
                .zip(expected.to_vec::<f32>()?);
            for (found, expected) in pairs {
                assert!((found - expected).abs() < 0.2, "{found} for {expected}");
            }
        }
        Ok(())
    }

    #[test]
    fn scales_that_are_no_numbers_are_refused() -> Result<()> {
        let mut weights = published()?;
        weights.insert(format!("{KEYS}.scales"), Array::ones::<u8>(&[16, 1])?)?;
        let error = sanitize(&config()?, &mut weights).expect_err("scales of mxfp4");
        assert!(error.to_string().contains("scales"), "{error}");
        Ok(())
    }
}
