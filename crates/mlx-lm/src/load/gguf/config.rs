//! The model's shape in a file's metadata, as a `config.json` would say it.

use mlx_core::io::gguf::{Metadata, Value as Stored, ValueArray};
use serde_json::{Value, json};

use super::architecture::Architecture;
use super::files::Files;
use crate::registry::ConfigMap;
use crate::{Error, Result};

pub(super) fn read(file: &Files, architecture: Architecture) -> Result<ConfigMap> {
    let reader = Reader {
        file,
        metadata: file.metadata(),
        architecture,
    };
    let mut config = reader.common()?;
    match architecture {
        Architecture::Llama => {
            let mlp_bias = file.contains("blk.0.ffn_gate.bias");
            set(&mut config, "attention_bias", reader.has_attention_bias());
            set(&mut config, "mlp_bias", mlp_bias);
        }
        Architecture::Mixtral => reader.experts(&mut config, "num_local_experts")?,
        Architecture::Qwen2 | Architecture::Qwen3 => {}
        Architecture::Qwen2Moe => reader.qwen_moe(&mut config, false)?,
        Architecture::Qwen3Moe => {
            set(&mut config, "attention_bias", reader.has_attention_bias());
            reader.qwen_moe(&mut config, true)?;
        }
        Architecture::Gemma2 => reader.gemma(&mut config, 2, 46)?,
        Architecture::Gemma3 => {
            let local = reader.maybe::<f32>("rope.freq_base_swa")?;
            set(&mut config, "rope_local_base_freq", local.unwrap_or(1e4));
            reader.gemma(&mut config, 6, 62)?;
        }
        Architecture::Phi3 => reader.window(&mut config)?,
        Architecture::GptOss => reader.gpt_oss(&mut config)?,
    }
    if let Some(scaling) = reader.rope_scaling()? {
        set(&mut config, "rope_scaling", scaling);
    }
    Ok(config)
}

fn set(config: &mut ConfigMap, key: &str, value: impl Into<Value>) {
    config.insert(key.to_owned(), value.into());
}

struct Reader<'a> {
    file: &'a Files,
    metadata: &'a Metadata,
    architecture: Architecture,
}

