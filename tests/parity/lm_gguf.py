"""Tiny GGUF files of each family that is read, and the logits of what they hold.

A case makes a random model in transformers, rounds each of its tensors to what the file's type can
hold, writes those under the names of llama.cpp's `gguf` package, and keeps the logits that
transformers computes of the same rounded values. Where llama.cpp is installed, its logits are compared
too: of a twin of the file that holds the same values in float32, because it rounds activations before
it multiplies them with anything packed.

One folder per case below fixtures/lm_gguf: `model.gguf`, `note.json` and `golden.safetensors` with
  prompt  int32 [17]
  logits  [6, 300]    of the last positions
"""

import common
import gguf
import lm
import mlx.core as mx
import numpy as np
import tiny_checkpoint
from gguf import GGMLQuantizationType as Type
from lm_cases import EXPERTS, GEMMA, SMALL, YARN, published

KEPT = 6
LONG_ROPE = {"type": "longrope", "short_factor": [1.0, 1.3, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0, 6.0]}

CASES = [
    published("llama", drop=(), config={"rope_theta": 10000.0, "tie_word_embeddings": True}),
    published(
        "mixtral", drop=(),
        config={
            "num_local_experts": 4, "num_experts_per_tok": 2, "rope_theta": 1000000.0, "sliding_window": None,
            "tie_word_embeddings": False,
        },
    ),
    published("qwen2", drop=(), config={"rope_theta": 1000000.0, "tie_word_embeddings": True}),
    published("qwen3", drop=(), config={"rope_theta": 1000000.0, "tie_word_embeddings": True, "head_dim": 16}),
    published(
        "qwen2_moe", drop=(),
        config=EXPERTS | {
            "norm_topk_prob": False, "shared_expert_intermediate_size": 64, "rope_theta": 1000000.0,
            "tie_word_embeddings": False, "decoder_sparse_step": 1,
        },
    ),
    published(
        "qwen3_moe", drop=(),
        config=EXPERTS | {
            "head_dim": 16, "decoder_sparse_step": 1, "mlp_only_layers": [], "rope_theta": 1000000.0,
            "tie_word_embeddings": False,
        },
    ),
    published(
        "gemma2",
        config=GEMMA | {"sliding_window": 7, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 40.0},
    ),
    published(
        "gemma3_text",
        config=GEMMA | {
            "num_hidden_layers": 6, "sliding_window": 7, "num_key_value_heads": 1, "rope_theta": 1000000.0,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"], "rope_local_base_freq": 10000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    published("phi3", drop=(), config={"rope_theta": 10000.0, "tie_word_embeddings": False}),
    published(
        "phi3", "longrope", drop=(),
        config={
            "rope_theta": 10000.0, "original_max_position_embeddings": 256, "rope_scaling": LONG_ROPE,
            "tie_word_embeddings": False,
        },
    ),
    published(
        "gpt_oss", drop=(),
        config={
            "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention"], "rope_theta": 150000.0,
            "rope_scaling": YARN | {"truncate": False}, "tie_word_embeddings": False, "attention_bias": True,
        },
    ),
]
ARCHITECTURES = {
    "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3", "gpt_oss": "gpt-oss",
}

# The middle of a name in transformers and in the file.
PARTS = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.sinks": "attn_sinks",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up", "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps", "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def file_name(case, key):
    if key.endswith("sinks"):
        key += ".weight"
    path, kind = key.rsplit(".", 1)
    if path in WHOLE:
        return f"{WHOLE[path]}.{kind}"
    layer, part = path.removeprefix("model.layers.").split(".", 1)
    parts = dict(PARTS)
    if case.model_type.startswith("gemma"):
        parts |= SANDWICH
    if case.model_type == "gpt_oss":
        parts["post_attention_layernorm"] = "post_attention_norm"
    return f"blk.{layer}.{parts[part]}.{kind}"


def type_of(case, key, shape):
    """How a tensor is stored: of every kind that the family's files have."""
    if len(shape) < 2 or "norm" in key or key.endswith("bias") or "router" in key or key.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
        return Type.F32
    if "embed_tokens" in key or "lm_head" in key or "v_proj" in key:
        return Type.Q8_0
    if ".experts." in key and case.model_type == "gpt_oss":
        return Type.MXFP4
    return Type.Q4_0 if "self_attn" in key else Type.Q4_1


def parted(case, key, value):
    """The tensors that a converter makes of one of transformers', and how to put them back."""
    if not key.endswith(("experts.gate_up_proj", "experts.down_proj", "_proj_bias")) or ".experts." not in key:
        return {key: value}, lambda parts: parts[key]
    path, name = key.rsplit(".", 1)
    kind = "bias" if name.endswith("_bias") else "weight"
    # gpt-oss keeps matrices transposed, and rows of gate and up in turn.
    alternates = case.model_type == "gpt_oss"
    turn = (lambda a: a.swapaxes(-1, -2)) if alternates and kind == "weight" else (lambda a: a)
    value = turn(value)
    if name.startswith("down"):
        whole = f"{path}.down_proj.{kind}"
        return {whole: value}, lambda parts: turn(parts[whole])
    keys = [f"{path}.{half}_proj.{kind}" for half in ("gate", "up")]
    axis = -1 if kind == "bias" else -2
    size = value.shape[axis]
    rows = [np.arange(0, size, 2), np.arange(1, size, 2)] if alternates else np.split(np.arange(size), 2)
    halves = {k: np.take(value, r, axis) for k, r in zip(keys, rows)}

    def whole(parts):
        both = np.concatenate([parts[k] for k in keys], axis)
        return turn(np.take(both, np.argsort(np.concatenate(rows)), axis))

    return halves, whole


def heads_of(case, key):
    """How many heads' rows llama.cpp wants interleaved."""
    if case.model_type not in ("llama", "mixtral"):
        return None
    counts = {"q_proj": SMALL["num_attention_heads"], "k_proj": SMALL["num_key_value_heads"]}
    return next((count for name, count in counts.items() if name in key), None)


def interleaved(value, heads):
    """Row `i` and row `i + half` of each head side by side."""
    rows = np.arange(value.shape[0]).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)
    return value[rows]


