"""The cases of lm.py: configurations of tiny models, and the seeds of their weights."""

from dataclasses import dataclass, field

import packings
import tiny_checkpoint

BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": tiny_checkpoint.VOCAB_SIZE,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": 0,
}
ARCHITECTURES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
SHORT, LONG = [1.0, 1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0], [1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0]


@dataclass
class Case:
    model_type: str
    name: str
    seed: int = 0
    dtype: str = "float32"
    # What the weights are stored in, where that is less than what they are computed in.
    stored: str | None = None
    config: dict = field(default_factory=dict)
    drop: tuple = ()
    quantization: dict | None = None
    shards: int = 1
    chat_template: str | None = None
    weights: str | None = None
    # Where mlx-lm departs from the model's own definition, transformers is the oracle.
    oracle: str = "mlx-lm"
    # Who makes the weights: transformers writes the layout that is published.
    maker: str = "mlx-lm"
    # Before which key the text part of a multimodal checkpoint stands.
    wrap: str | None = None
    # A weight of another part of it.
    tower: str | None = None
    # What config.json says of the text part beyond what shapes its plain relative.
    beside: dict = field(default_factory=dict)
    # Whether the text part's keys stand beside `vision_config`, as early configurations have them.
    flat: bool = False
    # How the layers' matrices are packed, one of packings.py.
    packing: str | None = None
    why: str = ""
    cache_invariant: bool = True
    # The case whose checkpoint mlx-lm quantises and writes in its own layout.
    converted: str | None = None

    @property
    def path(self):
        return f"{self.model_type}/{self.name}"

    @property
    def sums_matter(self):
        return self.quantization is not None and self.dtype == "bfloat16"


CASES = [
    Case("llama", "f32", seed=66),
    Case("llama", "bf16", seed=218, dtype="bfloat16", config={"intermediate_size": 96, "tie_word_embeddings": False}),
    Case("llama", "bias", seed=34, stored="bfloat16", config={"attention_bias": True, "mlp_bias": True}),
    Case(
        "llama", "sharded-rope-llama3", seed=26, shards=2, stored="bfloat16",
        config={
            "tie_word_embeddings": False,
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            },
        },
    ),
    Case("llama", "q4-f32", seed=95, config={"intermediate_size": 128}, quantization={"group_size": 64, "bits": 4}),
    Case("llama", "q4-bf16", seed=3208, dtype="bfloat16", config={"intermediate_size": 96}, quantization={"group_size": 32, "bits": 4}),
    Case("llama", "rope-linear", weights="f32", config={"rope_scaling": {"type": "linear", "factor": 2.0}}),
    Case(
        "llama", "rope-dynamic", weights="f32", cache_invariant=False,
        config={"max_position_embeddings": 8, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        why="the base of dynamic NTK follows the length seen so far, so a pass over the whole prompt and one token at a time differ by design",
    ),
    Case(
        "llama", "rope-yarn", weights="f32",
        config={
            "rope_scaling": {
                "rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 32,
                "beta_fast": 4.0, "beta_slow": 1.0,
            },
        },
    ),
    Case(
        "llama", "rope-longrope-short", weights="f32", oracle="transformers",
        config={
            "max_position_embeddings": 8192,
            "rope_scaling": {
                "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG,
                "original_max_position_embeddings": 4096,
            },
        },
        why="mlx-lm always takes the long factors; the reference takes the short ones up to the original length",
    ),
    Case(
        "llama", "rope-longrope-long", weights="f32", oracle="transformers", cache_invariant=False,
        config={
            "max_position_embeddings": 512,
            "rope_scaling": {
                "rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG,
                "original_max_position_embeddings": 8,
            },
        },
        why="past the original length the long factors apply, so the first 8 single steps use other factors than one pass",
    ),
    Case(
        "llama", "rope-parameters", weights="f32", oracle="transformers", drop=("rope_theta",),
        config={"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
        why="mlx-lm's llama overlooks the nested rope_parameters of transformers 5 and falls back to theta 10000",
    ),
    Case("mistral", "f32", seed=17, stored="bfloat16", config={"head_dim": 32, "tie_word_embeddings": False, "sliding_window": None}),
    Case(
        "mistral", "sliding", weights="f32", oracle="transformers",
        config={"head_dim": 32, "tie_word_embeddings": False, "sliding_window": 7},
        why="mlx-lm reads a mistral through its llama and ignores sliding_window",
    ),
    Case("qwen2", "f32", seed=0, stored="bfloat16", config={"tie_word_embeddings": False, "rope_theta": 1000000.0}),
    Case("qwen2", "bf16", seed=928, dtype="bfloat16", config={"intermediate_size": 96, "rope_theta": 1000000.0}, chat_template="inside"),
    Case("qwen2", "q4-bf16", seed=6147, dtype="bfloat16", config={"intermediate_size": 96, "rope_theta": 1000000.0, "tie_word_embeddings": False}, quantization={"group_size": 32, "bits": 4}),
    Case("qwen3", "f32", seed=555, stored="bfloat16", config={"intermediate_size": 96, "head_dim": 32, "rope_theta": 1000000.0}),
    Case("qwen3", "bf16", seed=635, dtype="bfloat16", config={"intermediate_size": 96, "head_dim": 32, "rope_theta": 1000000.0, "tie_word_embeddings": False}, chat_template="beside"),
    Case(
        "qwen3", "q4-mixed", seed=2968, dtype="bfloat16",
        config={"head_dim": 32, "rope_theta": 1000000.0, "intermediate_size": 128},
        quantization={
            "group_size": 64, "bits": 4,
            "model.layers.0.mlp.down_proj": {"group_size": 32, "bits": 8},
            "model.layers.1.self_attn.v_proj": False,
        },
    ),
]

# The published layout: transformers makes the weights, stored in bfloat16 to keep them small and
# computed in float32 by everybody.

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": tiny_checkpoint.VOCAB_SIZE,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16,
    "beta_fast": 4.0, "beta_slow": 1.0,
}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 10000.0}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
MLA = {
    "kv_lora_rank": 32, "q_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 32,
    "num_key_value_heads": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 4, "topk_group": 2,
    "routed_scaling_factor": 1.5, "rope_theta": 10000.0,
    "rope_scaling": YARN | {"type": "yarn", "mscale": 0.7, "mscale_all_dim": 0.9},
}
WINDOW = "mlx-lm ignores the sliding window of this architecture"


