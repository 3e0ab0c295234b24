//! Whether a model fits, told before it is loaded.

use std::path::Path;

use mlx_core::{Device, DeviceInfo};

use crate::cache::{CacheOptions, KvQuantization};
use crate::registry::ConfigMap;
use crate::{Error, Result};

/// What a model will need, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[must_use]
pub struct MemoryEstimate {
    /// The weights, as stored.
    pub weights: u64,
    /// Keys and values of one sequence of the length asked for.
    pub cache: u64,
    /// Activations of one prefill chunk.
    pub workspace: u64,
}

impl MemoryEstimate {
    /// Estimates from the bytes of the weights and a configuration, for one
    /// sequence of `tokens` tokens that is prefilled in chunks of `chunk`.
    ///
    /// Only what every configuration tells is used: layers, widths, heads and
    /// vocabulary. Layers that slide or recur need less than is counted here.
    pub fn new(
        weights: u64,
        config: &ConfigMap,
        options: &CacheOptions,
        tokens: u64,
        chunk: u64,
    ) -> Self {
        let text = config
            .get("text_config")
            .and_then(|value| value.as_object());
        let number = |key: &str| {
            let value = config
                .get(key)
                .or_else(|| text.and_then(|text| text.get(key)));
            value.and_then(serde_json::Value::as_u64).unwrap_or(0)
        };
        let layers = number("num_hidden_layers");
        let hidden = number("hidden_size");
        let heads = number("num_attention_heads").max(1);
        let kv_heads = match number("num_key_value_heads") {
            0 => heads,
            count => count,
        };
        let head_dim = match number("head_dim") {
            0 => hidden / heads,
            dim => dim,
        };
        let kept = match options
            .max_kv_size
            .and_then(|size| u64::try_from(size).ok())
        {
            Some(limit) => tokens.min(limit),
            None => tokens,
        };
        // Compressed keys and values are one vector for all heads.
        let width = match number("kv_lora_rank") {
            0 => 2 * kv_heads * head_dim,
            rank => rank + number("qk_rope_head_dim"),
        };
        let bits = options.quantization.map_or(16, packed_bits);
        let numbers = layers.saturating_mul(kept).saturating_mul(width);
        let cache = numbers.saturating_mul(bits) / 8;
        let widest = hidden.max(number("intermediate_size")).saturating_mul(4);
        let activations = chunk.min(tokens).saturating_mul(widest).saturating_mul(4);
        let logits = number("vocab_size").saturating_mul(8);
        Self {
            weights,
            cache,
            workspace: activations.saturating_add(logits),
        }
    }

    /// The bytes of the weights alone: a `.gguf` file, or a folder's
    /// `.safetensors` files.
    pub fn of_weights(path: &Path) -> Self {
        let length = |path: &Path| path.metadata().map_or(0, |data| data.len());
        let weights = match path.read_dir() {
            Ok(entries) => entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|kind| kind == "safetensors"))
                .map(|path| length(&path))
                .sum(),
            Err(_) => length(path),
        };
        Self {
            weights,
            ..Self::default()
        }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        let sum = self.weights.saturating_add(self.cache);
        sum.saturating_add(self.workspace)
    }

    /// Compares with what the default device has left.
    ///
    /// # Errors
    /// [`Error::Memory`] with both numbers if it does not fit. Where the system
    /// does not tell, nothing is refused.
    pub fn check(&self) -> Result<()> {
        match available() {
            Some(available) if self.total() > available => Err(Error::Memory {
                needed: self.total(),
                available,
            }),
            _ => Ok(()),
        }
    }
}

/// Bits per number of a packed cache, with a 16-bit scale and bias per group.
fn packed_bits(format: KvQuantization) -> u64 {
    let bits = u64::try_from(format.bits).unwrap_or(16);
    bits + 32 / u64::try_from(format.group_size.max(1)).unwrap_or(64).max(1) + 1
}

/// Bytes that the default device can still give, where the system tells.
#[must_use]
pub fn available() -> Option<u64> {
    let device = Device::default_device();
    let info = device.info().unwrap_or_default();
    let number = |key: &str| match info.get(key) {
        Some(DeviceInfo::Number(bytes)) if *bytes > 0 => Some(*bytes),
        _ => None,
    };
    let used = mlx_core::memory::active_memory().unwrap_or(0);
    let used = u64::try_from(used).unwrap_or(u64::MAX);
    // A GPU's memory: what is free now, or the working set that Metal recommends.
    if let Some(free) = number("free_memory") {
        return Some(free);
    }
    if let Some(limit) = number("max_recommended_working_set_size") {
        return Some(limit.saturating_sub(used));
    }
    system_available()
}

/// Memory that the system can give without swapping.
fn system_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    parse_meminfo(&text)
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// A number of bytes as people read it: `3.2 GB`.
pub(crate) fn human(bytes: u64) -> String {
    let tenths = |unit: u64| {
        let tenths = u128::from(bytes) * 10 / u128::from(unit);
        format!("{}.{}", tenths / 10, tenths % 10)
    };
    match bytes {
        1_000_000_000.. => format!("{} GB", tenths(1_000_000_000)),
        1_000_000.. => format!("{} MB", tenths(1_000_000)),
        _ => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::{MemoryEstimate, human, parse_meminfo};
    use crate::cache::{CacheOptions, KvQuantization};
    use serde_json::json;

    #[test]
    fn the_cache_is_layers_times_heads_times_tokens() {
        let config = json!({
            "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100,
        });
        let config = config.as_object().cloned().unwrap_or_default();
        let options = CacheOptions::default();
        let estimate = MemoryEstimate::new(1000, &config, &options, 10, 512);
        assert_eq!(estimate.cache, 4 * 10 * 2 * 2 * 16 * 2);
        assert_eq!(estimate.workspace, 10 * 128 * 4 * 4 + 800);
        let limited = options.clone().max_kv_size(Some(5));
        let estimate = MemoryEstimate::new(1000, &config, &limited, 10, 512);
        assert_eq!(estimate.cache, 4 * 5 * 2 * 2 * 16 * 2);
        let packed = options.quantization(Some(KvQuantization::new(4)));
        let packed = MemoryEstimate::new(1000, &config, &packed, 10, 512);
        assert!(packed.cache < 4 * 10 * 2 * 2 * 16);
        assert!(
            MemoryEstimate {
                weights: u64::MAX,
                ..estimate
            }
            .check()
            .is_err()
        );
    }

    #[test]
    fn numbers_of_bytes_are_read_and_written() {
        assert_eq!(human(3_250_000_000), "3.2 GB");
        assert_eq!(human(999), "999 bytes");
        let text = "MemTotal: 10 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(parse_meminfo(text), Some(2 << 20));
        assert_eq!(parse_meminfo("MemAvailable: x kB"), None);
    }
}