def add_tensors(case, model, writer, twin):
    """Writes every tensor of the model, and leaves in the model what the file holds."""
    import torch

    seen = set()
    for key, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen or "rotary_emb" in key:
            continue
        seen.add(tensor.data_ptr())
        parts, join = parted(case, key, tensor.float().numpy())
        kept = {}
        for name, value in parts.items():
            qtype = type_of(case, name, value.shape)
            one = 1.0 if case.model_type.startswith("gemma") and "norm" in name else 0.0
            stored = np.ascontiguousarray(value, dtype=np.float32) + np.float32(one)
            if heads_of(case, name):
                stored = interleaved(stored, heads_of(case, name))
            if name.endswith("shared_expert_gate.weight"):
                stored = stored.reshape(-1)
            data = gguf.quants.quantize(stored, qtype)
            writer.add_tensor(file_name(case, name), data, raw_dtype=qtype)
            twin.add_tensor(file_name(case, name), gguf.quants.dequantize(data, qtype).reshape(stored.shape))
            # Rows are rounded one by one, so that their order does not matter here.
            plain = np.ascontiguousarray(value, dtype=np.float32) + np.float32(one)
            held = gguf.quants.dequantize(gguf.quants.quantize(plain, qtype), qtype).reshape(value.shape)
            kept[name] = held - np.float32(one)
        with torch.no_grad():
            tensor.copy_(torch.tensor(join(kept)))


