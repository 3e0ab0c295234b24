//! A prompt that is processed once and kept in a file.

use std::collections::BTreeMap;
use std::path::Path;

use mlx_core::{Array, eval, memory};

use super::options::GenerateOptions;
use super::prefill::row;
use super::request::Request;
use crate::cache::{self, Cache, KvQuantization};
use crate::{Error, Input, LoadedModel, Result};

/// Where the model is noted, for us and for Python's mlx-lm.
const MODEL: &str = "model";
/// Where the tokens are noted; Python's mlx-lm does not do that, and ignores it.
const TOKENS: &str = "tokens";
/// Arguments for a tokenizer, which Python's mlx-lm insists on.
const TOKENIZER: &str = "tokenizer_config";

/// What a model remembers of a prompt, to begin many answers with.
///
/// The file is one that Python's mlx-lm 0.32 reads as its `--prompt-cache-file`,
/// and its files are read here.
///
/// ```no_run
/// use mlx_lm::generate::{Generation, Generator, PromptCache, Request};
///
/// let model = mlx_lm::load("models/qwen3-0.6b")?;
/// let book = model.tokenizer().encode(&std::fs::read_to_string("book.txt").unwrap(), true)?;
/// let cache = PromptCache::compute(&model, &book, &Default::default(), |_, _| {})?;
/// cache.save("book.safetensors")?;
///
/// let cache = PromptCache::load("book.safetensors")?;
/// let question = model.tokenizer().encode("In short,", false)?;
/// let request = cache.follow(Request::new(question));
/// let generator = Generator::new(model.model()).tokenizer(model.tokenizer());
/// println!("{}", Generation::of(generator, request)?.text()?);
/// # Ok::<(), mlx_lm::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct PromptCache {
    cache: Cache,
    /// `None` if the file does not tell.
    tokens: Option<Vec<u32>>,
    metadata: BTreeMap<String, String>,
}

impl PromptCache {
    /// Processes all of a prompt, a chunk at a time; `progress` is told how
    /// many tokens are done, and of how many.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::Option`] or
    /// [`Error::Cancelled`].
    pub fn compute(
        model: &LoadedModel,
        prompt: &[u32],
        options: &GenerateOptions,
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Self> {
        if prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let cache_options = options.cache();
        cache_options.validate()?;
        let context = model.model().max_position_embeddings();
        let context = context.and_then(|size| usize::try_from(size).ok());
        if let (Some(limit), None) = (context, cache_options.max_kv_size)
            && prompt.len() >= limit
        {
            let tokens = prompt.len();
            return Err(Error::PromptTooLong { tokens, limit });
        }
        let mut cache = model.model().make_cache(&cache_options);
        let mut done = 0;
        progress(done, prompt.len());
        for chunk in prompt.chunks(options.prefill_step_size.max(1)) {
            options.cancel.check()?;
            let tokens = row(chunk)?;
            drop(model.model().hidden(Input::tokens(&tokens), &mut cache)?);
            let state: Vec<&Array> = cache.iter().flat_map(|layer| layer.state()).collect();
            eval(&state)?;
            memory::clear_cache()?;
            done += chunk.len();
            progress(done, prompt.len());
        }
        let metadata = BTreeMap::from([
            (MODEL.to_owned(), model.path().display().to_string()),
            (TOKENIZER.to_owned(), "{}".to_owned()),
        ]);
        Ok(Self {
            cache,
            tokens: Some(prompt.to_vec()),
            metadata,
        })
    }

    /// Notes under which name the model is known, in place of its path.
    pub fn named(mut self, model: impl Into<String>) -> Self {
        self.metadata.insert(MODEL.to_owned(), model.into());
        self
    }

    /// Reads a file; nothing in it is trusted.
    ///
    /// # Errors
    /// As [`cache::load`], and [`Error::Weights`] if the noted tokens are none.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let (cache, mut metadata) = cache::load(path)?;
        let tokens = match metadata.remove(TOKENS) {
            Some(text) => {
                let tokens: Vec<u32> = serde_json::from_str(&text).map_err(|_| {
                    Error::weights("prompt cache: its tokens are not a list of numbers")
                })?;
                // Somebody may have gone on with the cache and kept the note.
                (tokens.len() == super::held(&cache)).then_some(tokens)
            }
            None => None,
        };
        Ok(Self {
            cache,
            tokens,
            metadata,
        })
    }

    /// Writes a file, which appears once it is complete.
    ///
    /// # Errors
    /// As [`cache::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut metadata = self.metadata.clone();
        if let Some(tokens) = &self.tokens {
            let text = serde_json::to_string(tokens);
            let text = text.map_err(|error| Error::weights(error.to_string()))?;
            metadata.insert(TOKENS.to_owned(), text);
        }
        cache::save(path, &self.cache, &metadata)
    }

    /// Tokens that it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        super::held(&self.cache)
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The caches of the layers.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The model as it was named when the cache was made.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.metadata.get(MODEL).map(String::as_str)
    }

    /// Packs what comes, and what is there, as if the cache had been made so.
    ///
    /// # Errors
    /// [`Error::Option`] if it is packed in another way already.
    pub fn quantize(&mut self, format: KvQuantization) -> Result<()> {
        cache::quantize(&mut self.cache, format)
    }

    /// The request as one whose prompt follows this one.
    pub fn follow(&self, mut request: Request) -> Request {
        match &self.tokens {
            Some(tokens) => {
                request.prompt = [tokens.as_slice(), &request.prompt].concat();
            }
            None => request.cache_precedes = true,
        }
        request.cache = Some(self.cache.clone());
        request
    }
}
