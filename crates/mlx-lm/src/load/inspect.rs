//! What a model is, without its weights.

use std::path::Path;

use mlx_core::Array;
use mlx_core::io::SafetensorsFile;
use mlx_nn::Weights;

use super::{LoadedModel, ModelSize};
use crate::Result;
use crate::registry::ConfigMap;
use crate::sample::SamplingOptions;
use crate::tokenizer::Tokenizer;

/// What [`Loader::inspect`](super::Loader::inspect) finds.
#[derive(Debug)]
#[must_use]
pub struct ModelInfo {
    /// With zeros for weights, which is why it is not handed out.
    model: LoadedModel,
}

impl ModelInfo {
    pub(super) const fn new(model: LoadedModel) -> Self {
        Self { model }
    }

    /// The configuration as read.
    #[must_use]
    pub fn config(&self) -> &ConfigMap {
        self.model.config()
    }

    /// The tokenizer, which knows every token that ends an answer.
    pub fn tokenizer(&self) -> &Tokenizer {
        self.model.tokenizer()
    }

    /// The sampling that the model's makers recommend.
    pub fn sampling(&self) -> &SamplingOptions {
        self.model.sampling()
    }

    /// The folder or file of the model.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.model.path()
    }

    /// How large the model would be, loaded.
    pub fn size(&self) -> ModelSize {
        self.model.size()
    }

    /// The number of logits per token.
    #[must_use]
    pub fn vocab_size(&self) -> i32 {
        self.model.model().vocab_size()
    }

    /// How many positions the model was made for, where its configuration says so.
    #[must_use]
    pub fn max_position_embeddings(&self) -> Option<i32> {
        self.model.model().max_position_embeddings()
    }
}

/// Zeros of the shapes and dtypes of the tensors, which are lazy and stay so. Vectors of integers are
/// read: they tell shapes, and the order of columns.
pub(super) fn outlines(file: &SafetensorsFile, names: &[&str]) -> Result<Weights> {
    let mut weights = Weights::new();
    for name in names {
        let (shape, dtype) = (file.shape(name)?, file.dtype(name)?);
        let array = match shape.len() < 2 && !dtype.is_floating() {
            true => file.read(name)?,
            false => Array::zeros_dtype(shape, dtype)?,
        };
        weights.insert(*name, array)?;
    }
    Ok(weights)
}