impl<'a> Reader<'a> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture.name())
    }

    fn count(&self, suffix: &str) -> Result<u32> {
        Ok(self.metadata.require::<u32>(&self.key(suffix))?)
    }

    fn maybe<T: mlx_core::io::gguf::FromValue<'a>>(&self, suffix: &str) -> Result<Option<T>> {
        Ok(self.metadata.get::<T>(&self.key(suffix))?)
    }

    fn has_attention_bias(&self) -> bool {
        self.file.contains("blk.0.attn_q.bias")
    }

    fn head_dim(&self) -> Result<u32> {
        if let Some(length) = self.maybe("attention.key_length")? {
            return Ok(length);
        }
        // Only Phi rotates a part of each head.
        if self.architecture != Architecture::Phi3
            && let Some(count) = self.maybe("rope.dimension_count")?
        {
            return Ok(count);
        }
        let heads = self.count("attention.head_count")?;
        let width = self.count("embedding_length")?;
        Ok(width.checked_div(heads).unwrap_or_default())
    }

    /// What all architectures say in the same way.
    fn common(&self) -> Result<ConfigMap> {
        let heads = self.count("attention.head_count")?;
        let kv_heads = self.maybe::<u32>("attention.head_count_kv")?;
        let head_dim = self.head_dim()?;
        let rotated = self.maybe("rope.dimension_count")?.unwrap_or(head_dim);
        let embeddings = self.file.tensor("token_embd.weight")?;
        let vocab_size = embeddings.shape().first().copied().unwrap_or_default();
        let epsilon = self.key("attention.layer_norm_rms_epsilon");
        let theta = self.maybe::<f32>("rope.freq_base")?;

        let mut config = ConfigMap::new();
        set(&mut config, "model_type", self.architecture.model_type());
        set(&mut config, "hidden_size", self.count("embedding_length")?);
        set(&mut config, "num_hidden_layers", self.count("block_count")?);
        set(&mut config, "intermediate_size", self.feed_forward()?);
        set(&mut config, "num_attention_heads", heads);
        set(
            &mut config,
            "num_key_value_heads",
            kv_heads.unwrap_or(heads),
        );
        set(&mut config, "vocab_size", vocab_size);
        let epsilon = self.metadata.require::<f32>(&epsilon)?;
        set(&mut config, "rms_norm_eps", epsilon);
        set(&mut config, "rope_theta", theta.unwrap_or(10_000.0));
        let tied = !self.file.contains("output.weight");
        set(&mut config, "tie_word_embeddings", tied);
        if let Some(length) = self.maybe::<u32>("context_length")? {
            set(&mut config, "max_position_embeddings", length);
        }
        if self.architecture == Architecture::Phi3 {
            let factor = f64::from(rotated) / f64::from(head_dim.max(1));
            set(&mut config, "partial_rotary_factor", factor);
        } else if rotated == head_dim {
            set(&mut config, "head_dim", head_dim);
        } else {
            let message = format!("{rotated} of {head_dim} dimensions is not supported");
            return Err(Error::config(self.key("rope.dimension_count"), message));
        }
        Ok(config)
    }

    /// The width of an MLP; models of experts alone may not have one.
    fn feed_forward(&self) -> Result<u32> {
        match self.maybe("feed_forward_length")? {
            Some(0) | None if self.maybe::<u32>("expert_count")?.is_some() => {
                self.expert_width("expert_feed_forward_length", "ffn_gate_exps")
            }
            Some(length) => Ok(length),
            None => self.count("feed_forward_length"),
        }
    }

    /// The width of an expert, from the metadata or else from the tensor itself.
    fn expert_width(&self, suffix: &str, tensor: &str) -> Result<u32> {
        if let Some(length) = self.maybe(suffix)? {
            return Ok(length);
        }
        let name = format!(".{tensor}.weight");
        let mut tensors = self.file.tensors();
        let shape = tensors
            .find(|tensor| tensor.name().ends_with(&name))
            .map_or(&[][..], |tensor| tensor.shape());
        // `[E, width, D]`, or `[width, D]` of the shared one.
        let width = shape.len().checked_sub(2).and_then(|at| shape.get(at));
        width
            .and_then(|&width| u32::try_from(width).ok())
            .ok_or_else(|| Error::config(self.key(suffix), "is missing"))
    }

    fn experts(&self, config: &mut ConfigMap, name: &str) -> Result<()> {
        set(config, name, self.count("expert_count")?);
        let used = self.count("expert_used_count")?;
        set(config, "num_experts_per_tok", used);
        Ok(())
    }

    fn qwen_moe(&self, config: &mut ConfigMap, normalises: bool) -> Result<()> {
        self.experts(config, "num_experts")?;
        let width = self.expert_width("expert_feed_forward_length", "ffn_gate_exps")?;
        set(config, "moe_intermediate_size", width);
        if self.architecture == Architecture::Qwen2Moe {
            let shared = "expert_shared_feed_forward_length";
            let width = self.expert_width(shared, "ffn_gate_shexp")?;
            set(config, "shared_expert_intermediate_size", width);
        }
        let stated = self.maybe::<bool>("expert_weights_norm")?;
        set(config, "norm_topk_prob", stated.unwrap_or(normalises));
        let is_dense = |layer: &u32| {
            let router = format!("blk.{layer}.ffn_gate_inp.weight");
            !self.file.contains(&router)
        };
        // As many layers as there are tensors, whatever the header claims.
        let layers = self.layers()?;
        let dense: Vec<u32> = (0..layers).filter(is_dense).collect();
        set(config, "mlp_only_layers", dense);
        Ok(())
    }

    /// The number of layers, which is no more than the file can hold.
    fn layers(&self) -> Result<u32> {
        let layers = self.count("block_count")?;
        let tensors = self.file.tensors().count();
        if usize::try_from(layers).is_ok_and(|layers| layers <= tensors) {
            return Ok(layers);
        }
        let message = format!("{layers} layers in {tensors} tensors");
        Err(Error::config(self.key("block_count"), message))
    }

    /// Windows, caps and the scale of queries; the largest model of each family, which its number
    /// of layers gives away, has a scale of its own that files leave out.
    fn gemma(&self, config: &mut ConfigMap, period: u32, largest: u32) -> Result<()> {
        set(config, "hidden_activation", "gelu_pytorch_tanh");
        self.window(config)?;
        self.layer_types(config, period)?;
        for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(cap) = self.maybe::<f32>(key)? {
                set(config, key, cap);
            }
        }
        let heads = self.count("attention.head_count")?;
        let scalar = match self.count("block_count")? == largest {
            true => self.count("embedding_length")?.checked_div(heads),
            false => Some(self.head_dim()?),
        };
        set(config, "query_pre_attn_scalar", scalar.unwrap_or_default());
        Ok(())
    }

    fn gpt_oss(&self, config: &mut ConfigMap) -> Result<()> {
        self.experts(config, "num_local_experts")?;
        let width = self.expert_width("expert_feed_forward_length", "ffn_gate_exps")?;
        set(config, "intermediate_size", width);
        set(config, "attention_bias", self.has_attention_bias());
        self.window(config)?;
        self.layer_types(config, 2)
    }

    fn window(&self, config: &mut ConfigMap) -> Result<()> {
        let window = self.maybe::<u32>("attention.sliding_window")?;
        if let Some(window) = window.filter(|&window| window > 0) {
            set(config, "sliding_window", window);
        }
        Ok(())
    }

    /// Which layers slide: as the file lists them, or all but each `period`th.
    fn layer_types(&self, config: &mut ConfigMap, period: u32) -> Result<()> {
        let layers = self.layers()?;
        let key = self.key("attention.sliding_window_pattern");
        let listed = match self.metadata.value(&key) {
            Some(Stored::Array(ValueArray::Bool(slides))) => Some(slides.clone()),
            _ => None,
        };
        let slides = match (config.contains_key("sliding_window"), listed) {
            (false, _) => vec![false; usize::try_from(layers).unwrap_or_default()],
            (true, Some(listed)) => listed,
            (true, None) => {
                let period = self.metadata.get::<u32>(&key)?.unwrap_or(period).max(1);
                (1..=layers).map(|layer| layer % period != 0).collect()
            }
        };
        let name = |slides: bool| match slides {
            true => "sliding_attention",
            false => "full_attention",
        };
        let names: Vec<&str> = slides.into_iter().map(name).collect();
        set(config, "layer_types", names);
        Ok(())
    }

    /// Linear and YaRN scaling are named in the metadata, LongRoPE comes as two tensors. Llama 3's
    /// is a tensor with a factor for each wavelength, which is LongRoPE with one set of factors
    /// and no amplification.
    fn rope_scaling(&self) -> Result<Option<Value>> {
        let file = self.file;
        let factors = |name: &str| Ok::<_, Error>(file.tensor(name)?.dequantize()?);
        if file.contains("rope_freqs.weight") {
            let factors = factors("rope_freqs.weight")?;
            let context = self.count("context_length")?;
            let mut scaling = long_rope(&factors, &factors, context);
            set(&mut scaling, "attention_factor", 1.0);
            return Ok(Some(scaling.into()));
        }
        let original = "rope.scaling.original_context_length";
        if file.contains("rope_factors_long.weight") {
            let short = factors("rope_factors_short.weight")?;
            let long = factors("rope_factors_long.weight")?;
            let mut scaling = long_rope(&short, &long, self.count(original)?);
            if let Some(factor) = self.maybe::<f32>("rope.scaling.attn_factor")? {
                set(&mut scaling, "attention_factor", factor);
            }
            return Ok(Some(scaling.into()));
        }
        let kind = self.maybe::<&str>("rope.scaling.type")?;
        let factor = self.maybe::<f32>("rope.scaling.factor")?;
        match (kind, factor) {
            (None | Some("none"), _) => Ok(None),
            (Some("linear"), Some(factor)) => {
                Ok(Some(json!({ "rope_type": "linear", "factor": factor })))
            }
            (Some("yarn"), Some(factor)) => {
                let mut scaling = ConfigMap::new();
                set(&mut scaling, "rope_type", "yarn");
                set(&mut scaling, "factor", factor);
                let original = self.count(original)?;
                set(&mut scaling, "original_max_position_embeddings", original);
                for end in ["beta_fast", "beta_slow"] {
                    if let Some(beta) = self.maybe::<f32>(&format!("rope.scaling.yarn_{end}"))? {
                        set(&mut scaling, end, beta);
                    }
                }
                if self.architecture == Architecture::GptOss {
                    // Published with the exact range of features, which no key tells.
                    set(&mut scaling, "truncate", false);
                }
                Ok(Some(scaling.into()))
            }
            (Some(kind), _) => Err(Error::config(
                self.key("rope.scaling.type"),
                format!("`{kind}` is not supported"),
            )),
        }
    }
}

/// LongRoPE with these factors up to the original context and beyond it.
fn long_rope(short: &[f32], long: &[f32], original: u32) -> ConfigMap {
    let mut scaling = ConfigMap::new();
    set(&mut scaling, "rope_type", "longrope");
    set(&mut scaling, "short_factor", short);
    set(&mut scaling, "long_factor", long);
    set(&mut scaling, "original_max_position_embeddings", original);
    scaling
}
