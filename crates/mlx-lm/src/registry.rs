//! Which architectures exist, and what they all can do.

use std::collections::BTreeMap;
use std::fmt::Debug;

use mlx_core::Array;
use mlx_nn::{Module, Weights};
use serde_json::{Map, Value};

use crate::cache::{Cache, CacheOptions, LayerCache};
use crate::generate::MultiToken;
use crate::{Error, Result, models};

/// What goes into a pass through a model.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Token ids `[B, L]`.
    pub tokens: &'a Array,
    /// What to use in place of the tokens' own embeddings, `[B, L, D]`: image
    /// features, a soft prompt. Models that look tokens up again further down
    /// still take those from `tokens`.
    pub embeddings: Option<&'a Array>,
}

impl<'a> Input<'a> {
    /// Tokens that are embedded by the model itself.
    #[must_use]
    pub const fn tokens(tokens: &'a Array) -> Self {
        Self {
            tokens,
            embeddings: None,
        }
    }

    /// The given embeddings, or else what `embed` makes of the tokens.
    ///
    /// # Errors
    /// Whatever `embed` returns.
    pub fn embedded(&self, embed: impl FnOnce(&Array) -> Result<Array>) -> Result<Array> {
        match self.embeddings {
            Some(embeddings) => Ok(embeddings.clone()),
            None => embed(self.tokens),
        }
    }
}

/// A decoder-only language model.
///
/// Object-safe: callers hold a `Box<dyn LanguageModel>` and never name the
/// architecture.
pub trait LanguageModel: Module + Debug + Send + Sync {
    /// What the first layer sees of tokens `[B, L]`: `[B, L, D]`, scaled if the
    /// model scales its embeddings.
    ///
    /// # Errors
    /// Fails if `tokens` are not integers.
    fn embed(&self, tokens: &Array) -> Result<Array>;

