//! How many positions a model serves whose rotary positions are stretched.

use mlx_core::Array;
use mlx_nn::{KeyPath, Module, Visitor, VisitorMut};
use serde_json::Value;

use crate::Result;
use crate::cache::{Cache, CacheOptions, LayerCache};
use crate::generate::MultiToken;
use crate::registry::{ConfigMap, Input, LanguageModel};

/// The positions that a configuration promises: `max_position_embeddings`, or more where it asks for
/// an extension by a factor that is not counted there yet, as Qwen2.5 does with YaRN.
pub(super) fn positions(config: &ConfigMap) -> Option<i32> {
    let stated = config.get("max_position_embeddings")?.as_i64()?;
    let stated = i32::try_from(stated).ok()?;
    Some(extended(config, stated).unwrap_or(stated).max(stated))
}

fn extended(config: &ConfigMap, stated: i32) -> Option<i32> {
    let scaling = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|key| config.get(*key).filter(|value| value.is_object()))?;
    let kind = ["type", "rope_type"]
        .iter()
        .find_map(|key| scaling.get(key)?.as_str())?;
    if !matches!(
        kind,
        "linear" | "dynamic" | "yarn" | "deepseek_yarn" | "telechat3-yarn"
    ) {
        return None;
    }
    let original = scaling.get("original_max_position_embeddings");
    let original = original
        .and_then(Value::as_f64)
        .unwrap_or(f64::from(stated));
    let factor = scaling.get("factor")?.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
    let extended = (original * factor).round() as i32;
    Some(extended)
}

/// The model, which promises what its configuration does.
pub(super) fn stretched(
    model: Box<dyn LanguageModel>,
    config: &ConfigMap,
) -> Box<dyn LanguageModel> {
    let stated = model.max_position_embeddings();
    match positions(config) {
        Some(positions) if stated.is_some_and(|stated| stated < positions) => {
            Box::new(Stretched { model, positions })
        }
        _ => model,
    }
}

/// A model that serves more positions than it says.
#[derive(Debug)]
struct Stretched {
    model: Box<dyn LanguageModel>,
    positions: i32,
}

impl Module for Stretched {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.model.visit(path, visitor);
    }

    fn visit_mut(
        &mut self,
        path: &KeyPath<'_>,
        visitor: &mut dyn VisitorMut,
    ) -> mlx_nn::Result<()> {
        self.model.visit_mut(path, visitor)
    }
}

impl LanguageModel for Stretched {
    fn embed(&self, tokens: &Array) -> Result<Array> {
        self.model.embed(tokens)
    }

    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        self.model.hidden(input, cache)
    }

    fn logits(&self, hidden: &Array) -> Result<Array> {
        self.model.logits(hidden)
    }

    fn forward(&self, tokens: &Array, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        self.model.forward(tokens, cache)
    }

    fn make_cache(&self, options: &CacheOptions) -> Cache {
        self.model.make_cache(options)
    }

    fn vocab_size(&self) -> i32 {
        self.model.vocab_size()
    }

    fn max_position_embeddings(&self) -> Option<i32> {
        Some(self.positions)
    }

    fn multi_token(&self) -> Option<&dyn MultiToken> {
        self.model.multi_token()
    }
}

#[cfg(test)]
mod tests {
    use super::positions;
    use serde_json::json;

    #[test]
    fn extensions_that_are_not_counted_yet_are_added() {
        let promised = |scaling: serde_json::Value| {
            let config = json!({ "max_position_embeddings": 1000, "rope_scaling": scaling });
            positions(config.as_object().unwrap_or(&serde_json::Map::new()))
        };
        for (scaling, expected) in [
            (json!(null), 1000),
            (json!({ "type": "linear", "factor": 2.0 }), 2000),
            (json!({ "rope_type": "dynamic", "factor": 1.5 }), 1500),
            (
                json!({ "type": "yarn", "factor": 4, "original_max_position_embeddings": 1000 }),
                4000,
            ),
            // Counted already.
            (
                json!({ "type": "yarn", "factor": 4, "original_max_position_embeddings": 250 }),
                1000,
            ),
            (json!({ "rope_type": "llama3", "factor": 8.0 }), 1000),
        ] {
            assert_eq!(promised(scaling.clone()), Some(expected), "{scaling}");
        }
    }
}
