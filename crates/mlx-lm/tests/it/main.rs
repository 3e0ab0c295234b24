//! Behaviour of the crate as its users see it.

mod cache;
#[cfg(feature = "cli")]
mod cli;
mod generate;
mod gguf;
mod load;
mod sample;
mod support;
mod text;
