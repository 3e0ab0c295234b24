//! What a model remembers of the tokens it has already seen.
//!
//! The cache is an argument of [`LanguageModel::forward`](crate::LanguageModel::forward),
//! never hidden state: one entry per layer, made by
//! [`LanguageModel::make_cache`](crate::LanguageModel::make_cache) and owned by
//! the caller. A model reads its position and mask from it, so that the same
//! code serves a first pass, chunked prefill and single-token decoding.

mod attend;
mod batch_kv;
mod batch_rotating;
mod chunked;
mod file;
mod kinds;
mod kv;
mod list;
mod parts;
mod rotating;
mod rows;
mod state;
mod uncached;

use std::any::Any;
use std::fmt::Debug;

use mlx_core::Array;
use mlx_nn::{Mask, Offset};

pub use attend::Attend;
pub use batch_kv::BatchKvCache;
pub use batch_rotating::BatchRotatingCache;
pub use chunked::ChunkedKvCache;
pub use file::{load, save};
pub use kinds::{KindMasks, LayerKind, as_list, as_state, downcast};
pub use kv::KvCache;
pub use list::CacheList;
pub use parts::{KvQuantization, quantize};
pub use rotating::RotatingCache;
pub use rows::{can_trim, left_padded, merge, nbytes, row, select, trim_rows};
pub use state::StateCache;
pub use uncached::{Uncached, for_training};

pub(crate) use kinds::foreign;
pub(crate) use rows::has_states;

use crate::{Error, Result};

/// The memory of a whole model: one entry per layer.
pub type Cache = Vec<Box<dyn LayerCache>>;

/// Buffers grow by this many positions at a time.
pub(crate) const STEP: i32 = 256;

/// The memory of one layer.
///
/// Attention layers use it through [`attend`](LayerCache::attend), which leaves
/// the storage format to the cache. A layer with another kind of state (a
/// convolution, a recurrence) gets the type that it made with [`as_state`],
/// [`as_list`] or [`downcast`], which refuse any other.
///
/// By convention, [`make_cache`](crate::LanguageModel::make_cache) gives each
/// layer an entry, in the order of the layers:
///
/// | layer | entry |
/// |---|---|
/// | attention, with or without a window | [`attention_cache`] |
/// | attention within chunks | [`ChunkedKvCache`] |
/// | recurrence, convolution | [`StateCache`] |
/// | several of them at once | [`CacheList`], attention first |
/// | no memory, or another layer's keys and values | [`StateCache`] without slots |
pub trait LayerCache: Any + Debug + Send + Sync {
    /// Tokens seen so far, which is the position of the next one.
    ///
    /// In a batch of sequences that started apart, this counts the longest;
    /// [`positions`](LayerCache::positions) tells them apart.
    fn offset(&self) -> i32;

    /// The position of each sequence's next token, which is what a rotary
    /// embedding wants.
    fn positions(&self) -> Offset<'_> {
        Offset::Shared(self.offset())
    }

    /// The mask for the next `length` tokens, to be computed once per pass and
    /// shared by layers of the same kind.
    ///
    /// # Errors
    /// Fails if the mask cannot be built.
    fn mask(&self, length: i32) -> Result<Mask>;

    /// Appends keys and values `[B, H, L, D]` and returns all that are kept,
    /// in the order that [`mask`](LayerCache::mask) describes.
    ///
    /// # Errors
    /// Fails if the shapes do not fit what is already kept.
    fn update(&mut self, keys: &Array, values: &Array) -> Result<(Array, Array)>;

    /// Appends keys and values, then attends to all that are kept:
    /// `[B, Hq, L, D]` queries give `[B, Hq, L, D]`.
    ///
    /// # Errors
    /// Fails if the shapes do not fit what is already kept or one another.
    fn attend(
        &mut self,
        queries: &Array,
        keys: &Array,
        values: &Array,
        attend: Attend<'_>,
    ) -> Result<Array> {
        let (keys, values) = self.update(keys, values)?;
        attend.compute(queries, &keys, &values)
    }

    /// Attends to what is kept already and adds nothing: for layers that share
    /// the keys and values of an earlier one, once that one has run.
    ///
    /// # Errors
    /// Fails if the cache is empty, keeps no keys, or if shapes do not fit.
    fn attend_kept(&self, queries: &Array, attend: Attend<'_>) -> Result<Array> {
        let _ = (queries, attend);
        Err(foreign("keys and values", "none"))
    }

    /// The arrays behind the cache, for evaluating or saving it.
    fn state(&self) -> Vec<&Array>;

    /// Forgets the newest `count` tokens, or as many as it can, and returns how
    /// many those were.
    fn trim(&mut self, count: i32) -> i32;

    /// Whether [`trim`](LayerCache::trim) works in the present state.
    fn is_trimmable(&self) -> bool;

    /// Whether [`trim`](LayerCache::trim) can forget that many tokens now.
    fn can_trim(&self, count: i32) -> bool {
        count <= 0 || (self.is_trimmable() && self.offset() >= count)
    }

    /// The number of sequences.
    fn rows(&self) -> usize {
        1
    }

    /// One cache with the sequences of this and then of the others, each at its
    /// own position.
    ///
    /// # Errors
    /// Fails if the others are of another kind, or the kind cannot be batched.
    fn merge(&self, others: &[&dyn LayerCache]) -> Result<Box<dyn LayerCache>> {
        let _ = others;
        Err(foreign("a cache that can be batched", "another"))
    }

    /// The sequences at these indices, as a batch.
    ///
    /// # Errors
    /// As [`merge`](LayerCache::merge), or if there is no such sequence.
    fn select(&self, rows: &[i32]) -> Result<Box<dyn LayerCache>> {
        let _ = rows;
        Err(foreign("a cache that can be batched", "another"))
    }

    /// One sequence of a batch, in the form that a single one has.
    ///
    /// # Errors
    /// As [`select`](LayerCache::select).
    fn row(&self, row: i32) -> Result<Box<dyn LayerCache>> {
        let _ = row;
        Err(foreign("a cache that can be batched", "another"))
    }

    /// Forgets the newest tokens of each sequence, after
    /// [`can_trim`](LayerCache::can_trim) of the largest number has agreed.
    ///
    /// # Errors
    /// Fails if the cache cannot be trimmed, or `counts` has another length.
    fn trim_rows(&mut self, counts: &[i32]) -> Result<()> {
        let first = counts.first().copied().unwrap_or(0);
        if counts.iter().all(|&count| count == first) && self.trim(first) == first {
            Ok(())
        } else {
            Err(foreign("a cache that can be trimmed", "another"))
        }
    }

    /// An empty cache of this kind for a batch that is padded on the left.
    ///
    /// # Errors
    /// As [`merge`](LayerCache::merge).
    fn left_padded(&self, padding: &[i32]) -> Result<Box<dyn LayerCache>> {
        let _ = padding;
        Err(foreign("a cache that can be batched", "another"))
    }

    /// Bytes held, slack included.
    fn nbytes(&self) -> usize {
        self.state().iter().map(|array| array.nbytes()).sum()
    }

    /// A copy that evolves on its own; arrays are shared until written.
    fn boxed_clone(&self) -> Box<dyn LayerCache>;
}

