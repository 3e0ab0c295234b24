//! The architectures, one file each, named after their `model_type`.
//!
//! Every file has the same five parts in the same order: `Config`, attention,
//! MLP, block, and `Model` with `sanitize`.

mod causal_conv;
mod experts;
mod gated_delta_net;
mod gemma;
mod heads;
mod mamba2_mixer;
mod mla;
mod next_token;
mod parts;
mod qwen_mtp;
mod sanitize;

pub mod cohere2;
pub mod deepseek_v2;
pub mod deepseek_v3;
pub mod falcon_h1;
pub mod gemma2;
pub mod gemma3_text;
pub mod gemma4_text;
pub mod glm4;
pub mod glm4_moe;
pub mod gpt2;
pub mod gpt_oss;
pub mod granite;
pub mod granitemoehybrid;
pub mod lfm2;
pub mod llama;
pub mod mamba2;
pub mod ministral3;
pub mod mixtral;
pub mod nemotron_h;
pub mod olmo2;
pub mod olmo3;
pub mod phi3;
pub mod qwen2;
pub mod qwen2_moe;
pub mod qwen3;
pub mod qwen3_5;
pub mod qwen3_moe;
pub mod qwen3_next;
pub mod smollm3;
