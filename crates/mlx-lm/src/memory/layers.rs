//! What each layer keeps, told from a configuration alone.

use serde_json::Value;

use crate::registry::ConfigMap;

/// A configuration, or the text part of one, under the names of its makers.
pub(super) struct Shape<'a>(pub(super) &'a ConfigMap);

/// What a layer remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Sliding,
    Recurrent,
    /// Attention beside a recurrence.
    Both,
    Nothing,
}

impl Kind {
    /// The kind under its name in `layer_types` or `layers_block_type`.
    fn named(name: &str) -> Self {
        match name {
            "sliding_attention" => Self::Sliding,
            "linear_attention" | "conv" | "mamba" => Self::Recurrent,
            "moe" | "mlp" => Self::Nothing,
            _ => Self::Full,
        }
    }

    /// The kind under its letter in Nemotron-H's pattern.
    fn lettered(letter: char) -> Self {
        match letter {
            'M' => Self::Recurrent,
            '-' | 'E' => Self::Nothing,
            _ => Self::Full,
        }
    }
}

impl Shape<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        let text = self.0.get("text_config").and_then(Value::as_object);
        let own = self.0.get(key).filter(|value| !value.is_null());
        own.or_else(|| text?.get(key))
    }

    pub(super) fn number(&self, keys: &[&str]) -> u64 {
        let mut found = keys.iter().filter_map(|key| self.value(key)?.as_u64());
        found.next().unwrap_or(0)
    }

    fn model_type(&self) -> &str {
        let name = self.value("model_type").and_then(Value::as_str);
        name.unwrap_or_default()
    }

    /// Bits per number of keys and values as computed.
    pub(super) fn bits(&self) -> u64 {
        let dtype = self.value("torch_dtype").or_else(|| self.value("dtype"));
        match dtype.and_then(Value::as_str) {
            Some("float32") => 32,
            _ => 16,
        }
    }

    /// Whether attention computes its scores as an array of their own: where they are capped, and
    /// where a part of them is added by hand, as in multi-head latent attention.
    pub(super) fn has_scores(&self) -> bool {
        let capped = self.value("attn_logit_softcapping").and_then(Value::as_f64);
        let by_default =
            self.model_type() == "gemma2" && !self.0.contains_key("attn_logit_softcapping");
        capped.is_some_and(|cap| cap > 0.0) || by_default || self.number(&["kv_lora_rank"]) > 0
    }

    /// Positions kept by all layers together, of which each keeps no more than `kept`.
    pub(super) fn positions(&self, kept: u64) -> u64 {
        let window = match self.number(&["sliding_window"]) {
            0 => kept,
            window => kept.min(window),
        };
        let of_kind = |kind: Kind| match kind {
            Kind::Full | Kind::Both => kept,
            Kind::Sliding => window,
            // States are as large after one token as after thousands.
            Kind::Recurrent | Kind::Nothing => 0,
        };
        self.kinds().map(of_kind).fold(0, u64::saturating_add)
    }

    /// Bytes of the states of all recurrent layers.
    pub(super) fn states(&self) -> u64 {
        let recurrent = |kind: &Kind| matches!(kind, Kind::Recurrent | Kind::Both);
        let count = u64::try_from(self.kinds().filter(recurrent).count()).unwrap_or(0);
        count.saturating_mul(self.state())
    }

    /// Bytes of one layer's states: the recurrence in `float32`, and the end of what is convolved.
    fn state(&self) -> u64 {
        let item = self.bits() / 8;
        let hidden = self.number(&["hidden_size"]);
        let conv = self.number(&["conv_L_cache"]);
        if conv > 0 {
            return conv.saturating_mul(hidden).saturating_mul(item);
        }
        // Either a gated delta net or Mamba 2, whose keys and queries are per group.
        let linear = self.number(&["linear_num_value_heads"]);
        let (heads, dim, state, groups, kernel) = if linear > 0 {
            (
                linear,
                self.number(&["linear_value_head_dim"]),
                self.number(&["linear_key_head_dim"]),
                self.number(&["linear_num_key_heads"]),
                self.number(&["linear_conv_kernel_dim"]),
            )
        } else {
            (
                self.number(&["mamba_num_heads", "mamba_n_heads", "num_heads"]),
                self.number(&["mamba_head_dim", "mamba_d_head", "head_dim"]),
                self.number(&["ssm_state_size", "mamba_d_state", "state_size"]),
                self.number(&["n_groups", "mamba_n_groups"]),
                self.number(&["conv_kernel", "mamba_d_conv"]),
            )
        };
        let width = heads.saturating_mul(dim);
        let convolved = width.saturating_add(groups.saturating_mul(state).saturating_mul(2));
        let recurrence = width.saturating_mul(state).saturating_mul(4);
        recurrence.saturating_add(convolved.saturating_mul(kernel).saturating_mul(item))
    }

    /// The layers in their order.
    fn kinds(&self) -> Box<dyn Iterator<Item = Kind> + '_> {
        let names = self
            .value("layers_block_type")
            .or_else(|| self.value("layer_types"));
        if let Some(names) = names.and_then(Value::as_array) {
            return Box::new(
                names
                    .iter()
                    .map(|name| Kind::named(name.as_str().unwrap_or_default())),
            );
        }
        match self.value("hybrid_override_pattern") {
            Some(Value::String(letters)) => return Box::new(letters.chars().map(Kind::lettered)),
            Some(Value::Array(letters)) => {
                let letters = letters.iter().filter_map(Value::as_str);
                return Box::new(letters.flat_map(str::chars).map(Kind::lettered));
            }
            _ => {}
        }
        let layers = 0..self.number(&["num_hidden_layers", "n_layer"]);
        if let Some(indices) = self.value("full_attn_idxs").and_then(Value::as_array) {
            return Box::new(layers.map(|layer| {
                let attends = indices.iter().any(|index| index.as_u64() == Some(layer));
                if attends { Kind::Full } else { Kind::Recurrent }
            }));
        }
        // Every so many layers one attends to everything; the others are of another kind.
        let or = |key: &str, default: u64| match self.number(&[key]) {
            0 => default,
            given => given,
        };
        let (other, interval) = match self.model_type() {
            "gemma2" => (Kind::Sliding, 2),
            "cohere2" => (Kind::Sliding, or("sliding_window_pattern", 4)),
            "gemma3_text" | "gemma4_text" => (Kind::Sliding, or("sliding_window_pattern", 6)),
            name if name.starts_with("qwen3_next") || name.starts_with("qwen3_5") => {
                (Kind::Recurrent, or("full_attention_interval", 4))
            }
            "mamba2" => (Kind::Recurrent, u64::MAX),
            "falcon_h1" => (Kind::Both, u64::MAX),
            _ => (Kind::Full, u64::MAX),
        };
        Box::new(layers.map(move |layer| match (layer + 1) % interval {
            0 => Kind::Full,
            _ => other,
        }))
    }
}
