//! Behaviour of the crate as its users see it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed expectation fails the test"
)]

mod adapters;
mod cache;
mod cache_batch;
mod cache_file;
mod cache_kinds;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod commands;
#[cfg(feature = "cli")]
mod convert;
#[cfg(feature = "cli")]
mod flags;
mod formats;
mod generate;
mod generator;
mod generator_errors;
mod gguf;
mod grammar;
mod grammar_suite;
#[cfg(feature = "hub")]
mod hub;
mod load;
mod load_heads;
mod lora_example;
mod mtp;
mod sample;
mod sample_formulae;
mod support;
#[cfg(all(feature = "cli", unix))]
mod terminal;
mod text;
