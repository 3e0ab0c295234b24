//! From a folder to an [`Embedder`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mlx_lm::load::cached_snapshot;
use mlx_lm::registry::ConfigMap;
use mlx_nn::{LoadOptions, Quantization, load_weights};
use serde::Deserialize;
use serde_json::Value;

use super::{Embedder, Step};
use crate::dense::Dense;
use crate::folder::{Folder, parse};
use crate::tokenize::Tokenizer;
use crate::{Error, Pooling, Registry, Result, Similarity, TextEncoder};

const MODULES: &str = "modules.json";
const MODEL_CONFIG: &str = "config.json";
const SENTENCE_CONFIG: &str = "config_sentence_transformers.json";
const TRANSFORMER_CONFIG: &str = "sentence_bert_config.json";

/// The classes of `modules.json` that this crate knows, by their last name.
const SUPPORTED: &[&str] = &["Transformer", "Pooling", "Dense", "Normalize"];

/// Loads what the user named.
pub(super) fn load(model: &Path, registry: &Registry) -> Result<Embedder> {
    let path = resolve(model)?;
    read(&Folder::new(&path), registry).map_err(|source| Error::Load {
        path,
        source: Box::new(source),
    })
}

/// The folder behind what the user named.
fn resolve(model: &Path) -> Result<PathBuf> {
    if model.is_dir() {
        return Ok(model.to_owned());
    }
    let snapshot = model.to_str().and_then(|id| cached_snapshot(id, "main"));
    snapshot.ok_or_else(|| Error::ModelNotFound {
        model: model.display().to_string(),
    })
}

/// One line of `modules.json`.
#[derive(Debug, Deserialize)]
struct ModuleEntry {
    path: String,
    /// A Python class; where it lives has changed over time, its last name has not.
    #[serde(rename = "type")]
    class: String,
}

/// What the folder says about all modules together.
#[derive(Debug, Default, Deserialize)]
struct SentenceConfig {
    #[serde(default)]
    prompts: BTreeMap<String, String>,
    default_prompt_name: Option<String>,
    similarity_fn_name: Option<String>,
}

