//! Which tensors of a checkpoint belong to the model's own heads for further tokens.

use mlx_core::io::SafetensorsFile;
use serde_json::Value;

use crate::registry::{self, ConfigMap};

/// Tells the tensors of such heads from others by their names.
pub(super) struct HeadKeys {
    /// The number of the first layer that is a head, if there is one.
    first: Option<u64>,
}

impl HeadKeys {
    pub(super) fn new(file: &SafetensorsFile, config: &ConfigMap) -> Self {
        let text = registry::text_part(config);
        let count = text.get("num_hidden_layers").and_then(Value::as_u64);
        let is_head = |first: &u64| {
            let end = format!("layers.{first}.eh_proj.weight");
            file.names().any(|name| name.ends_with(&end))
        };
        Self {
            first: count.filter(is_head),
        }
    }

    /// Whether a tensor belongs to a head: below `mtp`, or in a layer behind the last.
    pub(super) fn covers(&self, name: &str) -> bool {
        let mut parts = name.split('.');
        while let Some(part) = parts.next() {
            match part {
                "mtp" => return true,
                "layers" => {
                    let layer = parts.next().and_then(|layer| layer.parse::<u64>().ok());
                    return self.first.is_some_and(|first| layer >= Some(first));
                }
                _ => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::HeadKeys;

    #[test]
    fn heads_are_told_by_their_names() {
        let keys = HeadKeys { first: Some(61) };
        for head in [
            "mtp.fc.weight",
            "model.mtp.layers.0.mlp.gate.weight",
            "model.layers.61.eh_proj.weight",
            "language_model.model.layers.62.mlp.gate.weight",
        ] {
            assert!(keys.covers(head), "{head}");
        }
        let none = HeadKeys { first: None };
        for other in [
            "model.layers.60.mlp.gate.weight",
            "model.norm.weight",
            "lm_head.weight",
        ] {
            assert!(!keys.covers(other), "{other}");
            assert!(!none.covers(other), "{other}");
        }
        assert!(!none.covers("model.layers.61.mlp.gate.weight"));
    }
}