    /// Runs an input through all layers and the last norm, and extends the cache
    /// by it: `[B, L, D]`. Lazy: nothing is computed yet.
    ///
    /// # Errors
    /// Fails if `cache` was not made by this model, or if a shape does not fit.
    fn hidden(&self, input: Input<'_>, cache: &mut [Box<dyn LayerCache>]) -> Result<Array>;

    /// The output head: hidden states `[B, L, D]` to logits `[B, L, V]`. Callers
    /// that need the last position alone pass just that one.
    ///
    /// # Errors
    /// Fails if `hidden` has another width.
    fn logits(&self, hidden: &Array) -> Result<Array>;

    /// [`hidden`](Self::hidden) and [`logits`](Self::logits) of all positions:
    /// tokens `[B, L]` to logits `[B, L, V]`.
    ///
    /// # Errors
    /// As the two.
    fn forward(&self, tokens: &Array, cache: &mut [Box<dyn LayerCache>]) -> Result<Array> {
        self.logits(&self.hidden(Input::tokens(tokens), cache)?)
    }

    /// An empty cache, one entry per layer.
    fn make_cache(&self, options: &CacheOptions) -> Cache;

    /// The number of logits per token.
    fn vocab_size(&self) -> i32;

    /// How many positions the model was made for, where its configuration says so.
    fn max_position_embeddings(&self) -> Option<i32>;

    /// The model's own heads for the tokens after the next one, which speed up
    /// generation through [`Speculation::own_heads`](crate::generate::Speculation::own_heads);
    /// `None` if it has none, or if they were not loaded, see
    /// [`Loader::own_heads`](crate::Loader::own_heads).
    fn multi_token(&self) -> Option<&dyn MultiToken> {
        None
    }
}

/// A model's configuration: the JSON object of `config.json`.
pub type ConfigMap = Map<String, Value>;

/// Builds a model from its configuration and renames its weights to fit.
///
/// The weights are not loaded into the model yet: loading is one strict step,
/// the same for all.
pub type Constructor = fn(&ConfigMap, &mut Weights) -> Result<Box<dyn LanguageModel>>;

/// Declares the architectures of this crate: `module: "model_type" | "alias"`.
macro_rules! architectures {
    ($($module:ident: $($model_type:literal)|+,)+) => {
        /// Every `model_type` that the crate itself knows, in registry order.
        pub const MODEL_TYPES: &[&str] = &[$($($model_type),+),+];

        /// The constructor of an architecture of this crate.
        fn builtin(model_type: &str) -> Option<Constructor> {
            match model_type {
                $($($model_type)|+ => Some(|config, weights| {
                    let mut config = models::$module::Config::from_json(config)?;
                    // Some architectures note here which optional weights there are.
                    let noted = &mut config;
                    models::$module::sanitize(noted, weights)?;
                    Ok(Box::new(models::$module::Model::new(config)?))
                }),)+
                _ => None,
            }
        }
    };
}

architectures! {
    cohere2: "cohere2",
    falcon_h1: "falcon_h1",
    deepseek_v2: "deepseek_v2",
    deepseek_v3: "deepseek_v3" | "kimi_k2",
    gemma2: "gemma2",
    gemma3_text: "gemma3_text",
    gemma4_text: "gemma4_text",
    glm4: "glm4",
    glm4_moe: "glm4_moe",
    gpt2: "gpt2",
    gpt_oss: "gpt_oss",
    granite: "granite",
    granitemoehybrid: "granitemoehybrid",
    lfm2: "lfm2" | "lfm2_moe",
    llama: "llama" | "mistral",
    mamba2: "mamba2",
    mixtral: "mixtral",
    ministral3: "ministral3",
    nemotron_h: "nemotron_h",
    olmo2: "olmo2",
    olmo3: "olmo3",
    phi3: "phi3",
    qwen2: "qwen2" | "qwen2_vl_text" | "qwen2_5_vl_text",
    qwen2_moe: "qwen2_moe",
    qwen3: "qwen3" | "qwen3_vl_text",
    qwen3_5: "qwen3_5_text" | "qwen3_5_moe_text" | "qwen3_5" | "qwen3_5_moe",
    qwen3_next: "qwen3_next",
    qwen3_moe: "qwen3_moe" | "qwen3_vl_moe_text",
    smollm3: "smollm3",
}

/// Multimodal architectures of which the language model is loaded, and its type where the
/// configuration of the text part does not say it.
const WRAPPERS: &[(&str, &str)] = &[
    ("gemma3", "gemma3_text"),
    ("gemma4", "gemma4_text"),
    ("gemma4_unified", "gemma4_text"),
    ("mistral3", "mistral"),
    ("qwen2_5_vl", "qwen2"),
    ("qwen2_vl", "qwen2"),
    ("qwen3_5", "qwen3_5_text"),
    ("qwen3_5_moe", "qwen3_5_moe_text"),
    ("qwen3_vl", "qwen3"),
    ("qwen3_vl_moe", "qwen3_moe"),
];

/// What a wrapper says for its text part as well.
const INHERITED_KEYS: &[&str] = &[
    "tie_word_embeddings",
    "quantization",
    "quantization_config",
    "eos_token_id",
    "torch_dtype",
    "vocab_size",
];

/// The configuration of the language model in that of a multimodal one, or of a text model as it
/// stands.
pub(crate) fn text_config(config: &ConfigMap) -> ConfigMap {
    let text = text_part(config);
    if config.get("text_config").is_some_and(Value::is_object) {
        let of = |config: &ConfigMap| Some(config.get("model_type")?.as_str()?.to_owned());
        tracing::warn!(
            model_type = of(config),
            text_model_type = of(&text),
            "loading the language model alone, without what sees or hears"
        );
    }
    text
}

/// The same without a word about what is left out.
pub(crate) fn text_part(config: &ConfigMap) -> ConfigMap {
    let model_type = config.get("model_type").and_then(Value::as_str);
    let inner = WRAPPERS
        .iter()
        .find(|(outer, _)| Some(*outer) == model_type)
        .map(|(_, inner)| Value::from(*inner));
    let Some(Value::Object(text)) = config.get("text_config") else {
        // Early configurations keep the text part's keys beside `vision_config`.
        let mut flat = config.clone();
        if let Some(inner) = inner {
            flat.insert("model_type".to_owned(), inner);
            flat.remove("vision_config");
        }
        return flat;
    };
    let mut text = text.clone();
    for &key in INHERITED_KEYS {
        if let Some(value) = config.get(key) {
            text.entry(key).or_insert_with(|| value.clone());
        }
    }
    if let Some(model_type) = inner.or_else(|| config.get("model_type").cloned()) {
        text.entry("model_type").or_insert(model_type);
    }
    text
}

/// The architectures that loading chooses from: those of this crate, and any
/// that the caller adds.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    added: BTreeMap<String, Constructor>,
}

impl Registry {
    /// The architectures of this crate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an architecture, or replaces one of the same `model_type`.
    pub fn register(
        &mut self,
        model_type: impl Into<String>,
        constructor: Constructor,
    ) -> &mut Self {
        self.added.insert(model_type.into(), constructor);
        self
    }

    /// Whether the caller added an architecture of this `model_type`.
    pub(crate) fn is_added(&self, model_type: &str) -> bool {
        self.added.contains_key(model_type)
    }

    /// Finds the constructor for a `model_type`.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] listing what is supported.
    pub fn constructor(&self, model_type: &str) -> Result<Constructor> {
        self.added
            .get(model_type)
            .copied()
            .or_else(|| builtin(model_type))
            .ok_or_else(|| Error::UnsupportedModel {
                model_type: model_type.to_owned(),
                supported: self.model_types(),
            })
    }

    /// Every known `model_type`, sorted.
    #[must_use]
    pub fn model_types(&self) -> Vec<String> {
        let mut all: Vec<String> = MODEL_TYPES
            .iter()
            .copied()
            .chain(WRAPPERS.iter().map(|(outer, _)| *outer))
            .map(str::to_owned)
            .chain(self.added.keys().cloned())
            .collect();
        all.sort();
        all.dedup();
        all
    }
}
