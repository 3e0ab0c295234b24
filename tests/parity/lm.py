"""Tiny random language models and what Python mlx-lm makes of them.

One folder per case below fixtures/lm/<model_type>/: a checkpoint in the Hugging Face
layout, `golden.safetensors` and `note.json`. A case with `weights` in its note borrows
another case's files and brings only its own config.json.

golden.safetensors:
  prompt  int32 [17]
  logits  [17, 300]    the whole prompt in one pass, no cache
  steps   [17, 300]    the same prompt one token at a time through the cache, where that
                       differs by design; elsewhere it must repeat `logits`
  greedy  int32 [64]   the argmax continuation of the prompt
  logits_float32_sums  `logits` again, with the products of quantised bfloat16 layers summed in
                       float32. MLX's own CPU kernel sums them in bfloat16, which its GPU
                       kernels and ours do not, and which moves logits by several per cent;
                       a back end must meet one of the two

`--search N` tries up to N seeds per case and prints the first good one; the table below
holds them.
"""

import contextlib
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import common
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import tiny_checkpoint
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

PROMPT_LENGTH = 17
NEW_TOKENS = 64

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
    config: dict = field(default_factory=dict)
    drop: tuple = ()
    quantization: dict | None = None
    shards: int = 1
    chat_template: str | None = None
    weights: str | None = None
    # Where mlx-lm departs from the model's own definition, transformers is the oracle.
    oracle: str = "mlx-lm"
    why: str = ""
    cache_invariant: bool = True

    @property
    def path(self):
        return f"{self.model_type}/{self.name}"

    @property
    def sums_matter(self):
        return self.quantization is not None and self.dtype == "bfloat16"


