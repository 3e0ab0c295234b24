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

use mlx_core::io::gguf::{GgmlType, GgufFile, TensorInfo};
use mlx_core::{Device, DeviceType, Dtype};

use architecture::Architecture;

use super::estimate::Outline;
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

/// The configuration and the bytes that the tensors take once they are loaded.
pub(super) fn outline(path: &Path, dtype: Option<Dtype>) -> Result<Outline> {
    let file = GgufFile::open(path)?;
    let dtype = dtype.unwrap_or_else(default_dtype);
    let mut config = config::read(&file, Architecture::of(&file)?)?;
    let name = if dtype == Dtype::Float32 {
        "float32"
    } else {
        "float16"
    };
    config.insert("dtype".to_owned(), name.into());
    let loaded = |tensor: &TensorInfo| {
        let elements = u64::try_from(tensor.size()).unwrap_or(u64::MAX);
        let scale = u64::try_from(dtype.size()).unwrap_or(4);
        match packed(tensor.ggml_type()).filter(|_| tensor.shape().len() > 1) {
            Some((bits, group)) => elements / 8 * bits + 2 * scale * elements / group,
            None => elements.saturating_mul(scale),
        }
    };
    let loaded = file.tensors().iter().map(loaded);
    let weights = loaded.fold(0, u64::saturating_add);
    Ok(Outline { weights, config })
}

/// Bits and group size of blocks that stay packed, with a scale and a bias for each group.
fn packed(ggml_type: GgmlType) -> Option<(u64, u64)> {
    Some(match ggml_type {
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4_K => (4, 32),
        GgmlType::MXFP4 | GgmlType::NVFP4 => (4, 32),
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5_K => (5, 32),
        GgmlType::Q8_0 | GgmlType::Q8_1 | GgmlType::IQ4_NL | GgmlType::IQ4_XS => (8, 32),
        GgmlType::TQ1_0 | GgmlType::TQ2_0 => (2, 128),
        _ => return None,
    })
}

/// Half precision is native on GPUs and emulated on CPUs.
fn default_dtype() -> Dtype {
    match Device::default_device().device_type {
        DeviceType::Gpu => Dtype::Float16,
        DeviceType::Cpu => Dtype::Float32,
    }
}