/// What the folder says about the first module.
#[derive(Debug, Default, Deserialize)]
struct TransformerConfig {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// The one line of `tokenizer_config.json` that matters here; a number beyond reason where there
/// is no limit.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

fn read(folder: &Folder, registry: &Registry) -> Result<Embedder> {
    let sentence: SentenceConfig = folder.optional(SENTENCE_CONFIG)?;
    let prompts = Prompts::new(sentence.prompts, sentence.default_prompt_name)?;
    let similarity = match sentence.similarity_fn_name {
        None => Similarity::default(),
        Some(name) => name.parse().map_err(|_| {
            let message = format!("field `similarity_fn_name`: `{name}` is not supported");
            Error::config(SENTENCE_CONFIG, message)
        })?,
    };
    let modules = match folder.json(MODULES)? {
        Some(json) => modules(folder, parse(MODULES, json)?)?,
        // A plain Hugging Face folder: the mean over tokens, as sentence-transformers does.
        None => vec![(Class::Transformer, folder.clone())],
    };
    let mut modules = modules.into_iter();
    let root = match modules.next() {
        Some((Class::Transformer, root)) => root,
        _ => return Err(Error::config(MODULES, "the first module is no Transformer")),
    };
    let (encoder, tokenizer) = transformer(&root, registry)?;
    let hidden_size = encoder.hidden_size();

    let pooling = match modules.next() {
        None if folder.json(MODULES)?.is_none() => Pooling::default(),
        Some((Class::Pooling, folder)) => Pooling::from_folder(&folder, hidden_size)?,
        _ => return Err(Error::config(MODULES, "the second module is no Pooling")),
    };
    let mut dimension = pooling.dimension(hidden_size);
    let mut steps = Vec::new();
    for (class, folder) in modules {
        match class {
            Class::Dense => {
                let dense = Dense::from_folder(&folder, dimension)?;
                dimension = dense.out_features();
                steps.push(Step::Dense(Box::new(dense)));
            }
            Class::Normalize => steps.push(Step::Normalize),
            Class::Transformer | Class::Pooling => {
                let message = "more than one Transformer or Pooling is not supported";
                return Err(Error::config(MODULES, message));
            }
        }
    }
    let unit_length = matches!(steps.last(), Some(Step::Normalize));
    while matches!(steps.last(), Some(Step::Normalize)) {
        steps.pop();
    }
    Ok(Embedder {
        encoder,
        tokenizer,
        pooling,
        steps,
        unit_length,
        prompts,
        similarity,
        dimension,
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Transformer,
    Pooling,
    Dense,
    Normalize,
}

fn modules(folder: &Folder, entries: Vec<ModuleEntry>) -> Result<Vec<(Class, Folder)>> {
    let module = |entry: ModuleEntry| {
        let class = match entry.class.rsplit('.').next() {
            Some("Transformer") => Class::Transformer,
            Some("Pooling") => Class::Pooling,
            Some("Dense") => Class::Dense,
            Some("Normalize") => Class::Normalize,
            _ => {
                return Err(Error::UnsupportedModule {
                    module: entry.class,
                    supported: SUPPORTED,
                });
            }
        };
        Ok((class, folder.module(&entry.path)?))
    };
    entries.into_iter().map(module).collect()
}

/// The encoder with its weights, and its tokenizer.
fn transformer(folder: &Folder, registry: &Registry) -> Result<(Box<dyn TextEncoder>, Tokenizer)> {
    let config: ConfigMap = folder.required(MODEL_CONFIG)?;
    let model_type = match config.get("model_type") {
        Some(Value::String(model_type)) => model_type,
        Some(_) => {
            return Err(Error::config(
                MODEL_CONFIG,
                "field `model_type` is not a string",
            ));
        }
        None => return Err(Error::config(MODEL_CONFIG, "missing field `model_type`")),
    };
    let constructor = registry.constructor(model_type)?;
    let (mut weights, file) = folder.weights()?;
    let mut encoder = constructor(&config, &mut weights)?;

    let mut options = LoadOptions::default();
    if let Some(entry) = config.get("quantization").filter(|entry| !entry.is_null()) {
        let quantization: Quantization = parse(MODEL_CONFIG, entry.clone())?;
        options = options.quantization(quantization);
    }
    load_weights(encoder.as_mut(), weights, &options)
        .map_err(|source| Error::Weights { file, source })?;

    let settings: TransformerConfig = folder.optional(TRANSFORMER_CONFIG)?;
    let length = match settings.max_seq_length {
        Some(length) => Some(length),
        None => folder
            .optional::<TokenizerConfig>("tokenizer_config.json")?
            .limit(),
    };
    let positions = usize::try_from(encoder.max_position_embeddings()).unwrap_or(0);
    let length = length.map_or(positions, |length| length.min(positions));
    let tokenizer = Tokenizer::new(folder, length, settings.do_lower_case)?;
    tracing::debug!(model_type, max_seq_length = length, "model loaded");
    Ok((encoder, tokenizer))
}

impl TokenizerConfig {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is positive and small, or ignored"
    )]
    fn limit(&self) -> Option<usize> {
        let limit = self.model_max_length?;
        (1.0..1e9).contains(&limit).then_some(limit as usize)
    }
}

/// The prompts of a model.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    texts: BTreeMap<String, String>,
    default_name: Option<String>,
}

impl Prompts {
    fn new(texts: BTreeMap<String, String>, default_name: Option<String>) -> Result<Self> {
        if let Some(name) = &default_name
            && !texts.contains_key(name)
        {
            let message = format!("field `default_prompt_name`: there is no prompt `{name}`");
            return Err(Error::config(SENTENCE_CONFIG, message));
        }
        Ok(Self {
            texts,
            default_name,
        })
    }

    /// The prompt of this name, or the default one, or nothing.
    pub(super) fn text(&self, name: Option<&str>) -> Result<&str> {
        let Some(name) = name.or(self.default_name()) else {
            return Ok("");
        };
        let text = self.texts.get(name);
        text.map(String::as_str)
            .ok_or_else(|| Error::UnknownPrompt {
                name: name.to_owned(),
                known: self.texts.keys().cloned().collect(),
            })
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.texts.contains_key(name)
    }

    pub(super) fn default_name(&self) -> Option<&str> {
        self.default_name.as_deref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
    }
}
