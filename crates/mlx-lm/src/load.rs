//! From a path to a model that is ready to generate.

mod check;
mod context;
mod estimate;
mod folder;
mod footprint;
mod formats;
mod generation_config;
mod gguf;
mod heads;
mod inspect;
mod quantize;
mod save;
mod sensitivity;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use mlx_core::ops::misc::astype;
use mlx_core::{Array, Dtype, eval};
use mlx_nn::{LoadOptions, Quantization, Weights, load_weights, parameter_count, parameters};
use serde_json::Value;

use crate::chat::{Message, RenderOptions};
use crate::generate::{CancelFlag, GenerateOptions, Generation};
use crate::hub::{HubCache, HubId};
use crate::memory::{MemoryBudget, MemoryEstimate};
use crate::registry::{self, ConfigMap, Constructor, LanguageModel, Registry};
use crate::sample::SamplingOptions;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

pub use crate::hub::cached_snapshot;
pub use generation_config::GenerationConfig;
pub use inspect::ModelInfo;
pub use quantize::{MixedRecipe, QuantizeOptions, dequantize_model, quantize_model};
pub use save::{SaveOptions, save_model};
pub use sensitivity::{Sensitivity, allocate_bits, sensitivities};

/// Lazy weights are computed in steps of about this many bytes, so that a
/// cancellation is soon noticed.
const EVAL_STEP: usize = 64 << 20;

/// Loads a model folder, a `.gguf` file or a model in the local Hugging Face
/// cache, with default settings; [`Loader`] has the others.
///
/// # Errors
/// [`Error::ModelNotFound`], or [`Error::Load`] with the cause.
///
/// ```no_run
/// let model = mlx_lm::load("models/qwen3-0.6b")?;
/// let mut answer = model.generate("Once upon a time", &Default::default())?;
/// println!("{}", answer.text()?);
/// # Ok::<(), mlx_lm::Error>(())
/// ```
pub fn load(model: impl AsRef<Path>) -> Result<LoadedModel> {
    Loader::new(model).load()
}

/// How much of a model has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Bytes of weights read.
    pub done: usize,
    /// Bytes of weights in all.
    pub total: usize,
}

/// Loads a model, with settings.
#[must_use]
pub struct Loader<'a> {
    model: PathBuf,
    registry: Registry,
    dtype: Option<Dtype>,
    quantize: Option<QuantizeOptions>,
    dequantize: bool,
    own_heads: bool,
    memory: MemoryBudget,
    cancel: CancelFlag,
    progress: Option<Box<dyn FnMut(LoadProgress) + 'a>>,
}

impl fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("model", &self.model)
            .field("dtype", &self.dtype)
            .finish_non_exhaustive()
    }
}

impl<'a> Loader<'a> {
    /// A loader for a folder, a `.gguf` file or a Hub id.
    pub fn new(model: impl AsRef<Path>) -> Self {
        Self {
            model: model.as_ref().to_owned(),
            registry: Registry::new(),
            dtype: None,
            quantize: None,
            dequantize: false,
            own_heads: false,
            memory: MemoryBudget::default(),
            cancel: CancelFlag::new(),
            progress: None,
        }
    }

    /// Chooses among the architectures of `registry`.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Computes in `dtype`: floating-point weights, scales and biases are
    /// converted to it.
    ///
    /// Without it, safetensors keep their dtype, and GGUF files, whose tensors
    /// come in several, are computed in `float16` on a GPU and in `float32` on
    /// a CPU.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Quantises the weights as they are loaded; those that are stored quantised stay as they are.
    pub fn quantize(mut self, options: QuantizeOptions) -> Self {
        self.quantize = Some(options);
        self
    }

    /// Makes stored quantised weights dense, before [`quantize`](Self::quantize) if both are asked
    /// for.
    pub fn dequantize(mut self, dequantize: bool) -> Self {
        self.dequantize = dequantize;
        self
    }

    /// Loads also the heads with which the model itself predicts further tokens, if the checkpoint
    /// has them, for [`Speculation::own_heads`](crate::generate::Speculation::own_heads). By
    /// default they stay on the disk.
    ///
    /// A copy that [`LoadedModel::save`] writes of such a model has them too; mlx-lm for Python
    /// leaves those of DeepSeek-V3 and GLM-4 out, and misreads a Qwen3-Next or Qwen3.5 with them.
    pub fn own_heads(mut self, own_heads: bool) -> Self {
        self.own_heads = own_heads;
        self
    }

