//! The defaults that a model's makers recommend: `generation_config.json`.

use serde::Deserialize;
use serde_json::Value;

use crate::Result;
use crate::config::TokenIds;
use crate::registry::ConfigMap;
use crate::sample::SamplingOptions;

/// The part of `generation_config.json` that shapes generation.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct GenerationConfig {
    /// Greedy unless the file says `do_sample`.
    pub sampling: SamplingOptions,
    /// Tokens that end an answer, from this file or else from `config.json`.
    pub eos_token_ids: Vec<u32>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct File {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    eos_token_id: Option<TokenIds>,
}

impl GenerationConfig {
    /// Reads the defaults from the two configuration files of a model folder.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if a value has the wrong type,
    /// [`Error::Option`](crate::Error::Option) if one is out of range.
    pub fn read(config: &ConfigMap, generation_config: &ConfigMap) -> Result<Self> {
        let file: File = crate::config::parse_known(generation_config)?;
        let mut sampling = SamplingOptions::default();
        if file.do_sample == Some(true) {
            sampling = sampling
                .temperature(file.temperature.unwrap_or(1.0))
                .top_p(file.top_p.unwrap_or(1.0))
                .top_k(file.top_k.unwrap_or(0))
                .min_p(file.min_p.unwrap_or(0.0));
        }
        sampling = sampling.repetition_penalty(file.repetition_penalty.unwrap_or(1.0));
        sampling.validate()?;
        let eos = match (file.eos_token_id, config.get("eos_token_id")) {
            (Some(ids), _) => Some(ids),
            (None, None | Some(Value::Null)) => None,
            (None, Some(value)) => Some(crate::config::token_ids("eos_token_id", value)?),
        };
        Ok(Self {
            sampling,
            eos_token_ids: eos.map(TokenIds::into_vec).unwrap_or_default(),
        })
    }
}
