//! A pass that remembers nothing, for training.

use std::any::Any;

use mlx_core::Array;
use mlx_nn::Mask;

use super::{Attend, Cache, CacheOptions, KvCache, LayerCache, foreign};
use crate::{LanguageModel, Result};

/// Stands in for a [`KvCache`] where a text is seen whole and once: keys and values are used as
/// they come, so a gradient has no copies of them to go through.
#[derive(Debug, Clone, Default)]
pub struct Uncached {
    last: Option<(Array, Array)>,
}

impl LayerCache for Uncached {
    fn offset(&self) -> i32 {
        0
    }

    fn mask(&self, length: i32) -> Result<Mask> {
        Ok(Mask::causal(length, 0, None)?)
    }

    fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)> {
        let pair = (keys.clone(), values.clone());
        self.last = Some(pair.clone());
        Ok(pair)
    }

    fn attend_kept(&self, queries: &Array, attend: Attend<'_>) -> Result<Array> {
        match &self.last {
            Some((keys, values)) => attend.compute(queries, keys, values),
            None => Err(foreign("keys and values", "none")),
        }
    }

    fn state(&self) -> Vec<&Array> {
        self.last
            .iter()
            .flat_map(|(keys, values)| [keys, values])
            .collect()
    }

    fn trim(&mut self, _: i32) -> i32 {
        0
    }

    fn is_trimmable(&self) -> bool {
        false
    }

    fn boxed_clone(&self) -> Box<dyn LayerCache> {
        Box::new(self.clone())
    }
}

/// The cache of one training pass: as the model makes it, with plain attention layers
/// [`Uncached`].
#[must_use]
pub fn for_training(model: &dyn LanguageModel) -> Cache {
    let fresh = model.make_cache(&CacheOptions::default());
    let plain = |layer: Box<dyn LayerCache>| -> Box<dyn LayerCache> {
        let any: &dyn Any = layer.as_ref();
        if any.is::<KvCache>() {
            Box::new(Uncached::default())
        } else {
            layer
        }
    };
    fresh.into_iter().map(plain).collect()
}
