//! Whether a model fits, told before it is loaded.

mod layers;

use mlx_core::{Device, DeviceInfo};

use crate::cache::{CacheOptions, KvQuantization};
use crate::registry::ConfigMap;
use crate::{Error, Result};
use layers::Shape;

/// What a model will need, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[must_use]
pub struct MemoryEstimate {
    /// The weights, as they will be computed with: cast, quantised or dense as the loader is told.
    pub weights: u64,
    /// What loading holds at its peak beyond them, such as weights that are still to be quantised.
    pub loading: u64,
    /// Keys and values of one sequence of the length asked for, and the states of recurrent layers.
    pub cache: u64,
    /// Activations of one prefill chunk.
    pub workspace: u64,
}

/// What a model is to be used for, and what it may take.
///
/// ```no_run
/// use mlx_lm::{Loader, memory::MemoryBudget};
///
/// let budget = MemoryBudget::default().tokens(32_768).limit(Some(8 << 30));
/// let model = Loader::new("models/qwen3-0.6b").memory(budget).load()?;
/// # Ok::<(), mlx_lm::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct MemoryBudget {
    /// Bytes that it may take; `None` asks the system for what is left.
    pub limit: Option<u64>,
    /// How its caches will be made.
    pub cache: CacheOptions,
    /// Tokens that it will remember, of all sequences together; no more than
    /// its context holds are counted.
    pub tokens: u64,
    /// Prompt tokens processed at a time.
    pub chunk: u64,
    /// Whether a model that needs more is refused.
    pub enforce: bool,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        Self {
            limit: None,
            cache: CacheOptions::default(),
            tokens: 2048,
            chunk: 2048,
            enforce: true,
        }
    }
}

impl MemoryBudget {
    /// Sets [`limit`](Self::limit).
    pub fn limit(mut self, bytes: Option<u64>) -> Self {
        self.limit = bytes;
        self
    }

    /// Sets [`cache`](Self::cache).
    pub fn cache(mut self, options: CacheOptions) -> Self {
        self.cache = options;
        self
    }

    /// Sets [`tokens`](Self::tokens).
    pub fn tokens(mut self, tokens: u64) -> Self {
        self.tokens = tokens;
        self
    }

    /// Sets [`chunk`](Self::chunk).
    pub fn chunk(mut self, tokens: u64) -> Self {
        self.chunk = tokens;
        self
    }

    /// Sets [`enforce`](Self::enforce).
    pub fn enforce(mut self, enforce: bool) -> Self {
        self.enforce = enforce;
        self
    }

    /// The bytes that may be taken: the limit, or what is left.
    #[must_use]
    pub fn available(&self) -> Option<u64> {
        self.limit.or_else(available)
    }
}

impl MemoryEstimate {
    /// Estimates from the bytes of the weights and a configuration, for one
    /// sequence of `tokens` tokens that is prefilled in chunks of `chunk`.
    ///
    /// Only what configurations tell is used: layers and their kinds, widths,
    /// heads and vocabulary. [`loading`](Self::loading) is not known here and 0.
    pub fn new(
        weights: u64,
        config: &ConfigMap,
        options: &CacheOptions,
        tokens: u64,
        chunk: u64,
    ) -> Self {
        let shape = Shape(config);
        let hidden = shape.number(&["hidden_size", "n_embd"]);
        let heads = shape.number(&["num_attention_heads", "n_head"]).max(1);
        let kv_heads = match shape.number(&["num_key_value_heads"]) {
            0 => heads,
            count => count,
        };
        let head_dim = match shape.number(&["head_dim"]) {
            0 => hidden / heads,
            dim => dim,
        };
        // Compressed keys and values are one vector for all heads.
        let width = match shape.number(&["kv_lora_rank"]) {
            0 => (2 * kv_heads).saturating_mul(head_dim),
            rank => rank + shape.number(&["qk_rope_head_dim"]),
        };
        let bits = match options.quantization {
            Some(format) if tokens > u64::try_from(format.start).unwrap_or(0) => {
                packed_bits(format)
            }
            _ => shape.bits(),
        };
        let limit = options
            .max_kv_size
            .and_then(|size| u64::try_from(size).ok());
        let kept = limit.map_or(tokens, |limit| tokens.min(limit));
        let numbers = shape.positions(kept).saturating_mul(width);
        let cache = (numbers.saturating_mul(bits) / 8).saturating_add(shape.states());
        let widest = hidden
            .max(shape.number(&["intermediate_size", "n_inner"]))
            .saturating_mul(4);
        let chunk = chunk.min(tokens);
        let activations = chunk.saturating_mul(widest).saturating_mul(4);
        // Scores that are arrays of their own, before and after the softmax. Packed keys and
        // values have them, too.
        let scores = match shape.has_scores() || bits < shape.bits() {
            true => 2 * heads.saturating_mul(chunk).saturating_mul(kept) * shape.bits() / 8,
            false => 0,
        };
        let logits = shape.number(&["vocab_size"]).saturating_mul(8);
        Self {
            weights,
            loading: 0,
            cache,
            workspace: activations.saturating_add(scores).saturating_add(logits),
        }
    }