def published(model_type, name="f32", seed=0, drop=("hidden_act",), **fields):
    fields.setdefault("maker", "transformers")
    return Case(model_type, name, seed=seed, drop=drop, **fields)


CASES += [
    published(
        "gemma2", oracle="transformers", why="mlx-lm gives every layer full attention",
        config=GEMMA | {"sliding_window": 7, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 40.0},
    ),
    published(
        "gemma2", "wide", weights="f32",
        config=GEMMA | {"sliding_window": 4096, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 40.0},
    ),
    published(
        "gemma3_text", seed=2, oracle="transformers", why="mlx-lm rounds the factor of the embeddings to bfloat16 in float32 too",
        config=GEMMA | {
            "num_hidden_layers": 4, "sliding_window": 7, "sliding_window_pattern": 3, "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "num_key_value_heads": 1,
        },
    ),
    published(
        "gemma3_text", "rope-parameters", weights="f32", oracle="transformers",
        why="mlx-lm overlooks layer_types and rope_parameters here",
        config={k: v for k, v in GEMMA.items() if k != "rope_theta"} | {
            "num_hidden_layers": 4, "sliding_window": 5, "num_key_value_heads": 1,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0},
            },
        },
    ),
    published(
        "gemma3", seed=2, wrap="language_model.", oracle="transformers",
        why="mlx-lm rounds the factor of the embeddings to bfloat16 in float32 too",
        config=GEMMA | {
            "num_hidden_layers": 3, "sliding_window": 7, "sliding_window_pattern": 2, "rope_theta": 1000000.0,
            "rope_local_base_freq": 10000.0, "num_key_value_heads": 1,
        },
    ),
    published("phi3", seed=1, drop=(), config={"rope_theta": 10000.0}),
    published(
        "phi3", "sliding", weights="f32", drop=(), oracle="transformers", why=WINDOW,
        config={"rope_theta": 10000.0, "sliding_window": 6},
    ),
    published(
        "phi3", "longrope-short", weights="f32", drop=(), oracle="transformers",
        why="mlx-lm always takes the long factors; the reference takes the short ones up to the original length",
        config={
            "rope_theta": 10000.0, "original_max_position_embeddings": 256, "partial_rotary_factor": 0.5,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.3], "long_factor": [1.0, 6.0]},
        },
    ),
    published(
        "phi3", "longrope-long", weights="f32", drop=(), oracle="transformers", cache_invariant=False,
        why="past the original length the long factors apply, so the first 8 single steps use other factors than one pass",
        config={
            "rope_theta": 10000.0, "original_max_position_embeddings": 8, "partial_rotary_factor": 0.5,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.3], "long_factor": [1.0, 6.0]},
        },
    ),
    published(
        "smollm3", drop=(),
        config={"num_hidden_layers": 3, "no_rope_layer_interval": 2, "rope_theta": 50000.0, "tie_word_embeddings": True},
    ),
    published("olmo2", drop=(), config={"rope_theta": 500000.0, "tie_word_embeddings": False}),
    published(
        "olmo3", drop=(),
        config={
            "num_hidden_layers": 4, "sliding_window": 6, "rope_theta": 500000.0, "tie_word_embeddings": False,
            "rope_scaling": YARN,
        },
    ),
    published(
        "granite", drop=(),
        config={
            "logits_scaling": 4.0, "attention_multiplier": 0.4, "embedding_multiplier": 0.5, "residual_multiplier": 0.6,
            "attention_bias": False, "mlp_bias": True, "rope_theta": 10000.0, "tie_word_embeddings": True,
        },
    ),
    published(
        "cohere2", drop=("rms_norm_eps",),
        config={
            "num_hidden_layers": 4, "sliding_window": 6, "sliding_window_pattern": 3, "layer_norm_eps": 1e-5,
            "logit_scale": 0.25, "head_dim": 8, "rope_theta": 50000.0, "tie_word_embeddings": True,
        },
    ),
    published(
        "glm4", drop=(),
        config={
            "head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True, "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
    ),
    published(
        "gpt2", seed=3, oracle="transformers", why="mlx-lm reads checkpoints of the bare model only",
        drop=(
            "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads",
            "rms_norm_eps", "max_position_embeddings", "hidden_act",
        ),
        config={
            "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128, "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new", "tie_word_embeddings": True,
        },
    ),
    published(
        "ministral3", drop=(),
        config={
            "head_dim": 16, "tie_word_embeddings": False, "sliding_window": None,
            "rope_parameters": YARN | {
                "rope_theta": 1000000.0, "llama_4_scaling_beta": 0.3, "mscale": 1.0, "mscale_all_dim": 1.0,
            },
        },
    ),
    published(
        "mistral3", drop=(), wrap="model.language_model.",
        config={
            "head_dim": 16, "tie_word_embeddings": False, "sliding_window": None,
            "rope_parameters": YARN | {
                "rope_theta": 1000000.0, "llama_4_scaling_beta": 0.3, "mscale": 1.0, "mscale_all_dim": 1.0,
            },
        },
    ),
    published(
        "mixtral", seed=3, drop=(),
        config={
            "num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1000000.0, "sliding_window": None,
            "tie_word_embeddings": False,
        },
    ),
    published(
        "qwen2_moe", drop=(), oracle="transformers", why="mlx-lm overlooks norm_topk_prob and decoder_sparse_step here",
        config=EXPERTS | {
            "shared_expert_intermediate_size": 32, "decoder_sparse_step": 2, "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
        },
    ),
    published(
        "qwen2_moe", "plain", drop=(),
        config=EXPERTS | {
            "norm_topk_prob": False, "shared_expert_intermediate_size": 32, "rope_theta": 1000000.0,
            "tie_word_embeddings": False, "decoder_sparse_step": 1,
        },
    ),
    published(
        "qwen3_moe", seed=1, drop=(),
        config=EXPERTS | {
            "num_hidden_layers": 3, "head_dim": 16, "decoder_sparse_step": 1, "mlp_only_layers": [1],
            "rope_theta": 1000000.0, "tie_word_embeddings": False,
        },
    ),
    published(
        "gpt_oss", drop=(), oracle="transformers", why="mlx-lm reads experts in mxfp4 only",
        config={
            "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"], "rope_theta": 150000.0,
            "rope_scaling": YARN | {"truncate": False}, "tie_word_embeddings": False, "attention_bias": True,
        },
    ),
    published(
        "glm4_moe", drop=(),
        config={
            "num_hidden_layers": 3, "head_dim": 16, "partial_rotary_factor": 0.5, "attention_bias": True,
            "use_qk_norm": True, "rope_theta": 1000000.0, "tie_word_embeddings": False, "n_group": 1, "topk_group": 1,
            "n_shared_experts": 1, "n_routed_experts": 8, "routed_scaling_factor": 1.5, "num_experts_per_tok": 2,
            "first_k_dense_replace": 1, "moe_intermediate_size": 32, "norm_topk_prob": True, "rope_scaling": None,
        },
    ),
    published(
        "deepseek_v2", seed=1, drop=(),
        config=MLA | {"topk_method": "group_limited_greedy", "tie_word_embeddings": False},
    ),
    published(
        "deepseek_v2", "lite", drop=(), oracle="transformers",
        why="mlx-lm cannot do without rope_scaling",
        config=MLA | {
            "topk_method": "greedy", "q_lora_rank": None, "rope_scaling": None, "n_group": 1, "topk_group": 1,
            "tie_word_embeddings": False,
        },
    ),
    published(
        "deepseek_v3", seed=1, drop=(),
        config=MLA | {
            "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "tie_word_embeddings": False,
        },
    ),
    published(
        "gemma4_text",
        config={
            "num_hidden_layers": 6, "head_dim": 8, "global_head_dim": 16, "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 6, "num_kv_shared_layers": 2, "use_double_wide_mlp": True,
            "layer_types": ["sliding_attention", "full_attention"] * 3, "final_logit_softcapping": 40.0,
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": tiny_checkpoint.VOCAB_SIZE,
            "num_key_value_heads": 1, "intermediate_size": 32,
        },
    ),
    published(
        "gemma4_text", "experts", seed=3,
        config={
            "num_hidden_layers": 2, "head_dim": 8, "global_head_dim": 16, "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 6, "num_kv_shared_layers": 0, "use_double_wide_mlp": False, "attention_k_eq_v": True,
            "num_global_key_value_heads": 1, "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 40.0, "hidden_size_per_layer_input": 0, "enable_moe_block": True,
            "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32,
        },
    ),
]

