//! A GGUF file of the Llama family.
//!
//! The file's metadata becomes a `config.json`, its tensor names become those of
//! a Hugging Face checkpoint, and from there on nothing knows where the weights
//! came from.

mod config;
mod tensors;
mod vocab;

use std::path::Path;

use mlx_core::io::gguf::GgufFile;
use mlx_core::{Device, DeviceType, Dtype};

use super::{GenerationConfig, Monitor, Source, constructor};
use crate::registry::{ConfigMap, Registry};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Reads the file; `dtype` is what the model will compute in.
pub(super) fn read(
    path: &Path,
    registry: &Registry,
    dtype: Option<Dtype>,
    monitor: &mut Monitor<'_>,
) -> Result<Source> {
    let file = GgufFile::open(path)?;
    let architecture = Architecture::of(&file)?;
    let config = config::read(&file, architecture)?;
    let (constructor, text_config) = constructor(registry, &config)?;
    let generation = GenerationConfig::read(&config, &ConfigMap::new())?;
    let tokenizer = Tokenizer::from_gguf(&vocab::read(file.metadata())?)?;
    let dtype = dtype.unwrap_or_else(default_dtype);
    let weights = tensors::read(&file, architecture, &config, dtype, monitor)?;
    Ok(Source {
        constructor,
        config,
        text_config,
        generation,
        weights,
        quantization: None,
        tokenizer,
    })
}

/// Half precision is native on GPUs and emulated on CPUs.
fn default_dtype() -> Dtype {
    match Device::default_device().device_type {
        DeviceType::Gpu => Dtype::Float16,
        DeviceType::Cpu => Dtype::Float32,
    }
}

/// The architectures that are read, by `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Architecture {
    /// Also Mistral and SmolLM, which are stored as Llama.
    Llama,
    Qwen2,
    Qwen3,
}

impl Architecture {
    const NAMES: [&str; 3] = ["llama", "qwen2", "qwen3"];

    fn of(file: &GgufFile) -> Result<Self> {
        match file.metadata().str("general.architecture")? {
            "llama" => Ok(Self::Llama),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            other => Err(Error::UnsupportedModel {
                model_type: format!("{other} (gguf)"),
                supported: Self::NAMES
                    .iter()
                    .map(|name| format!("{name} (gguf)"))
                    .collect(),
            }),
        }
    }

    /// The prefix of its metadata keys, which is also the `model_type`.
    fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// Whether the converter interleaved the rows of queries and keys, so that
    /// neighbouring ones rotate together.
    fn interleaves_heads(self) -> bool {
        self == Self::Llama
    }
}