    /// What the model may take and what it is for; by default what the system
    /// has left, and one conversation of 2,048 tokens.
    pub fn memory(mut self, budget: MemoryBudget) -> Self {
        self.memory = budget;
        self
    }

    /// What the model will need as it is to be loaded, cast, quantised or dense, from the heads of
    /// its files alone.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], or [`Error::Load`] if configuration or weights
    /// cannot be read.
    pub fn estimate(&self) -> Result<MemoryEstimate> {
        let path = resolve(&self.model)?;
        let found = estimate::estimate(&path, &self.registry, self.plan(), &self.memory);
        found.map_err(|source| Error::Load {
            path,
            source: Box::new(source),
        })
    }

    /// Stops loading with [`Error::Cancelled`] once the flag is raised.
    pub fn cancel(mut self, cancel: &CancelFlag) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Calls `progress` as weights are read.
    pub fn on_progress(mut self, progress: impl FnMut(LoadProgress) + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Loads the model, its tokenizer and its generation defaults.
    ///
    /// # Errors
    /// [`Error::ModelNotFound`], [`Error::Cancelled`], or [`Error::Load`] with
    /// the cause, which is [`Error::Memory`] for a model that needs more than
    /// [`memory`](Self::memory) allows.
    pub fn load(self) -> Result<LoadedModel> {
        let path = resolve(&self.model)?;
        let fits = match estimate::estimate(&path, &self.registry, self.plan(), &self.memory) {
            Ok(estimate) if self.memory.enforce => estimate.check(&self.memory),
            // What is wrong with the files is told by whoever reads them.
            _ => Ok(()),
        };
        let loaded = fits.and_then(|()| self.read(&path));
        loaded.map_err(|error| match error {
            Error::Cancelled => Error::Cancelled,
            source => Error::Load {
                path,
                source: Box::new(source),
            },
        })
    }

    fn plan(&self) -> footprint::Plan<'_> {
        footprint::Plan {
            dtype: self.dtype,
            dequantize: self.dequantize,
            quantize: self.quantize.as_ref(),
            own_heads: self.own_heads,
        }
    }

    /// What the model is, from the heads of its files alone: no weights are read.
    ///
    /// A model that this returns has a known architecture, and weights of the names, shapes and
    /// dtypes that it wants. [`memory`](Self::memory) is not asked.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn inspect(self) -> Result<ModelInfo> {
        let path = resolve(&self.model)?;
        let outlined = self.assemble(&path, None);
        outlined.map(ModelInfo::new).map_err(|source| Error::Load {
            path,
            source: Box::new(source),
        })
    }

    fn read(mut self, path: &Path) -> Result<LoadedModel> {
        let mut monitor = Monitor {
            cancel: self.cancel.clone(),
            progress: self.progress.take(),
            at: LoadProgress { done: 0, total: 0 },
        };
        let loaded = self.assemble(path, Some(&mut monitor))?;
        materialise(loaded.model.as_ref(), &self.cancel)?;
        tracing::debug!(path = %path.display(), "model loaded");
        Ok(loaded)
    }

    /// The model with what is still lazy of its weights; without a monitor, they are zeros of the
    /// right shapes that take no memory.
    fn assemble(&self, path: &Path, monitor: Option<&mut Monitor<'_>>) -> Result<LoadedModel> {
        let source = match path.is_dir() {
            true => folder::read(path, &self.registry, self.own_heads, monitor)?,
            false => gguf::read(path, &self.registry, self.dtype, monitor)?,
        };
        let Source {
            constructor,
            config,
            mut text_config,
            generation,
            mut weights,
            quantization,
            mut tokenizer,
        } = source;
        infer_tied_head(&mut text_config, &weights);
        // Before an architecture computes with them: what it folds into its weights should not
        // be rounded to the checkpoint's dtype.
        if let Some(dtype) = self.dtype {
            weights = cast(weights, dtype)?;
        }
        let mut model = constructor(&text_config, &mut weights)?;
        check::dtypes(&weights)?;
        let mut options = LoadOptions::default();
        if let Some(quantization) = quantization {
            check::quantization(&weights, &quantization)?;
            options = options.quantization(quantization);
        }
        load_weights(model.as_mut(), weights, &options)?;
        if self.dequantize {
            dequantize_model(model.as_mut(), self.dtype)?;
        }
        let kept_quantized = quantize::quantized_count(model.as_ref());
        if let Some(options) = &self.quantize {
            let _count = quantize_model(model.as_mut(), options)?;
        }
        tokenizer.add_eos_ids(generation.eos_token_ids.iter().copied());
        Ok(LoadedModel {
            model: context::stretched(model, &text_config),
            tokenizer,
            generation,
            config,
            text_config,
            path: path.to_owned(),
            kept_quantized,
        })
    }
}

