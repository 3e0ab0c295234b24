//! From the cache that a model is handed to the kind that a layer made, and
//! the masks that the kinds share.

use std::any::Any;
use std::fmt::Display;

use mlx_core::Array;
use mlx_nn::Mask;

use super::{CacheList, LayerCache, StateCache};
use crate::{Error, Result};

/// What a layer remembers, which decides the mask that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayerKind {
    /// Attention to everything.
    Full,
    /// Attention to the newest positions, that many.
    Sliding(i32),
    /// Attention within chunks of that many positions.
    Chunked(i32),
    /// A recurrence or a convolution.
    Recurrent,
    /// Nothing: a layer without memory, whose cache entry stays empty.
    Stateless,
}

impl LayerKind {
    /// Attention with or without a sliding window.
    #[must_use]
    pub const fn attention(window: Option<i32>) -> Self {
        match window {
            Some(window) => Self::Sliding(window),
            None => Self::Full,
        }
    }
}

/// The masks of one pass through a model whose layers are of several kinds.
#[derive(Debug, Default)]
pub struct KindMasks {
    masks: Vec<(LayerKind, Mask)>,
    tokens: Option<Array>,
}

impl KindMasks {
    /// The masks for `length` new tokens, given each layer's kind.
    ///
    /// # Errors
    /// [`Error::Option`] if the cache was not made for these layers.
    pub fn new(
        cache: &[Box<dyn LayerCache>],
        kinds: impl ExactSizeIterator<Item = LayerKind>,
        length: i32,
    ) -> Result<Self> {
        if cache.len() != kinds.len() {
            return Err(foreign(&format!("{} layers", kinds.len()), cache.len()));
        }
        let mut masks = Self::default();
        let mut tokens_known = false;
        for (layer, kind) in cache.iter().zip(kinds) {
            match kind {
                LayerKind::Stateless => {}
                LayerKind::Recurrent if tokens_known => {}
                LayerKind::Recurrent => {
                    masks.tokens = states(layer.as_ref())?.token_mask(length)?;
                    tokens_known = true;
                }
                _ if masks.masks.iter().any(|(known, _)| *known == kind) => {}
                _ => masks.masks.push((kind, layer.mask(length)?)),
            }
        }
        Ok(masks)
    }

    /// The attention mask of layers of this kind.
    #[must_use]
    pub fn of(&self, kind: LayerKind) -> &Mask {
        let found = self.masks.iter().find(|(known, _)| *known == kind);
        found.map_or(&Mask::None, |(_, mask)| mask)
    }

    /// Which positions hold tokens and not padding, `[B, L]` of booleans, for
    /// recurrent layers; `None` if all do.
    #[must_use]
    pub fn tokens(&self) -> Option<&Array> {
        self.tokens.as_ref()
    }
}

/// The states of a recurrent layer.
///
/// # Errors
/// [`Error::Option`] if the cache is of another kind.
pub fn as_state(layer: &mut dyn LayerCache) -> Result<&mut StateCache> {
    downcast(layer, "states")
}

/// The parts of a layer with several caches.
///
/// # Errors
/// [`Error::Option`] if the cache is of another kind.
pub fn as_list(layer: &mut dyn LayerCache) -> Result<&mut CacheList> {
    downcast(layer, "a list of caches")
}

/// The states among a layer's caches.
fn states(layer: &dyn LayerCache) -> Result<&StateCache> {
    let any: &dyn Any = layer;
    if let Some(list) = any.downcast_ref::<CacheList>() {
        let parts = list.parts().iter();
        let found = parts.map(|part| states(part.as_ref())).find(Result::is_ok);
        return found.unwrap_or_else(|| Err(foreign("states among the parts", "none")));
    }
    any.downcast_ref()
        .ok_or_else(|| foreign("states", "something else"))
}

/// A layer's cache as the type that its model makes.
///
/// # Errors
/// [`Error::Option`] if the cache is of another type.
pub fn downcast<'a, T: LayerCache>(
    layer: &'a mut dyn LayerCache,
    expected: &str,
) -> Result<&'a mut T> {
    let any: &mut dyn Any = layer;
    any.downcast_mut()
        .ok_or_else(|| foreign(expected, "another kind of cache"))
}

/// The error for a cache that a model did not make.
pub(crate) fn foreign(expected: &str, found: impl Display) -> Error {
    Error::Option {
        option: "cache",
        message: format!("was not made by this model: expected {expected}, found {found}"),
    }
}
