"""Adapter folders of mlx-lm and of PEFT, on the tiny Llama below lm/llama/f32.

Goldens: folders that Python mlx-lm has written, and folders in PEFT's layout, each with the logits
of the adapted model. Rust reads them and must compute the same. PEFT itself is no requirement: its
layout is written out below, and transformers computes with the weights changed by its formulae.
PEFT 0.21.2, asked once by hand, computes the same logits from these folders.

The other direction is checked here and nowhere else: a program of ours writes folders, Python
mlx-lm loads them, and its logits must be those that our program computed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.lora import CONFIG_DEFAULTS
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model, save_config

CHECKPOINT = "lm/llama/f32"
TOLERANCE = 1e-4
REASON = "the same operations in float32, at most in another order"

# Folder: whether it is DoRA, how many layers, the rest of `lora_parameters`. Without keys mlx-lm
# adapts every linear layer of these layers.
WRITTEN = {
    "lora": ("lora", 1, {"rank": 4, "scale": 20.0, "dropout": 0.0}),
    "dora": ("dora", 2, {"rank": 2, "scale": 10.0, "dropout": 0.1, "keys": ["self_attn.q_proj", "mlp.down_proj"]}),
    "table": ("lora", 2, {"rank": 3, "scale": 4.0, "dropout": 0.0, "keys": ["mlp.up_proj", "model.embed_tokens"]}),
}

# Folder: what differs from PEFT's defaults, and the layers.
PEFT = {
    "peft-lora": (
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"down_proj": 2}, "alpha_pattern": {"v_proj": 16}},
        ["model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"],
    ),
    "peft-dora": (
        {"r": 4, "lora_alpha": 6, "use_rslora": True, "use_dora": True},
        ["model.layers.0.self_attn.o_proj", "model.layers.1.mlp.gate_proj"],
    ),
}


def tiny(fixtures):
    model, _ = load_model(fixtures / CHECKPOINT)
    model.set_dtype(mx.float32)
    return model


def prompt(fixtures):
    return np.array(mx.load(str(fixtures / CHECKPOINT / "golden.safetensors"))["prompt"])


def logits(model, ids):
    model.eval()
    return np.array(model(mx.array(ids[None]))[0])


def noise(rng, *shape):
    return rng.normal(0.0, 0.1, shape).astype(np.float32)


def finish(folder, expected, plain, oracle):
    # An adapter that does nothing would prove nothing.
    assert common.relative_difference(expected, plain) > 0.05, folder
    mx.save_safetensors(str(folder / "golden.safetensors"), {"logits": mx.array(expected)})
    common.write_note(
        folder,
        upstream=common.versions(*oracle),
        dtype="float32",
        tolerance=TOLERANCE,
        reason=REASON,
        checkpoint=CHECKPOINT,
    )


def written_by_mlx_lm(out, fixtures):
    """What mlx-lm writes after training, but that the numbers are drawn instead of learned."""
    ids = prompt(fixtures)
    plain = logits(tiny(fixtures), ids)
    for seed, (name, (kind, layers, parameters)) in enumerate(WRITTEN.items()):
        folder = out / "adapters" / name
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        model = tiny(fixtures)
        model.freeze()
        linear_to_lora_layers(model, layers, parameters, use_dora=kind == "dora")
        drawn = []
        for key, array in tree_flatten(model.trainable_parameters()):
            if key.endswith(".m"):
                drawn.append((key, array * mx.array(1.0 + noise(rng, *array.shape))))
            else:
                drawn.append((key, mx.array(noise(rng, *array.shape))))
        model.load_weights(drawn, strict=False)
        config = CONFIG_DEFAULTS | {
            "model": CHECKPOINT, "data": "style", "train": True,
            "fine_tune_type": kind, "num_layers": layers, "lora_parameters": parameters,
        }
        save_config(config, folder / "adapter_config.json")
        trained = dict(tree_flatten(model.trainable_parameters()))
        mx.save_safetensors(str(folder / "adapters.safetensors"), trained)
        finish(folder, logits(model, ids), plain, ("mlx", "mlx-lm"))


def in_the_layout_of_peft(out, fixtures):
    import torch
    from transformers import AutoModelForCausalLM

    ids = prompt(fixtures)

    def run(model):
        with torch.no_grad():
            return model(torch.tensor(ids[None])).logits[0].numpy()

    for seed, (name, (changes, layers)) in enumerate(PEFT.items()):
        folder = out / "adapters" / name
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": CHECKPOINT,
            "inference_mode": True, "bias": "none", "fan_in_fan_out": False, "lora_dropout": 0.0,
            "use_rslora": False, "use_dora": False, "modules_to_save": None,
            "rank_pattern": {}, "alpha_pattern": {},
            "target_modules": layers,
        } | changes
        common.write_json(folder / "adapter_config.json", config)

        model = AutoModelForCausalLM.from_pretrained(fixtures / CHECKPOINT, dtype=torch.float32).eval()
        plain = run(model)
        rng = np.random.default_rng(seed)
        arrays = {}
        for layer in layers:
            last = layer.rsplit(".", 1)[1]
            rank = config["rank_pattern"].get(last, config["r"])
            alpha = config["alpha_pattern"].get(last, config["lora_alpha"])
            scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
            weight = model.get_submodule(layer).weight
            a, b = noise(rng, rank, weight.shape[1]), noise(rng, weight.shape[0], rank)
            key = f"base_model.model.{layer}."
            arrays |= {key + "lora_A.weight": a, key + "lora_B.weight": b}
            changed = weight.detach().numpy() + scale * (b @ a)
            if config["use_dora"]:
                lengths = np.linalg.norm(weight.detach().numpy(), axis=1)
                magnitude = lengths * (1.0 + noise(rng, *lengths.shape))
                arrays[key + "lora_magnitude_vector"] = magnitude
                changed *= (magnitude / np.linalg.norm(changed, axis=1))[:, None]
            with torch.no_grad():
                weight.copy_(torch.tensor(changed))
        arrays = {key: mx.array(array) for key, array in arrays.items()}
        mx.save_safetensors(str(folder / "adapter_model.safetensors"), arrays, metadata={"format": "pt"})
        finish(folder, run(model), plain, ("torch", "transformers"))


def written_by_us(program, fixtures):
    ids = prompt(fixtures)
    plain = logits(tiny(fixtures), ids)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([program, fixtures / CHECKPOINT, scratch], check=True)
        folders = sorted(Path(scratch).iterdir())
        assert len(folders) == 4, folders
        for folder in folders:
            ours = np.array(mx.load(str(folder / "logits.safetensors"))["logits"])
            theirs = logits(load_adapters(tiny(fixtures), folder), ids)
            gap = common.relative_difference(ours, theirs)
            change = common.relative_difference(theirs, plain)
            parameters = json.loads((folder / "adapter_config.json").read_text())["lora_parameters"]
            print(f"adapters: ours loaded by mlx-lm, {folder.name}: logits differ by {gap:.1e}, from the plain model's by {change:.2f}")
            if not (gap <= TOLERANCE and change > 0.05):
                sys.exit(f"{folder.name} with {parameters} means something else to mlx-lm")


def generate(out, args):
    mx.set_default_device(mx.cpu)
    written_by_mlx_lm(out, args.fixtures)
    in_the_layout_of_peft(out, args.fixtures)
    written_by_us(args.program, args.fixtures)


if __name__ == "__main__":
    common.run(
        __doc__.splitlines()[0],
        generate,
        program={"required": True, "help": "the program built from tests/examples/adapters.rs"},
    )
