//! From prompts to streams of text.
//!
//! A [`Generation`] is one answer as an iterator; a [`Generator`] writes many at once, a
//! [`ChatSession`] remembers a conversation, and a [`PromptCache`] keeps a prompt in a file.

use crate::cache::LayerCache;

mod batch;
mod draft;
mod generation;
mod generator;
mod options;
mod prefill;
mod prompt_cache;
mod request;
mod sequence;
mod session;
mod speculative;
mod stats;
mod tokens;
mod vocabulary;

pub use draft::{MultiToken, Speculation};
pub use generation::Generation;
pub use generator::{Generator, GeneratorOptions};
pub use options::{CancelFlag, GenerateOptions};
pub use prompt_cache::PromptCache;
pub use request::{Event, LogitsProcessor, Request, Segment, SequenceId};
pub use session::{ChatSession, Turn};
pub use stats::{FinishReason, Stats};
pub use tokens::{PrefillProgress, Tokens};

/// Tokens that a cache holds.
fn held(cache: &[Box<dyn LayerCache>]) -> usize {
    let offset = cache.iter().map(|layer| layer.offset()).max().unwrap_or(0);
    usize::try_from(offset).unwrap_or(0)
}
