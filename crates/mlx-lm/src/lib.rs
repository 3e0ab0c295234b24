#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

pub mod adapters;
pub mod cache;
pub mod chat;
#[cfg(feature = "cli")]
pub mod cli;
mod config;
pub mod detokenize;
mod error;
pub mod evaluate;
pub mod generate;
pub mod grammar;
pub mod hub;
pub mod load;
pub mod memory;
pub mod models;
pub mod prefix;
pub mod registry;
pub mod sample;
mod stop;
pub mod tokenizer;

pub use error::{Error, Result};
pub use generate::{
    CancelFlag, FinishReason, GenerateOptions, Generation, Generator, Request, Segment, Stats,
};
pub use grammar::Grammar;
pub use load::{LoadProgress, LoadedModel, Loader, load};
pub use registry::{Input, LanguageModel, Registry};
pub use sample::{Sampler, SamplingOptions};