impl Clone for Box<dyn LayerCache> {
    fn clone(&self) -> Self {
        (**self).boxed_clone()
    }
}

/// How [`LanguageModel::make_cache`](crate::LanguageModel::make_cache) sizes
/// its entries.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
#[must_use]
pub struct CacheOptions {
    /// Upper limit of positions kept per layer; older ones are dropped except
    /// the first four. `None` keeps everything.
    pub max_kv_size: Option<i32>,
    /// Packs keys and values; `None` keeps them as computed.
    pub quantization: Option<KvQuantization>,
}

impl CacheOptions {
    /// Packs keys and values.
    pub fn quantization(mut self, quantization: Option<KvQuantization>) -> Self {
        self.quantization = quantization;
        self
    }

    /// Checks the values against their ranges.
    ///
    /// # Errors
    /// [`Error::Option`] naming the value.
    pub fn validate(&self) -> Result<()> {
        if self.max_kv_size.is_some_and(|size| size < 1) {
            return Err(Error::Option {
                option: "max_kv_size",
                message: "must be 1 or more".to_owned(),
            });
        }
        self.quantization.map_or(Ok(()), |format| format.validate())
    }

    /// Limits the positions kept per layer.
    pub fn max_kv_size(mut self, size: Option<i32>) -> Self {
        self.max_kv_size = size;
        self
    }
}

/// Positions at the start of the text that a limited cache never drops, because
/// models park attention there ("Efficient Streaming Language Models with
/// Attention Sinks", 2023).
const SINKS: i32 = 4;

/// The cache of one attention layer: `window` is the layer's own sliding
/// window, `options` the caller's wish.
#[must_use]
pub fn attention_cache(window: Option<i32>, options: &CacheOptions) -> Box<dyn LayerCache> {
    let rotating = |size, keep| RotatingCache::new(size, keep).quantized(options.quantization);
    match (window, options.max_kv_size) {
        (None, None) => Box::new(KvCache {
            quantization: options.quantization,
            ..KvCache::default()
        }),
        (None, Some(limit)) => Box::new(rotating(limit, SINKS)),
        (Some(window), limit) => {
            let size = limit.map_or(window, |limit| window.min(limit));
            Box::new(rotating(size, 0))
        }
    }
}

/// The masks of one pass: one for the layers that see everything, one for those
/// that slide.
#[derive(Debug)]
pub(crate) struct Masks {
    full: Option<Mask>,
    sliding: Option<Mask>,
}

impl Masks {
    /// The masks for `length` new tokens, given each layer's sliding window.
    pub(crate) fn new(
        cache: &[Box<dyn LayerCache>],
        windows: impl ExactSizeIterator<Item = Option<i32>>,
        length: i32,
    ) -> Result<Self> {
        if cache.len() != windows.len() {
            let message = format!("has {} layers, the model {}", cache.len(), windows.len());
            return Err(Error::Option {
                option: "cache",
                message,
            });
        }
        let mut masks = Self {
            full: None,
            sliding: None,
        };
        for (layer, window) in cache.iter().zip(windows) {
            let mask = if window.is_some() {
                &mut masks.sliding
            } else {
                &mut masks.full
            };
            if mask.is_none() {
                *mask = Some(layer.mask(length)?);
            }
        }
        Ok(masks)
    }

    /// The mask of a layer with this sliding window.
    pub(crate) fn of(&self, window: Option<i32>) -> &Mask {
        let mask = if window.is_some() {
            &self.sliding
        } else {
            &self.full
        };
        mask.as_ref().unwrap_or(&Mask::None)
    }
}

/// Forgets the newest `count` tokens in every layer, or nothing at all if some
/// layer cannot; returns whether it did.
pub fn trim(cache: &mut [Box<dyn LayerCache>], count: i32) -> bool {
    let possible = can_trim(cache, count);
    if possible {
        for layer in cache {
            layer.trim(count);
        }
    }
    possible
}