DELTA = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4, "head_dim": 16, "rope_theta": 10000.0, "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
}
SHARED_EXPERT = EXPERTS | {"shared_expert_intermediate_size": 32}
LINEAR_THEN_FULL = ["linear_attention", "linear_attention", "full_attention"]
LFM2 = {
    "norm_eps": 1e-5, "conv_bias": False, "conv_L_cache": 3, "block_auto_adjust_ff_dim": False, "rope_theta": 1000000.0,
    "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"],
}
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_n_groups": 2,
}

CASES += [
    published(
        "qwen3_next", oracle="transformers", why="mlx-lm reads full_attention_interval alone, and no nested rope",
        config=DELTA | SHARED_EXPERT | {
            "num_hidden_layers": 3, "decoder_sparse_step": 1, "mlp_only_layers": [1], "layer_types": LINEAR_THEN_FULL,
        },
    ),
    published(
        "qwen3_5_text", oracle="transformers", why="mlx-lm reads full_attention_interval alone",
        config=DELTA | {"num_hidden_layers": 3, "layer_types": LINEAR_THEN_FULL},
    ),
    published(
        "qwen3_5_moe_text", oracle="transformers", why="mlx-lm reads full_attention_interval alone",
        config=DELTA | SHARED_EXPERT | {"num_hidden_layers": 3, "layer_types": LINEAR_THEN_FULL},
    ),
    published(
        "lfm2", drop=("hidden_act", "rms_norm_eps"), oracle="transformers", why="mlx-lm wants keys of the first releases",
        config=LFM2,
    ),
    published(
        "lfm2_moe", drop=("hidden_act", "rms_norm_eps"),
        config=LFM2 | {
            "num_experts": 8, "num_experts_per_tok": 2, "num_dense_layers": 1, "moe_intermediate_size": 32,
            "norm_topk_prob": True, "use_expert_bias": True, "routed_scaling_factor": 1.0,
        },
    ),
    published(
        "mamba2", oracle="transformers", why="mlx-lm has one epsilon for all norms of the blocks, and no groups in the gated norm",
        drop=("intermediate_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings"),
        config={
            "num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "conv_kernel": 4, "n_groups": 2, "chunk_size": 8,
            "layer_norm_epsilon": 1e-3, "use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True,
            "time_step_limit": [0.0, 100.0],
        },
    ),
    published(
        "falcon_h1", oracle="transformers", drop=(),
        why="mlx-lm leaves out the multipliers of keys and values and the groups of the gated norm",
        config=MAMBA | {
            "mamba_d_ssm": 64, "mamba_chunk_size": 8, "mamba_rms_norm": True, "mamba_norm_before_gate": False,
            "mamba_proj_bias": True, "projectors_bias": True, "attention_bias": True, "mlp_bias": True, "head_dim": 8,
            "attention_in_multiplier": 0.8, "attention_out_multiplier": 0.9, "embedding_multiplier": 2.5, "key_multiplier": 0.7,
            "lm_head_multiplier": 0.5, "mlp_multipliers": [0.9, 0.8], "ssm_in_multiplier": 1.2, "ssm_out_multiplier": 0.7,
            "ssm_multipliers": [0.5, 0.9, 0.8, 1.1, 0.6], "rope_theta": 100000.0, "tie_word_embeddings": False,
        },
    ),
    published(
        "falcon_h1", "tied", seed=1, oracle="transformers", drop=(),
        why="mlx-lm leaves out the multipliers of keys and values",
        config=MAMBA | {
            "mamba_d_ssm": 64, "mamba_chunk_size": 8, "mamba_rms_norm": False, "head_dim": 8, "embedding_multiplier": 2.5,
            "key_multiplier": 0.7, "lm_head_multiplier": 0.5, "rope_theta": 100000.0, "tie_word_embeddings": True,
        },
    ),
    published(
        "granitemoehybrid", drop=(), oracle="transformers", why="mlx-lm clips time steps that the reference does not",
        config=MAMBA | {
            "num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"], "mamba_expand": 2, "mamba_chunk_size": 8,
            "mamba_proj_bias": False, "mamba_conv_bias": True, "shared_intermediate_size": 32, "num_local_experts": 4,
            "num_experts_per_tok": 2, "position_embedding_type": "rope", "rope_theta": 10000.0, "logits_scaling": 4.0,
            "attention_multiplier": 0.4, "embedding_multiplier": 0.5, "residual_multiplier": 0.6, "tie_word_embeddings": True,
        },
    ),
    published(
        "granitemoehybrid", "dense", seed=1, drop=(), oracle="transformers", why="mlx-lm takes another width for the dense block",
        config=MAMBA | {
            "num_hidden_layers": 2, "layer_types": ["mamba", "attention"], "mamba_expand": 2, "mamba_chunk_size": 8,
            "mamba_proj_bias": False, "mamba_conv_bias": True, "shared_intermediate_size": 48, "num_local_experts": 0,
            "num_experts_per_tok": 0, "position_embedding_type": "nope", "logits_scaling": 4.0, "attention_multiplier": 0.4,
            "embedding_multiplier": 0.5, "residual_multiplier": 0.6, "tie_word_embeddings": True,
        },
    ),
    published(
        "nemotron_h", drop=("hidden_act", "rms_norm_eps", "num_hidden_layers"),
        config={
            "hybrid_override_pattern": "M*-E", "layer_norm_epsilon": 1e-5, "mamba_num_heads": 8, "mamba_head_dim": 8,
            "ssm_state_size": 8, "conv_kernel": 4, "n_groups": 2, "chunk_size": 8, "head_dim": 8, "attention_bias": False,
            "mamba_proj_bias": False, "mlp_bias": False, "use_bias": False, "use_conv_bias": True, "mlp_hidden_act": "relu2",
            "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 1,
            "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "norm_topk_prob": True, "routed_scaling_factor": 1.5,
            "tie_word_embeddings": False,
        },
    ),
]