CASES = [
    Case("llama", "f32", seed=66),
    Case("llama", "bf16", seed=218, dtype="bfloat16", config={"intermediate_size": 96, "tie_word_embeddings": False}),
    Case("llama", "bias", seed=34, config={"attention_bias": True, "mlp_bias": True}),
    Case(
        "llama", "sharded-rope-llama3", seed=26, shards=2,
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
    Case("mistral", "f32", seed=17, config={"head_dim": 32, "tie_word_embeddings": False, "sliding_window": None}),
    Case(
        "mistral", "sliding", weights="f32", oracle="transformers",
        config={"head_dim": 32, "tie_word_embeddings": False, "sliding_window": 7},
        why="mlx-lm reads a mistral through its llama and ignores sliding_window",
    ),
    Case("qwen2", "f32", seed=0, config={"tie_word_embeddings": False, "rope_theta": 1000000.0}),
    Case("qwen2", "bf16", seed=928, dtype="bfloat16", config={"intermediate_size": 96, "rope_theta": 1000000.0}, chat_template="inside"),
    Case("qwen2", "q4-bf16", seed=6147, dtype="bfloat16", config={"intermediate_size": 96, "rope_theta": 1000000.0, "tie_word_embeddings": False}, quantization={"group_size": 32, "bits": 4}),
    Case("qwen3", "f32", seed=555, config={"intermediate_size": 96, "head_dim": 32, "rope_theta": 1000000.0}),
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

TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
REASON = {
    "float32": "the same operations in float32, at most in another order",
    "bfloat16": "bfloat16 keeps 8 bits, and two layers of differently fused operations differ by a few of the last",
}


def config_of(case):
    config = {"architectures": [ARCHITECTURES[case.model_type] + "ForCausalLM"], "model_type": case.model_type}
    config |= {k: v for k, v in BASE.items() if k not in case.drop} | case.config
    config["torch_dtype"] = case.dtype
    if case.quantization:
        config["quantization"] = case.quantization
    return config


def build(case, seed):
    """The random model of a case, quantised if it asks for that."""
    import importlib

    module = importlib.import_module("mlx_lm.models." + {"mistral": "llama"}.get(case.model_type, case.model_type))
    model = module.Model(module.ModelArgs.from_dict(config_of(case)))
    tiny_checkpoint.random_weights(model, seed, getattr(mx, case.dtype))
    if case.quantization:
        chosen = case.quantization
        nn.quantize(
            model, chosen["group_size"], chosen["bits"],
            class_predicate=lambda path, layer: hasattr(layer, "to_quantized") and chosen.get(path, True),
        )
        mx.eval(model.parameters())
    return model


def prompt_of(case):
    # No end of text inside the prompt: token 0 is left out.
    rng = np.random.default_rng(abs(hash_of(case.weights or case.name)))
    return rng.integers(1, tiny_checkpoint.VOCAB_SIZE, PROMPT_LENGTH).astype(np.int32)


def hash_of(text):
    return sum((i + 1) * b for i, b in enumerate(text.encode()))


@contextlib.contextmanager
def float32_sums():
    """Makes every quantised product sum in float32 and round once, as MLX's GPU kernels do."""

    def product(layer, x):
        weights = [layer.scales.astype(mx.float32), layer.biases.astype(mx.float32)]
        y = mx.quantized_matmul(
            x.astype(mx.float32), layer.weight, *weights, transpose=True, group_size=layer.group_size, bits=layer.bits
        )
        y = y.astype(x.dtype)
        return y + layer.bias if "bias" in layer else y

    stock = nn.QuantizedLinear.__call__, nn.QuantizedEmbedding.as_linear
    nn.QuantizedLinear.__call__ = nn.QuantizedEmbedding.as_linear = product
    try:
        yield
    finally:
        nn.QuantizedLinear.__call__, nn.QuantizedEmbedding.as_linear = stock


def mlx_forward(model, prompt):
    """(logits, steps) of the prompt."""
    logits = model(mx.array(prompt)[None])[0]
    cache = make_prompt_cache(model)
    steps = [model(mx.array([[int(t)]]), cache=cache)[0] for t in prompt]
    steps = mx.concatenate(steps)
    mx.eval(logits, steps)
    return logits, steps


def margin_of(row):
    """Distance of the two largest logits over the largest magnitude of the row."""
    row = np.asarray(row, dtype=np.float64)
    second, first = np.partition(row, -2)[-2:]
    return (first - second) / np.abs(row).max()


def mlx_greedy(model, prompt, floor=0.0):
    """The greedy tokens by an explicit loop, with the smallest margin met; gives up below `floor`."""
    cache = make_prompt_cache(model)
    # All of the prompt but its last token first, as generate_step does it.
    model(mx.array(prompt[:-1])[None], cache=cache)
    logits = model(mx.array(prompt[-1:])[None], cache=cache)[0, -1]
    tokens, margins = [], []
    for _ in range(NEW_TOKENS):
        row = np.array(logits.astype(mx.float32))
        tokens.append(int(row.argmax()))
        margins.append(margin_of(row))
        if margins[-1] < floor:
            break
        logits = model(mx.array([[tokens[-1]]]), cache=cache)[0, -1]
    return tokens, float(min(margins))


def torch_model(folder):
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def torch_forward(model, prompt):
    import torch
    from transformers import DynamicCache

    ids = torch.tensor(prompt, dtype=torch.long)[None]
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()
        cache = DynamicCache(config=model.config)
        steps = [model(ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits[0].numpy() for i in range(ids.shape[1])]
    return logits, np.concatenate(steps)


def torch_greedy(model, prompt):
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    ids = torch.tensor(prompt, dtype=torch.long)[None]
    tokens, margins = [], []
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            row = model(ids, past_key_values=cache, use_cache=True).logits[0, -1].numpy()
            tokens.append(int(row.argmax()))
            margins.append(margin_of(row))
            ids = torch.tensor([[tokens[-1]]])
    return tokens, float(min(margins))


def write_case(case, root):
    folder = root / case.path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(case), indent=1) + "\n")
    if case.weights is None:
        generation = {"eos_token_id": 0, "do_sample": True, "temperature": 0.7, "top_p": 0.9}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
        tiny_checkpoint.write_tokenizer(folder, case.chat_template)
        tiny_checkpoint.write_weights(folder, build(case, case.seed), case.shards)


def whole_folder(case, root, scratch):
    """The case as a complete checkpoint: its own files over the ones it borrows."""
    if case.weights is None:
        return root / case.path
    target = Path(scratch) / case.path
    shutil.copytree(root / case.model_type / case.weights, target)
    shutil.copy(root / case.path / "config.json", target / "config.json")
    return target


def write_goldens(case, root, scratch):
    folder = whole_folder(case, root, scratch)
    prompt = prompt_of(case)
    measured = {}
    ours, _ = load_model(folder)
    if case.oracle == "mlx-lm":
        logits, steps = mlx_forward(ours, prompt)
        greedy, margin = mlx_greedy(ours, prompt)
        streamed = [int(t) for t, _ in generate_step(mx.array(prompt), ours, max_tokens=NEW_TOKENS)]
        assert streamed == greedy, f"{case.path}: generate_step and the plain loop disagree"
        if case.dtype == "float32" and not case.quantization:
            theirs, _ = torch_forward(torch_model(folder), prompt)
            measured["transformers_difference"] = float(f"{common.relative_difference(np.array(logits), theirs):.1e}")
            assert measured["transformers_difference"] < 1e-4, (case.path, measured)
        if case.sums_matter:
            with float32_sums():
                better, _ = mlx_forward(ours, prompt)
                same, other = mlx_greedy(ours, prompt)
            assert same == greedy, f"{case.path}: the tokens depend on how products are summed"
            margin = min(margin, other)
            gap = common.relative_difference(np.array(logits.astype(mx.float32)), np.array(better.astype(mx.float32)))
            measured["cpu_sums_against_float32_sums"] = float(f"{gap:.1e}")
    else:
        model = torch_model(folder)
        logits, steps = (mx.array(x) for x in torch_forward(model, prompt))
        greedy, margin = torch_greedy(model, prompt)
        wrong, _ = mlx_forward(ours, prompt)
        measured["mlx_lm_difference"] = float(f"{common.relative_difference(np.array(wrong), np.array(logits)):.1e}")
    as_f32 = [np.array(x.astype(mx.float32)) for x in (logits, steps)]
    gap = common.relative_difference(as_f32[1], as_f32[0])
    measured["steps_against_one_pass"] = float(f"{gap:.1e}")
    if case.cache_invariant:
        assert gap < TOLERANCE[case.dtype], (case.path, gap)
    assert 0 not in greedy, f"{case.path}: the continuation meets the end of text"
    assert margin >= (1.5 if case.sums_matter else 2.5) * TOLERANCE[case.dtype], f"{case.path}: margin {margin:.4f} is too small to compare tokens"

    golden = {"prompt": mx.array(prompt), "logits": logits, "greedy": mx.array(greedy, dtype=mx.int32)}
    if not case.cache_invariant:
        golden["steps"] = steps
    if case.sums_matter:
        golden["logits_float32_sums"] = better
    mx.save_safetensors(str(root / case.path / "golden.safetensors"), golden)
    chat = {}
    if case.chat_template:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        messages = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": " the lazy fox "}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        chat = {"chat": {"messages": messages, "text": text, "ids": tokenizer.encode(text, add_special_tokens=False)}}
    oracle = ("mlx", "mlx-lm") if case.oracle == "mlx-lm" else ("torch", "transformers")
    common.write_note(
        root / case.path,
        upstream=common.versions(*oracle),
        dtype=case.dtype,
        tolerance=TOLERANCE[case.dtype],
        reason=case.why or REASON[case.dtype],
        oracle=case.oracle,
        **({"weights": f"../{case.weights}"} if case.weights else {"seed": case.seed}),
        cache_invariant=case.cache_invariant,
        **chat,
        measured={"smallest_greedy_margin": round(margin, 4), "distinct_greedy_tokens": len(set(greedy)), **measured},
    )


def search(case, attempts):
    """Prints the first seed whose every margin is wide and whose tokens do not just loop."""
    floor = 0.02 if case.dtype == "float32" else 0.04 if case.sums_matter else 0.05
    for seed in range(attempts):
        model = build(case, seed)
        tokens, margin = mlx_greedy(model, prompt_of(case), floor)
        if len(tokens) == NEW_TOKENS and 0 not in tokens and len(set(tokens)) >= 8:
            if case.sums_matter:
                with float32_sums():
                    same, other = mlx_greedy(model, prompt_of(case), floor)
                if same != tokens:
                    continue
                margin = min(margin, other)
            print(case.path, {"seed": seed, "margin": round(margin, 4), "distinct": len(set(tokens))}, flush=True)
            return
    print(case.path, "no seed", flush=True)


def generate(out, args):
    mx.set_default_device(mx.cpu)
    cases = [c for c in CASES if args.only in c.path]
    if args.search:
        for case in cases:
            if case.weights is None:
                search(case, args.search)
        return
    root = out / "lm"
    with tempfile.TemporaryDirectory() as scratch:
        for case in CASES:
            write_case(case, root)
        for case in CASES:
            write_goldens(case, root, scratch)


if __name__ == "__main__":
    common.run(
        "Goldens of the tiny language models",
        generate,
        search={"type": int, "default": 0, "help": "try this many seeds per case instead of writing"},
        only={"default": "", "help": "with --search: only cases whose path contains this"},
    )