/// Computes what is still lazy (casts, reordered rows), a piece at a time.
fn materialise(model: &dyn LanguageModel, cancel: &CancelFlag) -> Result<()> {
    let arrays = parameters(model);
    let mut batch: Vec<&Array> = Vec::new();
    let mut pending = 0;
    for array in arrays.values().filter(|array| !array.is_available()) {
        batch.push(array);
        pending += array.nbytes();
        if pending >= EVAL_STEP {
            cancel.check()?;
            eval(&batch)?;
            batch.clear();
            pending = 0;
        }
    }
    cancel.check()?;
    Ok(eval(&batch)?)
}

/// Passes on how far reading is, and stops it.
struct Monitor<'a> {
    cancel: CancelFlag,
    progress: Option<Box<dyn FnMut(LoadProgress) + 'a>>,
    at: LoadProgress,
}

impl Monitor<'_> {
    fn start(&mut self, total: usize) -> Result<()> {
        self.at = LoadProgress { done: 0, total };
        self.advance(0)
    }

    /// To be called after each tensor, with the bytes that it has in the file.
    fn advance(&mut self, bytes: usize) -> Result<()> {
        self.at.done += bytes;
        if let Some(progress) = &mut self.progress {
            progress(self.at);
        }
        self.cancel.check()
    }
}

/// What both kinds of checkpoint are read into.
struct Source {
    /// Looked up first: nobody should wait for the weights of a model that
    /// cannot be built.
    constructor: Constructor,
    config: ConfigMap,
    /// The part of it that the language model is built from.
    text_config: ConfigMap,
    generation: GenerationConfig,
    weights: Weights,
    /// What the configuration says about quantised layers; the arrays decide.
    quantization: Option<Quantization>,
    tokenizer: Tokenizer,
}

/// Ends of the keys of weights that decide discrete choices or long products, and so are never made
/// narrower than they are stored: biases of the choice of experts, routers, and the constants of
/// recurrences.
const EXACT_WEIGHTS: &[&str] = &[
    "e_score_correction_bias",
    "expert_bias",
    ".gate.weight",
    ".router.weight",
    ".router.bias",
    ".router.proj.weight",
    ".router.layer.weight",
    ".A_log",
    ".dt_bias",
    ".D",
];

/// Says in the configuration whether the head is the embedding, where it leaves that open: defaults
/// differ, the weights do not lie.
fn infer_tied_head(config: &mut ConfigMap, weights: &Weights) {
    let key = "tie_word_embeddings";
    if !config.contains_key(key) {
        let has_head = weights.keys().any(|key| key.ends_with("lm_head.weight"));
        config.insert(key.to_owned(), Value::Bool(!has_head));
    }
}

/// Floating-point arrays in `dtype`, scales and biases of quantised ones too.
fn cast(weights: Weights, dtype: Dtype) -> Result<Weights> {
    let cast = |(key, array): (String, Array)| {
        let is_exact = EXACT_WEIGHTS.iter().any(|end| key.ends_with(end));
        let stays = is_exact && array.dtype().size() >= dtype.size();
        let array = match array.dtype().is_floating() && !stays {
            true => astype(&array, dtype)?,
            false => array,
        };
        Ok((key, array))
    };
    weights.into_iter().map(cast).collect()
}

/// The constructor for the `model_type` of a configuration, and what to give it: the text part of
/// a multimodal configuration, unless the caller brought an architecture for the whole.
fn constructor(registry: &Registry, config: &ConfigMap) -> Result<(Constructor, ConfigMap)> {
    if let Some(Value::String(model_type)) = config.get("model_type")
        && registry.is_added(model_type)
    {
        return Ok((registry.constructor(model_type)?, config.clone()));
    }
    let text = registry::text_config(config);
    match text.get("model_type") {
        Some(Value::String(model_type)) => Ok((registry.constructor(model_type)?, text)),
        Some(_) => Err(Error::config("model_type", "is not a string")),
        None => Err(Error::config("model_type", "is missing")),
    }
}

