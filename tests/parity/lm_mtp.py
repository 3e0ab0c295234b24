"""Heads for the token after the next one, on top of the tiny checkpoints of lm.py.

One folder per case below fixtures/lm-mtp/: `heads.safetensors`, the tensors that the checkpoint of
lm/<case> lacks, named and laid out as they are published, and `golden.safetensors`:
  hidden    [1, 7, D]   random hidden states, as the model's last norm leaves them
  tokens    int32 [8]   the tokens that follow them, and one more
  next      [1, 7, D]   the head's own hidden states of the first 7 pairs
  logits    [7, V]      what the head says there
  chained   [1, V]      what it says next, fed with its own last hidden state and the last token

The layer of a head is transformers' own; what stands around it is written out below, after vLLM's
deepseek_mtp.py, glm4_moe_mtp.py and qwen3_next_mtp.py.
"""

import importlib
import json

import common
import numpy as np
import tiny_checkpoint
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

LENGTH = 7

# Model type, and the prefix of its classes in transformers.
CASES = {
    "deepseek_v3": "DeepseekV3",
    "glm4_moe": "Glm4Moe",
    "qwen3_next": "Qwen3Next",
    "qwen3_5_text": "Qwen3_5",
    "qwen3_5_moe_text": "Qwen3_5Moe",
}
# Of these, the norms are stored as their distance from one.
QWEN = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
# Its head has embeddings and an output matrix of its own.
OWN_MATRICES = ("deepseek_v3",)


def layer_of(model_type, config):
    """A decoder layer with attention, the angles of its positions, and its number."""
    family = model_type.removesuffix("_text")
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    prefix = CASES[model_type]
    index = config.layer_types.index("full_attention") if model_type in QWEN else config.num_hidden_layers
    if model_type not in QWEN:
        # Lists of what each layer is end before the head.
        for name in ("layer_types", "mlp_layer_types"):
            kinds = getattr(config, name, None)
            if kinds and len(kinds) <= index:
                setattr(config, name, [*kinds, kinds[-1]])
    layer = getattr(module, f"{prefix}DecoderLayer")(config, index).float().eval()
    rotary = prefix + ("Text" if model_type.startswith("qwen3_5") else "") + "RotaryEmbedding"
    return layer, getattr(module, rotary)(config)


def randomise(module, rng, model_type):
    with torch.no_grad():
        for name, tensor in sorted(module.state_dict().items()):
            value = values(rng, "layer." + name, tuple(tensor.shape), model_type)
            tensor.copy_(value)


def values(rng, name, shape, model_type):
    value = tiny_checkpoint.random_values(rng, name, shape, model_type)
    if model_type in QWEN and "norm" in name:
        value = value - 1
    # What the files hold.
    return torch.tensor(value, dtype=torch.float32).to(torch.bfloat16).float()


def published(layer, prefix):
    """The layer's tensors with an expert each, as checkpoints have them."""
    tensors = {}
    for name, tensor in layer.state_dict().items():
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(tensor):
                gate, up = both.chunk(2)
                path = f"{prefix}{name.removesuffix('gate_up_proj')}{expert}"
                tensors |= {f"{path}.gate_proj.weight": gate, f"{path}.up_proj.weight": up}
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(tensor):
                path = f"{prefix}{name.removesuffix('down_proj')}{expert}"
                tensors[f"{path}.down_proj.weight"] = down
        else:
            tensors[prefix + name] = tensor
    return tensors


def rms_norm(x, weight, eps, model_type):
    scale = 1 + weight if model_type in QWEN else weight
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * scale


def write_case(model_type, fixtures, out):
    folder = out / "lm-mtp" / model_type
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads((fixtures / "lm" / model_type / "f32" / "config.json").read_text())
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, attn_implementation="eager")
    checkpoint = load_file(fixtures / "lm" / model_type / "f32" / "model.safetensors")
    embeddings, head = (checkpoint[key].float() for key in ("model.embed_tokens.weight", "lm_head.weight"))
    rng = np.random.default_rng(sum(model_type.encode()))
    layer, rotary = layer_of(model_type, config)
    randomise(layer, rng, model_type)

    dim, eps = config.hidden_size, config.rms_norm_eps
    if model_type in QWEN:
        prefix, inner = "mtp.", "mtp.layers.0."
        names = ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "fc", "norm")
    else:
        prefix = inner = f"model.layers.{config.num_hidden_layers}."
        names = ("enorm", "hnorm", "eh_proj", "shared_head.norm")
    tensors = published(layer, inner)
    around = {}
    for part, name in zip(("embedded", "hidden", "joined", "last"), names, strict=True):
        shape = (dim, 2 * dim) if part == "joined" else (dim,)
        key = f"{prefix}{name}.weight"
        around[part] = tensors[key] = values(rng, key, shape, model_type)
    if model_type in OWN_MATRICES:
        embeddings = values(rng, "embed_tokens.weight", embeddings.shape, model_type)
        head = values(rng, "lm_head.weight", head.shape, model_type)
        tensors |= {f"{prefix}embed_tokens.weight": embeddings, f"{prefix}shared_head.head.weight": head}

    def run(hidden, tokens):
        embedded = rms_norm(embeddings[tokens][None], around["embedded"], eps, model_type)
        states = rms_norm(hidden, around["hidden"], eps, model_type)
        x = torch.cat([embedded, states], -1) @ around["joined"].T
        length = x.shape[1]
        positions = torch.arange(length)[None]
        mask = torch.full((length, length), float("-inf")).triu(1)[None, None]
        x = layer(x, attention_mask=mask, position_ids=positions, position_embeddings=rotary(x, positions))
        x = rms_norm(x[0] if isinstance(x, tuple) else x, around["last"], eps, model_type)
        return x, (x @ head.T)[0]

    hidden = torch.tensor(rng.standard_normal((1, LENGTH, dim)), dtype=torch.float32)
    tokens = torch.tensor(rng.integers(1, config.vocab_size, LENGTH + 1))
    with torch.no_grad():
        found, logits = run(hidden, tokens[:LENGTH])
        _, chained = run(torch.cat([hidden, found[:, -1:]], 1), tokens)
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in tensors.items()}, folder / "heads.safetensors")
    golden = {"hidden": hidden, "tokens": tokens.int(), "next": found, "logits": logits, "chained": chained[-1:]}
    save_file({k: v.contiguous() for k, v in golden.items()}, folder / "golden.safetensors")
    common.write_note(
        folder,
        upstream=common.versions("torch", "transformers"),
        dtype="float32",
        tolerance=1e-4,
        reason="the same operations in float32, at most in another order",
        checkpoint=f"lm/{model_type}/f32",
    )


def generate(out, args):
    for model_type in CASES:
        write_case(model_type, args.fixtures, out)


if __name__ == "__main__":
    common.run(__doc__, generate)
