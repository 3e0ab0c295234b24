//! A GGUF file, or one that is split into parts.
//!
//! The file's metadata becomes a `config.json`, its tensor names become those of
//! a Hugging Face checkpoint, and from there on nothing knows where the weights
//! came from.

mod architecture;
mod config;
mod files;
mod tensors;
mod vocab;

use std::path::Path;

use mlx_core::io::gguf::GgmlType;
use mlx_core::{Device, DeviceType, Dtype};

use architecture::Architecture;
use files::Files;

use super::estimate::Outline;
use super::footprint::{Form, Plan};
use super::{GenerationConfig, Monitor, Source, constructor};
use crate::Result;
use crate::registry::{ConfigMap, Registry};
use crate::tokenizer::Tokenizer;

/// Reads the file; `dtype` is what the model will compute in. Without a monitor, of the weights the
/// shapes alone are read.
pub(super) fn read(
    path: &Path,
    registry: &Registry,
    dtype: Option<Dtype>,
    monitor: Option<&mut Monitor<'_>>,
) -> Result<Source> {
    let file = Files::open(path)?;
    let architecture = Architecture::of(&file)?;
    let config = config::read(&file, architecture)?;
    let (constructor, text_config) = constructor(registry, &config)?;
    let generation = GenerationConfig::read(&config, &ConfigMap::new())?;
    let tokenizer = Tokenizer::from_gguf(&vocab::read(file.metadata())?)?;
    let dtype = dtype.unwrap_or_else(default_dtype);
    let weights = match monitor {
        Some(monitor) => tensors::read(&file, architecture, &config, dtype, monitor)?,
        None => tensors::outlines(&file, architecture, dtype)?,
    };
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
pub(super) fn outline(path: &Path, plan: Plan<'_>) -> Result<Outline> {
    let file = Files::open(path)?;
    let dtype = plan.dtype.unwrap_or_else(default_dtype);
    let mut config = config::read(&file, Architecture::of(&file)?)?;
    let name = if dtype == Dtype::Float32 {
        "float32"
    } else {
        "float16"
    };
    config.insert("dtype".to_owned(), name.into());
    let num_layers = config.get("num_hidden_layers");
    let num_layers = num_layers.and_then(serde_json::Value::as_i64);
    let num_layers = num_layers.and_then(|count| i32::try_from(count).ok());
    let wide = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let item = wide(dtype.size());
    let (mut read, mut weights) = (0_u64, 0_u64);
    for tensor in file.tensors() {
        let count = wide(tensor.size());
        let columns = match tensor.shape() {
            [.., _, columns] => wide(*columns),
            _ => 0,
        };
        let form = match packed(tensor.ggml_type(), dtype).filter(|_| columns > 0) {
            Some(packing) => Form::Packed {
                bytes: packing.bytes(count, item),
                count,
                columns,
                item,
            },
            None => Form::Dense {
                count,
                columns,
                item,
            },
        };
        // Everything is as the model will compute with it before the loader changes it.
        let unchanged = Plan::default().loaded("", &form, 0);
        read = read.saturating_add(unchanged);
        let path = tensor.name().trim_end_matches(".weight");
        let loaded = plan.loaded(path, &form, num_layers.unwrap_or(0));
        weights = weights.saturating_add(loaded);
    }
    Ok(Outline {
        weights,
        loading: read.saturating_sub(weights),
        config,
    })
}

/// How blocks are packed that stay so.
#[derive(Clone, Copy)]
struct Packing {
    bits: u64,
    group_size: u64,
    /// Whether scales are 8-bit floats without biases.
    is_float: bool,
}

impl Packing {
    /// Bytes of so many numbers, whose scales and biases are numbers of `item` bytes.
    fn bytes(self, count: u64, item: u64) -> u64 {
        let per_group = if self.is_float { 1 } else { 2 * item };
        let codes = count.saturating_mul(self.bits) / 8;
        codes.saturating_add((count / self.group_size).saturating_mul(per_group))
    }
}

fn packed(ggml_type: GgmlType, dtype: Dtype) -> Option<Packing> {
    let (bits, group_size, is_float) = match ggml_type {
        GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q4_K => (4, 32, false),
        GgmlType::MXFP4 => (4, 32, true),
        GgmlType::NVFP4 => (4, 16, true),
        GgmlType::Q5_0 | GgmlType::Q5_1 | GgmlType::Q5_K => (5, 32, false),
        GgmlType::Q8_0 | GgmlType::Q8_1 | GgmlType::IQ4_NL | GgmlType::IQ4_XS => (8, 32, false),
        GgmlType::TQ1_0 | GgmlType::TQ2_0 => (2, 128, false),
        _ => return None,
    };
    // Their scales are half-precision numbers, of which bfloat16 holds few exactly.
    let is_held = is_float || dtype != Dtype::Bfloat16;
    is_held.then_some(Packing {
        bits,
        group_size,
        is_float,
    })
}

/// Half precision is native on GPUs and emulated on CPUs.
fn default_dtype() -> Dtype {
    match Device::default_device().device_type {
        DeviceType::Gpu => Dtype::Float16,
        DeviceType::Cpu => Dtype::Float32,
    }
}
