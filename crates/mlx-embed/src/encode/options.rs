//! How texts are encoded.

use mlx_lm::CancelFlag;

/// Settings of [`Embedder::encode`](crate::Embedder::encode).
///
/// ```
/// use mlx_embed::EncodeOptions;
///
/// let options = EncodeOptions::default().batch_size(8).truncate_dim(128);
/// assert_eq!(options.truncate_dim, Some(128));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct EncodeOptions {
    /// How many texts the model sees at a time. 32 by default.
    pub batch_size: usize,
    /// Text that precedes each text; wins over `prompt_name`.
    pub prompt: Option<String>,
    /// Which of the model's prompts precedes each text; by default the model's default one.
    pub prompt_name: Option<String>,
    /// Keeps only the first features of each vector, for models trained so that they suffice.
    pub truncate_dim: Option<i32>,
    /// Whether vectors have length one, also after truncation; by default as the model's folder
    /// says.
    pub normalize: Option<bool>,
    /// Ends the work with [`Error::Cancelled`](crate::Error::Cancelled) once it is raised.
    pub cancel: CancelFlag,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            batch_size: 32,
            prompt: None,
            prompt_name: None,
            truncate_dim: None,
            normalize: None,
            cancel: CancelFlag::new(),
        }
    }
}

impl EncodeOptions {
    /// Sets how many texts the model sees at a time.
    pub fn batch_size(mut self, batch_size: usize) -> Self {
        self.batch_size = batch_size;
        self
    }

    /// Sets the text that precedes each text; an empty one switches prompts off.
    pub fn prompt(mut self, prompt: impl Into<String>) -> Self {
        self.prompt = Some(prompt.into());
        self
    }

    /// Chooses one of the model's prompts.
    pub fn prompt_name(mut self, name: impl Into<String>) -> Self {
        self.prompt_name = Some(name.into());
        self
    }

    /// Keeps only the first `dim` features of each vector.
    pub fn truncate_dim(mut self, dim: i32) -> Self {
        self.truncate_dim = Some(dim);
        self
    }

    /// Sets whether vectors have length one, whatever the model's folder says.
    pub fn normalize(mut self, normalize: bool) -> Self {
        self.normalize = Some(normalize);
        self
    }

    /// Sets the flag that ends the work, looked at between batches.
    pub fn cancel(mut self, cancel: CancelFlag) -> Self {
        self.cancel = cancel;
        self
    }
}