# Wrappers and aliases, as small as they can be: what counts is that their keys are found.

TINY = {"hidden_size": 16, "intermediate_size": 32, "head_dim": 8, "rope_theta": 10000.0, "tie_word_embeddings": True}
SECTIONS = {"mrope_section": [2, 1, 1]}
VISUAL = "model.visual.patch_embed.weight"
TINY_GEMMA4 = TINY | {
    "num_hidden_layers": 2, "global_head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 6,
    "num_kv_shared_layers": 0, "use_double_wide_mlp": False, "layer_types": ["sliding_attention", "full_attention"],
    "final_logit_softcapping": 40.0, "vocab_size_per_layer_input": tiny_checkpoint.VOCAB_SIZE, "num_key_value_heads": 1,
}
TINY_GEMMA4.pop("rope_theta")
TINY_DELTA = TINY | {
    "num_hidden_layers": 2, "linear_num_value_heads": 2, "linear_num_key_heads": 1, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "partial_rotary_factor": 0.5,
    "layer_types": ["linear_attention", "full_attention"],
}
TINY_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
WRAPPED = "the text part alone, which is a model of its own"


def wrapper(model_type, name="f32", seed=0, wrap="model.language_model.", tower=VISUAL, **fields):
    return published(model_type, name, seed, wrap=wrap, tower=tower, oracle="transformers", why=WRAPPED, **fields)


