//! The architectures, one file each, named after their `model_type`.
//!
//! Every file has the same five parts in the same order: `Config`, attention,
//! MLP, block, and `Model` with `sanitize`.

pub mod llama;
pub mod qwen2;
pub mod qwen3;
mod sanitize;
