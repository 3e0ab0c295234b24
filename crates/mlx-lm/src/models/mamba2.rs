//! Mamba 2 ("Transformers are SSMs: Generalized Models and Efficient Algorithms Through
//! Structured State Space Duality", 2024): no attention at all.
//!
//! Follows `mlx_lm/models/mamba2.py` of mlx-lm 0.32.2, and transformers for the gated norm, which works
//! by groups, and the epsilon of the blocks' norms.

use mlx_core::{Array, Dtype};
use mlx_nn::{Embedding, Linear, Module, RmsNorm, Weights};
use serde::Deserialize;

use super::causal_conv::conv1d_from_torch;
use super::mamba2_mixer::{GatedNormConfig, Mixer, MixerConfig, SLOTS, TimeStepLimit};
use super::sanitize;
use crate::cache::{Cache, CacheOptions, KindMasks, LayerCache, LayerKind, StateCache, as_state};
use crate::config;
use crate::registry::{ConfigMap, Input};
use crate::{LanguageModel, Result};

/// The keys of `config.json` that shape a Mamba 2 model.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "the fields are the configuration's keys")]
pub struct Config {
    pub hidden_size: i32,
    pub num_hidden_layers: i32,
    pub num_heads: i32,
    pub head_dim: i32,
    pub vocab_size: i32,
    pub state_size: i32,
    pub conv_kernel: i32,
    pub n_groups: i32,
    pub layer_norm_epsilon: f32,
    #[serde(default)]
    pub use_bias: bool,
    #[serde(default = "default_use_conv_bias")]
    pub use_conv_bias: bool,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default)]
    pub time_step_limit: TimeStepLimit,
    #[serde(default = "config::default_act")]
    pub hidden_act: String,
    #[serde(default)]
    pub ssm_state_size: Option<i32>,
    #[serde(default)]
    pub expand: Option<i32>,
    /// Whether what runs past the layers is kept in 32 bits.
    #[serde(default = "config::yes")]
    pub residual_in_fp32: bool,
}

fn default_use_conv_bias() -> bool {
    true
}

impl Config {
    /// Reads and validates the configuration.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) naming the first field that is missing or unsupported.
    pub fn from_json(json: &ConfigMap) -> Result<Self> {
        let config: Self = config::parse(json)?;
        config::positive("hidden_size", config.hidden_size)?;
        config::layers(config.num_hidden_layers)?;
        config::positive("vocab_size", config.vocab_size)?;
        config::silu(&config.hidden_act)?;
        config.mixer().validate()?;
        Ok(config)
    }

    fn mixer(&self) -> MixerConfig {
        MixerConfig {
            hidden_size: self.hidden_size,
            num_heads: self.num_heads,
            head_dim: self.head_dim,
            state_size: self.ssm_state_size.unwrap_or(self.state_size),
            n_groups: self.n_groups,
            conv_kernel: self.conv_kernel,
            use_conv_bias: self.use_conv_bias,
            in_bias: self.use_bias,
            out_bias: self.use_bias,
            time_step_limit: self.time_step_limit.0,
            norm: Some(GatedNormConfig {
                eps: self.layer_norm_epsilon,
                groups: self.n_groups,
                norm_before_gate: false,
            }),
        }
    }
}

#[derive(Debug, Module)]
struct Block {
    norm: RmsNorm,
    mixer: Mixer,
}

impl Block {
    /// Adds to `x`, in its dtype, what the mixer makes of it in `dtype`.
    fn forward(
        &self,
        x: &Array,
        dtype: Dtype,
        masks: &KindMasks,
        cache: &mut dyn LayerCache,
    ) -> Result<Array> {
        let normed = self.norm.forward(&x.astype(dtype)?)?;
        let mixed = self
            .mixer
            .forward(&normed, masks.tokens(), as_state(cache)?)?;
        Ok((x + mixed)?)
    }
}

#[derive(Debug, Module)]
struct Mamba2 {
    embeddings: Embedding,
    layers: Vec<Block>,
    norm_f: RmsNorm,
}

/// A Mamba 2 model with its output head.
#[derive(Debug, Module)]
pub struct Model {
    backbone: Mamba2,
    lm_head: Option<Linear>,
    #[module(skip)]
    config: Config,
}

impl Model {
    /// Builds the model; its weights are placeholders until they are loaded.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a value is unsupported.
    pub fn new(config: Config) -> Result<Self> {
        let (dim, eps) = (config.hidden_size, config.layer_norm_epsilon);
        let block = |_| -> Result<Block> {
            Ok(Block {
                norm: RmsNorm::new(dim, eps)?,
                mixer: Mixer::new(config.mixer())?,
            })
        };
        let backbone = Mamba2 {
            embeddings: Embedding::placeholder(config.vocab_size, dim)?,
            layers: (0..config.num_hidden_layers)
                .map(block)
                .collect::<Result<_>>()?,
            norm_f: RmsNorm::new(dim, eps)?,
        };
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(Linear::placeholder(dim, config.vocab_size, false)?),
        };
        Ok(Self {
            backbone,
            lm_head,
            config,
        })
    }
}

