//! Which architectures exist, and what they all can do.

use std::collections::BTreeMap;
use std::fmt::Debug;

use mlx_core::Array;
use mlx_lm::registry::ConfigMap;
use mlx_nn::{Module, Weights};

use crate::tokenize::TokenBatch;
use crate::{Error, Result, models};

/// A model that turns tokens into one vector each, seeing those on both sides.
///
/// Object-safe: callers hold a `Box<dyn TextEncoder>` and never name the
/// architecture.
pub trait TextEncoder: Module + Debug + Send + Sync {
    /// Runs a batch through the model: `[B, L] → [B, L, D]`, in the dtype of
    /// the weights. Lazy: nothing is computed yet.
    ///
    /// The vectors of padding are finite and carry no meaning.
    ///
    /// # Errors
    /// Fails if the batch is longer than the model's positions, or if a token
    /// lies outside its vocabulary.
    fn forward(&self, batch: &TokenBatch) -> Result<Array>;

    /// The length `D` of a token's vector.
    fn hidden_size(&self) -> i32;

    /// How many tokens a text may have.
    fn max_position_embeddings(&self) -> i32;
}

/// Builds a model from its configuration and renames its weights to fit.
///
/// The weights are not loaded into the model yet: loading is one strict step,
/// the same for all.
pub type Constructor = fn(&ConfigMap, &mut Weights) -> Result<Box<dyn TextEncoder>>;

/// Declares the architectures of this crate: `module: "model_type" | "alias"`.
macro_rules! architectures {
    ($($module:ident: $($model_type:literal)|+,)+) => {
        /// Every `model_type` that the crate itself knows, in registry order.
        pub const MODEL_TYPES: &[&str] = &[$($($model_type),+),+];

        fn builtin(model_type: &str) -> Option<Constructor> {
            match model_type {
                $($($model_type)|+ => Some(|config, weights| {
                    let config = models::$module::Config::from_json(config)?;
                    models::$module::sanitize(&config, weights)?;
                    Ok(Box::new(models::$module::Model::new(&config)?))
                }),)+
                _ => None,
            }
        }
    };
}

architectures! {
    bert: "bert",
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

    /// Finds the constructor for a `model_type`.
    ///
    /// # Errors
    /// [`Error::UnsupportedModel`] listing what is supported.
    pub fn constructor(&self, model_type: &str) -> Result<Constructor> {
        let added = self.added.get(model_type).copied();
        added
            .or_else(|| builtin(model_type))
            .ok_or_else(|| Error::UnsupportedModel {
                model_type: model_type.to_owned(),
                supported: self.model_types(),
            })
    }

    /// Every known `model_type`, sorted.
    #[must_use]
    pub fn model_types(&self) -> Vec<String> {
        let builtin = MODEL_TYPES.iter().map(|&name| name.to_owned());
        let mut all: Vec<String> = builtin.chain(self.added.keys().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }
}
