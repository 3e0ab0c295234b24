//! The architectures, one file each, named after their `model_type`.
//!
//! Every file has the same five parts in the same order: `Config`, attention,
//! MLP, block, and `Model` with `sanitize`.

#[expect(dead_code, reason = "for mixtures of experts")]
mod experts;
mod gemma;
mod heads;
mod sanitize;

pub mod cohere2;
pub mod gemma2;
pub mod gemma3_text;
pub mod glm4;
pub mod gpt2;
pub mod granite;
pub mod llama;
pub mod ministral3;
pub mod olmo2;
pub mod olmo3;
pub mod phi3;
pub mod qwen2;
pub mod qwen3;
pub mod smollm3;
