//! Text to tokens and back.
//!
//! A [`Tokenizer`] is read from a Hugging Face folder or built from the vocabulary that a GGUF
//! file carries. It also holds what belongs to the text side of a checkpoint: its special tokens,
//! the tokens that end an answer and its chat templates.

mod error;
mod folder;
mod gguf;
mod sentencepiece;
mod special;
mod tiktoken;
mod wrapper;

pub use error::{Result, TextError};
pub use gguf::GgufVocab;
pub use special::SpecialTokens;
pub use wrapper::Tokenizer;