def add_shape(case, writer):
    """The metadata that llama.cpp's converter takes from a configuration."""
    config = SMALL | case.config
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if "num_experts_per_tok" in config:
        writer.add_expert_count(config.get("num_experts") or config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    if "moe_intermediate_size" in config:
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if case.model_type == "gpt_oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if "shared_expert_intermediate_size" in config:
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if config.get("sliding_window"):
        writer.add_sliding_window(config["sliding_window"])
    for key, add in (
        ("attn_logit_softcapping", writer.add_attn_logit_softcapping),
        ("final_logit_softcapping", writer.add_final_logit_softcapping),
    ):
        if key in config:
            add(config[key])
    add_scaling(config, writer)


def add_scaling(config, writer):
    scaling = config.get("rope_scaling")
    if not scaling:
        return
    kind = scaling.get("rope_type") or scaling["type"]
    if kind == "longrope":
        original, whole = config["original_max_position_embeddings"], config["max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(whole / original) / np.log(original))))
        for name in ("long", "short"):
            writer.add_tensor(f"rope_factors_{name}.weight", np.array(scaling[f"{name}_factor"], dtype=np.float32))
        return
    writer.add_rope_scaling_type({"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}[kind])
    writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])


def add_tokenizer(writer):
    vocabulary = tiny_checkpoint.tokenizer()
    tokens = sorted(vocabulary.get_vocab().items(), key=lambda pair: pair[1])
    tokens = [token for token, _ in tokens]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token == tiny_checkpoint.END_OF_TEXT else normal for token in tokens])
    import json

    merges = json.loads(vocabulary.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)


def llama_logits(path, prompt):
    """The last logits that llama.cpp computes, or None where it is not installed."""
    try:
        import llama_cpp as llama
    except ImportError:
        return None
    import ctypes

    silent = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(silent, ctypes.c_void_p())
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    # Its AMX kernels end the process on some virtual machines.
    params.use_extra_bufts = False
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp does not load {path}"
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
    params.type_k = params.type_v = 0  # float32
    context = llama.llama_init_from_model(model, params)
    tokens = (llama.llama_token * len(prompt))(*[int(token) for token in prompt])
    assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(prompt))) == 0
    logits = llama.llama_get_logits_ith(context, -1)
    logits = np.ctypeslib.as_array(logits, (tiny_checkpoint.VOCAB_SIZE,)).copy()
    llama.llama_free(context)
    llama.llama_model_free(model)
    return logits


def write_case(case, root):
    folder = root / (case.model_type if case.name == "f32" else f"{case.model_type}-{case.name}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.gguf"
    architecture = ARCHITECTURES.get(case.model_type, case.model_type)
    twin = path.with_suffix(".float32")
    model = lm.build_torch(case, case.seed)
    writers = [gguf.GGUFWriter(str(file), architecture) for file in (path, twin)]
    for writer in writers:
        add_shape(case, writer)
        add_tokenizer(writer)
    add_tensors(case, model, *writers)
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    prompt = lm.prompt_of(case)
    logits, _ = lm.torch_forward(model, prompt)
    mx.save_safetensors(str(folder / "golden.safetensors"), {"prompt": mx.array(prompt), "logits": mx.array(logits[-KEPT:])})
    measured = {}
    theirs = llama_logits(twin, prompt)
    twin.unlink()
    if theirs is not None:
        gap = common.relative_difference(theirs, logits[-1])
        measured["llama_cpp_difference"] = float(f"{gap:.1e}")
        assert gap < 0.01, f"{folder.name}: llama.cpp computes something else: {gap:.1e}"
    common.write_note(
        folder,
        upstream=common.versions("gguf", "torch", "transformers"),
        dtype="float32",
        tolerance=1e-4,
        reason="the same operations on the same values in float32, at most in another order",
        architecture=architecture,
        model_type=case.model_type,
        measured=measured,
    )


def generate(out, args):
    for case in CASES:
        if args.only in case.model_type:
            write_case(case, out / "lm_gguf")


if __name__ == "__main__":
    common.run("GGUF files of tiny language models", generate, only={"default": "", "help": "only this model_type"})
