//! What a model will need, from the heads of its files.

use std::path::Path;

use super::footprint::Plan;
use super::{context, folder, gguf};
use crate::Result;
use crate::memory::{MemoryBudget, MemoryEstimate};
use crate::registry::{self, ConfigMap, Registry};

/// Weights as loaded, and the configuration that sizes everything else.
pub(super) struct Outline {
    pub(super) weights: u64,
    /// What more is held while they are loaded.
    pub(super) loading: u64,
    pub(super) config: ConfigMap,
}

pub(super) fn estimate(
    path: &Path,
    registry: &Registry,
    plan: Plan<'_>,
    budget: &MemoryBudget,
) -> Result<MemoryEstimate> {
    let outline = match path.is_dir() {
        true => folder::outline(path, registry, plan)?,
        false => gguf::outline(path, plan)?,
    };
    let Outline {
        weights,
        loading,
        config,
    } = outline;
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
    let context = context::positions(&config).and_then(|size| u64::try_from(size).ok());
    let tokens = match (context, budget.cache.max_kv_size) {
        (Some(context), None) => budget.tokens.min(context),
        _ => budget.tokens,
    };
    let mut estimate = MemoryEstimate::new(weights, &config, &budget.cache, tokens, budget.chunk);
    estimate.loading = loading;
    Ok(estimate)
}
