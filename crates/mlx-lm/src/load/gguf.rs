//! A GGUF file.
//!
//! The file's metadata becomes a `config.json`, its tensor names become those of
//! a Hugging Face checkpoint, and from there on nothing knows where the weights
//! came from.

mod architecture;
mod config;
mod tensors;
mod vocab;

use std::path::Path;

use mlx_core::io::gguf::GgufFile;
use mlx_core::{Device, DeviceType, Dtype};

use architecture::Architecture;

use super::{GenerationConfig, Monitor, Source, constructor};
use crate::Result;
use crate::registry::{ConfigMap, Registry};
use crate::tokenizer::Tokenizer;

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