impl LanguageModel for Model {
    fn embed(&self, tokens: &Array) -> Result<Array> {
        Ok(self.backbone.embeddings.forward(tokens)?)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        let layers = &self.backbone.layers;
        let mut x = input.embedded(|tokens| self.embed(tokens))?; // [B, L, D]
        let kinds = layers.iter().map(|_| LayerKind::Recurrent);
        let masks = KindMasks::new(cache, kinds, x.dim(1)?)?;
        let dtype = x.dtype();
        if self.config.residual_in_fp32 {
            // Many small additions to one large sum vanish in 16 bits.
            x = x.astype(Dtype::Float32)?;
        }
        for (layer, cache) in layers.iter().zip(cache) {
            x = layer.forward(&x, dtype, &masks, cache.as_mut())?;
        }
        Ok(self.backbone.norm_f.forward(&x)?.astype(dtype)?)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        Ok(match &self.lm_head {
            Some(lm_head) => lm_head.forward(hidden)?,
            None => self.backbone.embeddings.as_linear(hidden)?,
        })
    }

    fn make_cache(&self, _options: &CacheOptions) -> Cache {
        let entry = |_: &Block| -> Box<dyn LayerCache> { Box::new(StateCache::new(SLOTS)) };
        self.backbone.layers.iter().map(entry).collect()
    }

    fn vocab_size(&self) -> i32 {
        self.config.vocab_size
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        None // The state does not grow with the text.
    }
}

/// Renames and drops weights so that exactly the model's own remain.
///
/// # Errors
/// Fails if a convolution has too few axes or two weights would end up under one key.
pub fn sanitize(config: &Config, weights: &mut Weights) -> Result<()> {
    conv1d_from_torch(weights, ".conv1d.weight")?;
    // The first releases and the later ones differ by one letter.
    weights.rename_with(|key| {
        let rest = key.strip_prefix("backbone.embedding.")?;
        Some(format!("backbone.embeddings.{rest}"))
    })?;
    sanitize::tied_head(weights, config.tie_word_embeddings);
    Ok(())
}

#[cfg(test)]
mod tests {
    use mlx_nn::{Descend, KeyPath, VisitorMut, Weight};

    use super::*;

    /// Gives a model weights of 16 bits.
    struct Halve;

    impl VisitorMut for Halve {
        fn parameter(&mut self, _: &KeyPath<'_>, array: &mut Array) -> mlx_nn::Result<()> {
            *array = array.astype(Dtype::Bfloat16)?;
            Ok(())
        }

        fn weight(&mut self, _: &KeyPath<'_>, weight: &mut Weight) -> mlx_nn::Result<Descend> {
            let dense = Array::full::<f32>(&weight.shape(), 0.1)?;
            *weight = Weight::Dense(dense.astype(Dtype::Bfloat16)?);
            Ok(Descend::Over)
        }
    }

    #[test]
    fn residuals_stay_in_32_bits_unless_the_configuration_says_otherwise() -> Result<()> {
        let text = r#"{
            "hidden_size": 8, "num_hidden_layers": 1, "num_heads": 2, "head_dim": 8, "vocab_size": 4,
            "state_size": 4, "conv_kernel": 4, "n_groups": 1, "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": true
        }"#;
        let json: ConfigMap = serde_json::from_str(text).expect("an object");
        let config = Config::from_json(&json)?;
        assert!(config.residual_in_fp32);

        let mut model = Model::new(config)?;
        model.visit_mut(&KeyPath::root(), &mut Halve)?;
        let layer = model.backbone.layers.first().expect("a layer");
        let mut cache = model.make_cache(&CacheOptions::default());
        let kinds = std::iter::once(LayerKind::Recurrent);
        let masks = KindMasks::new(&cache, kinds, 1)?;
        let x = Array::ones::<f32>(&[1, 1, 8])?;
        let entry = cache.first_mut().expect("an entry");
        let mut run = |x: &Array| layer.forward(x, Dtype::Bfloat16, &masks, entry.as_mut());
        assert_eq!(run(&x)?.dtype(), Dtype::Float32);
        let halved = x.astype(Dtype::Bfloat16)?;
        assert_eq!(run(&halved)?.dtype(), Dtype::Bfloat16);

        let tokens = Array::zeros::<u32>(&[1, 3])?;
        let mut cache = model.make_cache(&CacheOptions::default());
        assert_eq!(model.forward(&tokens, &mut cache)?.dtype(), Dtype::Bfloat16);
        Ok(())
    }
}