    /// What is needed at the peak: while loading, or while generating.
    #[must_use]
    pub fn total(&self) -> u64 {
        let generating = self.cache.saturating_add(self.workspace);
        self.weights.saturating_add(self.loading.max(generating))
    }

    /// Compares with what the budget allows.
    ///
    /// # Errors
    /// [`Error::Memory`] with both numbers if it does not fit. Where neither
    /// budget nor system tell, nothing is refused.
    pub fn check(&self, budget: &MemoryBudget) -> Result<()> {
        match budget.available() {
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

/// Memory that the system can give without swapping, and that the container
/// which the process may live in allows.
fn system_available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let whole = parse_meminfo(&text)?;
    Some(container_available().map_or(whole, |own| whole.min(own)))
}

/// What is left of a container's limit; files that it merely has cached do not
/// count as used.
fn container_available() -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let statistics = read("memory.stat").unwrap_or_default();
    let cached = |line: &str| {
        line.strip_prefix("inactive_file ")?
            .trim()
            .parse::<u64>()
            .ok()
    };
    let cached = statistics.lines().find_map(cached).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// A number of bytes as people read it: `3.2 GB`.
#[must_use]
pub fn human(bytes: u64) -> String {
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
    use super::{MemoryBudget, MemoryEstimate, human, parse_meminfo};
    use crate::Error;
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
    }

    #[test]
    fn sliding_and_recurrent_layers_keep_less() {
        let config = json!({
            "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4,
            "dtype": "float32", "sliding_window": 100,
            "layer_types":
                ["sliding_attention", "full_attention", "linear_attention", "full_attention"],
        });
        let config = config.as_object().cloned().unwrap_or_default();
        let estimate = MemoryEstimate::new(0, &config, &CacheOptions::default(), 1000, 512);
        assert_eq!(estimate.cache, (100 + 2 * 1000) * 2 * 64 * 4);
    }

    #[test]
    fn every_way_to_name_kinds_of_layers_is_read() {
        let estimate = |changes: serde_json::Value| {
            let mut config = json!({
                "num_hidden_layers": 6, "hidden_size": 8, "num_attention_heads": 1,
                "sliding_window": 10,
            });
            for (key, value) in changes.as_object().into_iter().flatten() {
                config[key] = value.clone();
            }
            let config = config.as_object().cloned().unwrap_or_default();
            MemoryEstimate::new(0, &config, &CacheOptions::default(), 100, 50)
        };
        let per_position = 2 * 8 * 2;
        for (changes, positions) in [
            (json!({ "model_type": "llama" }), 600),
            (json!({ "model_type": "gemma3_text" }), 150),
            (
                json!({ "model_type": "cohere2", "sliding_window_pattern": 3 }),
                240,
            ),
            (json!({ "model_type": "gemma2" }), 330),
            (json!({ "hybrid_override_pattern": "M*-E*M" }), 200),
            (json!({ "full_attn_idxs": [1, 4] }), 200),
            (json!({ "model_type": "qwen3_next" }), 100),
            (json!({ "model_type": "mamba2" }), 0),
        ] {
            assert_eq!(
                estimate(changes.clone()).cache,
                positions * per_position,
                "{changes}"
            );
        }
        // States: a recurrence in float32 and what is convolved, in each of four layers.
        let hybrid = estimate(json!({
            "hybrid_override_pattern": "MMMM*-", "mamba_num_heads": 2, "mamba_head_dim": 3,
            "ssm_state_size": 5, "n_groups": 1, "conv_kernel": 4,
        }));
        let state = 2 * 3 * 5 * 4 + (2 * 3 + 2 * 5) * 4 * 2;
        assert_eq!(hybrid.cache, 100 * per_position + 4 * state);
        // Scores of their own: capped ones and those of latent attention.
        let plain = estimate(json!({})).workspace;
        for changes in [
            json!({ "attn_logit_softcapping": 50.0 }),
            json!({ "kv_lora_rank": 4 }),
        ] {
            assert_eq!(estimate(changes).workspace, plain + 2 * 50 * 100 * 2);
        }
    }

    #[test]
    fn more_than_the_budget_is_refused() {
        let estimate = MemoryEstimate {
            weights: 900,
            loading: 101,
            cache: 90,
            workspace: 11,
        };
        let budget = |limit| MemoryBudget::default().limit(Some(limit));
        assert!(
            estimate.check(&budget(1001)).is_ok(),
            "loading and generating are not added"
        );
        let refused = estimate.check(&budget(1000));
        let expected = (1001, 1000);
        assert!(
            matches!(refused, Err(Error::Memory { needed, available }) if (needed, available) == expected)
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
