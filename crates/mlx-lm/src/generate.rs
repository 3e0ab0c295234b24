//! From prompts to streams of text.
//!
//! A [`Generation`] is one answer as an iterator; a [`Generator`] writes many

mod batch;
mod draft;
mod generation;
mod generator;
mod options;
mod prefill;
mod request;
mod sequence;
mod session;
mod speculative;
mod stats;
mod tokens;

pub use draft::{MultiToken, Speculation};
pub use generation::Generation;
pub use generator::{Generator, GeneratorOptions};
pub use options::{CancelFlag, GenerateOptions};
pub use request::{Event, LogitsProcessor, Request, Segment, SequenceId};
pub use session::ChatSession;
pub use stats::{FinishReason, Stats};
pub use tokens::{PrefillProgress, Tokens};
