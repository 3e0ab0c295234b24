//! What a model will need, from the heads of its files.

use std::path::Path;

use mlx_core::Dtype;

use super::{folder, gguf};
use crate::Result;
use crate::memory::{MemoryBudget, MemoryEstimate};
use crate::registry::{self, ConfigMap, Registry};

/// Weights as loaded, and the configuration that sizes everything else.
pub(super) struct Outline {
    pub(super) weights: u64,
    pub(super) config: ConfigMap,
}

pub(super) fn estimate(
    path: &Path,
    registry: &Registry,
    dtype: Option<Dtype>,
    budget: &MemoryBudget,
) -> Result<MemoryEstimate> {
    let Outline { weights, config } = match path.is_dir() {
        true => folder::outline(path, dtype)?,
        false => gguf::outline(path, dtype)?,
    };
    // Of a model that cannot be built, nothing else is worth telling.
    let model_type = |config: &ConfigMap| Some(config.get("model_type")?.as_str()?.to_owned());
    let is_added = model_type(&config).is_some_and(|whole| registry.is_added(&whole));
    let config = match is_added {
        true => config,
        false => registry::text_part(&config),
    };
    if let Some(model_type) = model_type(&config) {
        let _known = registry.constructor(&model_type)?;
    }
    let context = config
        .get("max_position_embeddings")
        .and_then(serde_json::Value::as_u64);
    let tokens = match (context, budget.cache.max_kv_size) {
        (Some(context), None) => budget.tokens.min(context),
        _ => budget.tokens,
    };
    Ok(MemoryEstimate::new(
        weights,
        &config,
        &budget.cache,
        tokens,
        budget.chunk,
    ))
}
