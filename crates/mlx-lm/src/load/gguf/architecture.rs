//! The families of models that are read, and what their converters do to them.

use super::files::Files;
use crate::{Error, Result};

/// The architectures that are read, by `general.architecture`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Also Mistral and SmolLM, which are stored as Llama.
    Llama,
    /// Stored as a Llama with experts.
    Mixtral,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    Gemma2,
    Gemma3,
    Phi3,
    GptOss,
}

impl Architecture {
    const NAMES: [&str; 9] = [
        "gemma2", "gemma3", "gpt-oss", "llama", "phi3", "qwen2", "qwen2moe", "qwen3", "qwen3moe",
    ];

    pub(super) fn of(file: &Files) -> Result<Self> {
        let metadata = file.metadata();
        Ok(match metadata.str("general.architecture")? {
            "llama" => match metadata.get::<u32>("llama.expert_count")? {
                None | Some(0) => Self::Llama,
                Some(_) => Self::Mixtral,
            },
            "qwen2" => Self::Qwen2,
            "qwen2moe" => Self::Qwen2Moe,
            "qwen3" => Self::Qwen3,
            "qwen3moe" => Self::Qwen3Moe,
            "gemma2" => Self::Gemma2,
            "gemma3" => Self::Gemma3,
            "phi3" => Self::Phi3,
            "gpt-oss" => Self::GptOss,
            other => {
                return Err(Error::UnsupportedModel {
                    model_type: format!("{other} (gguf)"),
                    supported: Self::NAMES
                        .iter()
                        .map(|name| format!("{name} (gguf)"))
                        .collect(),
                });
            }
        })
    }

    /// The prefix of its metadata keys.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama | Self::Mixtral => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen2Moe => "qwen2moe",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3moe",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
            Self::GptOss => "gpt-oss",
        }
    }

    /// The `model_type` that the registry knows it by.
    pub(super) fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mixtral => "mixtral",
            Self::Qwen2 => "qwen2",
            Self::Qwen2Moe => "qwen2_moe",
            Self::Qwen3 => "qwen3",
            Self::Qwen3Moe => "qwen3_moe",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::Phi3 => "phi3",
            Self::GptOss => "gpt_oss",
        }
    }

    /// Whether the converter interleaved the rows of queries and keys, so that
    /// neighbouring ones rotate together.
    pub(super) fn interleaves_heads(self) -> bool {
        matches!(self, Self::Llama | Self::Mixtral)
    }

    /// Whether norms are stored as what they multiply by, while checkpoints
    /// store what is added to one.
    pub(super) fn adds_one_to_norms(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }

    /// The module below a layer for the middle part of a tensor's name.
    pub(super) fn module(self, part: &str) -> Option<&'static str> {
        let own = match self {
            Self::Gemma2 | Self::Gemma3 => match part {
                "post_attention_norm" => Some("post_attention_layernorm"),
                "ffn_norm" => Some("pre_feedforward_layernorm"),
                "post_ffw_norm" => Some("post_feedforward_layernorm"),
                _ => None,
            },
            Self::Phi3 => match part {
                "attn_qkv" => Some("self_attn.qkv_proj"),
                "ffn_up" => Some("mlp.gate_up_proj"),
                _ => None,
            },
            Self::Mixtral => match part {
                "ffn_gate_inp" => Some("block_sparse_moe.gate"),
                "ffn_gate_exps" => Some("block_sparse_moe.switch_mlp.gate_proj"),
                "ffn_up_exps" => Some("block_sparse_moe.switch_mlp.up_proj"),
                "ffn_down_exps" => Some("block_sparse_moe.switch_mlp.down_proj"),
                _ => None,
            },
            Self::Qwen2Moe | Self::Qwen3Moe => match part {
                "ffn_gate_inp" => Some("mlp.gate"),
                "ffn_gate_exps" => Some("mlp.switch_mlp.gate_proj"),
                "ffn_up_exps" => Some("mlp.switch_mlp.up_proj"),
                "ffn_down_exps" => Some("mlp.switch_mlp.down_proj"),
                "ffn_gate_inp_shexp" => Some("mlp.shared_expert_gate"),
                "ffn_gate_shexp" => Some("mlp.shared_expert.gate_proj"),
                "ffn_up_shexp" => Some("mlp.shared_expert.up_proj"),
                "ffn_down_shexp" => Some("mlp.shared_expert.down_proj"),
                _ => None,
            },
            Self::GptOss => match part {
                "post_attention_norm" => Some("post_attention_layernorm"),
                "ffn_gate_inp" => Some("mlp.router"),
                "ffn_gate_exps" => Some("mlp.experts.gate_proj"),
                "ffn_up_exps" => Some("mlp.experts.up_proj"),
                "ffn_down_exps" => Some("mlp.experts.down_proj"),
                _ => None,
            },
            Self::Llama | Self::Qwen2 | Self::Qwen3 => None,
        };
        own.or(match part {
            "attn_norm" => Some("input_layernorm"),
            "attn_q" => Some("self_attn.q_proj"),
            "attn_k" => Some("self_attn.k_proj"),
            "attn_v" => Some("self_attn.v_proj"),
            "attn_output" => Some("self_attn.o_proj"),
            "attn_q_norm" => Some("self_attn.q_norm"),
            "attn_k_norm" => Some("self_attn.k_norm"),
            "ffn_norm" => Some("post_attention_layernorm"),
            "ffn_gate" => Some("mlp.gate_proj"),
            "ffn_up" => Some("mlp.up_proj"),
            "ffn_down" => Some("mlp.down_proj"),
            _ => None,
        })
    }
}