CASES += [
    wrapper(
        "gemma3", "sparse", wrap="language_model.", tower=None,
        drop=("hidden_act", "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings"),
        config=TINY | {
            "head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 7, "sliding_window_pattern": 2,
            "rope_local_base_freq": 10000.0,
        },
    ),
    wrapper("gemma4", config=TINY_GEMMA4 | {"hidden_size_per_layer_input": 4}, tower="model.vision_tower.patch_embed.weight"),
    wrapper(
        "gemma4_unified", config=TINY_GEMMA4 | {"hidden_size_per_layer_input": 0},
        tower="model.vision_embedder.weight",
    ),
    wrapper(
        "qwen2_vl", seed=6, config={k: v for k, v in TINY.items() if k != "head_dim"}, drop=(), flat=True, wrap="model.",
        tower="visual.patch_embed.weight", beside={"rope_scaling": {"type": "mrope"} | SECTIONS},
    ),
    wrapper(
        "qwen2_5_vl", seed=3, config={k: v for k, v in TINY.items() if k != "head_dim"}, drop=(),
        beside={"model_type": "qwen2_5_vl_text", "rope_scaling": {"type": "default", "rope_type": "default"} | SECTIONS},
    ),
    wrapper(
        "qwen3_vl", seed=6, config=TINY, drop=(),
        beside={
            "model_type": "qwen3_vl_text",
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True} | SECTIONS,
        },
    ),
    wrapper(
        "qwen3_vl_moe", seed=1, drop=(),
        config=TINY | TINY_EXPERTS | {"decoder_sparse_step": 1, "norm_topk_prob": True, "tie_word_embeddings": False},
        beside={
            "model_type": "qwen3_vl_moe_text",
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True} | SECTIONS,
        },
    ),
    wrapper("qwen3_5", config=TINY_DELTA, drop=()),
    wrapper("qwen3_5_moe", config=TINY_DELTA | TINY_EXPERTS | {"shared_expert_intermediate_size": 8}, drop=()),
    published(
        "kimi_k2", seed=1, drop=(), weights="../deepseek_v3/f32", oracle="transformers",
        why="mlx-lm takes it for the DeepSeek-V3 that it is",
        config=MLA | {
            "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "tie_word_embeddings": False,
            "n_group": 1, "topk_group": 1,
        },
    ),
    published(
        "lfm2", "rope-scaling", weights="f32", drop=("hidden_act", "rms_norm_eps"), oracle="transformers",
        why="mlx-lm reads no rope_scaling here", config=LFM2 | {"rope_theta": 10000.0, "rope_scaling": YARN},
    ),
    published(
        "gemma4_text", "rope-scaling", weights="experts", oracle="transformers", seed=3,
        why="mlx-lm reads no rope_scaling here",
        config={
            "num_hidden_layers": 2, "head_dim": 8, "global_head_dim": 16, "hidden_activation": "gelu_pytorch_tanh",
            "sliding_window": 6, "num_kv_shared_layers": 0, "use_double_wide_mlp": False, "attention_k_eq_v": True,
            "num_global_key_value_heads": 1, "layer_types": ["sliding_attention", "full_attention"],
            "final_logit_softcapping": 40.0, "hidden_size_per_layer_input": 0, "enable_moe_block": True,
            "num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 32,
            "rope_theta": 5000.0,
            "rope_scaling": {
                "full_attention": {"rope_type": "linear", "factor": 2.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
]

CASES += [
    published(
        "llama", name, seed=5, drop=(), packing=name, oracle="transformers",
        why="a model of the matrices that the packed ones decode to",
        config={"rope_theta": 10000.0, "tie_word_embeddings": True, "quantization_config": packings.PACKINGS[name][1]},
    )
    for name in packings.PACKINGS
]
CASES.append(
    published(
        "gpt_oss", "mxfp4", drop=(), packing="gpt-oss",
        config={
            "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"], "rope_theta": 150000.0,
            "rope_scaling": YARN, "tie_word_embeddings": False, "attention_bias": True,
            "quantization_config": {"quant_method": "mxfp4"},
        },
    )
)

# As mlx-lm's own `convert` leaves them: experts stacked, keys renamed, 4 bits.
CASES += [
    Case(model_type, "q4-mlx", converted=source, maker="mlx-lm", config=config)
    for model_type, source, config in [
        ("cohere2", "f32", {}),
        ("deepseek_v2", "f32", {}),
        ("deepseek_v3", "f32", {}),
        ("gemma2", "f32", {"sliding_window": 4096}),
        ("gemma4_text", "experts", {}),
        ("glm4", "f32", {}),
        ("glm4_moe", "f32", {}),
        ("gpt_oss", "mxfp4", {}),
        ("lfm2_moe", "f32", {}),
        ("ministral3", "f32", {}),
        ("mixtral", "f32", {}),
        ("nemotron_h", "f32", {}),
        ("olmo3", "f32", {}),
        ("phi3", "f32", {}),
        ("qwen2_moe", "plain", {}),
        ("qwen3_moe", "f32", {}),
        # mlx-lm reads no layer_types here.
        ("qwen3_next", "f32", {"full_attention_interval": 3}),
    ]
]

# What stands inside a multimodal configuration, or is meant by an alias: the class in transformers.
INNER = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_text",
    "kimi_k2": "deepseek_v3",
    "mistral3": "ministral3",
    "qwen2_5_vl": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3",
    "qwen3_vl_moe": "qwen3_moe",
}


def text_config_of(case):
    """The configuration of the language model itself."""
    base = SMALL if case.maker == "transformers" else BASE
    config = {"model_type": INNER.get(case.model_type, case.model_type)}
    return config | {k: v for k, v in base.items() if k not in case.drop} | case.config


def config_of(case):
    """config.json."""
    if case.maker == "transformers":
        config = text_config_of(case) | case.beside
        towers = {"vision_config": {"hidden_size": 8}}
        if case.flat:
            config |= towers | {"model_type": case.model_type}
        elif case.wrap:
            config = {"model_type": case.model_type, "text_config": config} | towers
        elif case.weights:
            config["model_type"] = case.model_type
        config["torch_dtype"] = "bfloat16"
    else:
        config = {"architectures": [ARCHITECTURES[case.model_type] + "ForCausalLM"]} | text_config_of(case)
        config["torch_dtype"] = case.stored or case.dtype
    if case.quantization:
        config["quantization"] = case.quantization
    return config