/// The folder or file behind what the user named.
fn resolve(model: &Path) -> Result<PathBuf> {
    if model.exists() {
        return Ok(model.to_owned());
    }
    let missing = || Error::ModelNotFound {
        model: model.display().to_string(),
    };
    let id = model.to_str().ok_or_else(missing)?;
    let id = HubId::parse(id).ok_or_else(missing)?;
    let cache = HubCache::from_env().ok_or_else(missing)?;
    cache.snapshot(&id).ok_or_else(missing)
}

/// How large a model is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct ModelSize {
    /// Weights, a quantised one counted once.
    pub parameters: u64,
    /// Bytes of all arrays.
    pub bytes: usize,
    /// Bytes by dtype; packed codes of quantised weights are `uint32`.
    pub dtypes: BTreeMap<String, usize>,
}

/// A model with its tokenizer and generation defaults.
#[derive(Debug)]
#[must_use]
pub struct LoadedModel {
    model: Box<dyn LanguageModel>,
    tokenizer: Tokenizer,
    generation: GenerationConfig,
    config: ConfigMap,
    text_config: ConfigMap,
    path: PathBuf,
    kept_quantized: usize,
}

impl LoadedModel {
    /// The model itself.
    #[must_use]
    pub fn model(&self) -> &dyn LanguageModel {
        self.model.as_ref()
    }

    /// The tokenizer, which knows every token that ends an answer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model itself, to change its weights.
    pub fn model_mut(&mut self) -> &mut dyn LanguageModel {
        self.model.as_mut()
    }

    /// The tokenizer, to add further tokens that end an answer.
    pub fn tokenizer_mut(&mut self) -> &mut Tokenizer {
        &mut self.tokenizer
    }

    /// The sampling that the model's makers recommend.
    pub fn sampling(&self) -> &SamplingOptions {
        &self.generation.sampling
    }

    /// The configuration as read.
    #[must_use]
    pub fn config(&self) -> &ConfigMap {
        &self.config
    }

    /// The configuration that the language model was built from: the one as read, or the text part
    /// of a multimodal one.
    #[must_use]
    pub fn text_config(&self) -> &ConfigMap {
        &self.text_config
    }

    /// The folder or file that the model was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many weights were stored quantised and have stayed so, whatever
    /// [`Loader::quantize`] asked for.
    #[must_use]
    pub fn kept_quantized(&self) -> usize {
        self.kept_quantized
    }

    /// How large the model is, as loaded.
    pub fn size(&self) -> ModelSize {
        let mut dtypes = BTreeMap::new();
        let arrays = parameters(self.model.as_ref());
        for array in arrays.values() {
            *dtypes
                .entry(format!("{:?}", array.dtype()).to_lowercase())
                .or_insert(0) += array.nbytes();
        }
        ModelSize {
            parameters: parameter_count(self.model.as_ref()),
            bytes: dtypes.values().sum(),
            dtypes,
        }
    }

    /// Continues a text as it stands, without a chat template.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], or [`Error::Option`].
    pub fn generate(&self, prompt: &str, options: &GenerateOptions) -> Result<Generation<'_>> {
        self.generate_tokens(&self.tokenizer.encode(prompt, true)?, options)
    }

    /// Answers a conversation, rendered by the model's chat template.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and [`Error::Text`] if there is no
    /// template or it fails.
    pub fn chat(&self, messages: &[Message], options: &GenerateOptions) -> Result<Generation<'_>> {
        let prompt = self
            .tokenizer
            .apply_chat_template(messages, &RenderOptions::default())?;
        self.generate_tokens(&self.tokenizer.encode(&prompt, false)?, options)
    }

    /// Continues a sequence of token ids.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn generate_tokens(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
    ) -> Result<Generation<'_>> {
        let sampling = options.sampling(&self.generation.sampling);
        Generation::new(
            self.model.as_ref(),
            &self.tokenizer,
            prompt,
            &sampling,
            options,
        )
    }
}
