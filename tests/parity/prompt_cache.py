"""Prompt caches in files, written by one program and read by the other.

Goldens: files that Python mlx-lm has written for tiny checkpoints, one for each kind of cache, and
the tokens with which it goes on from them; Rust reads the same files and must go on alike.

Beside that, both programs run as users run them, each on its own file and on the other's: the
texts of a case must be one. This direction is checked here and nowhere else.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache
from mlx_lm.utils import load_model

ROOT = Path(__file__).resolve().parents[2]
NEW_TOKENS = 12

# Checkpoint below lm/, and the arguments that make its cache.
CASES = {
    "kv": ("llama/f32", {}),
    "rotating": ("gemma3_text/f32", {}),
    "quantized": ("mistral/f32", {"kv_bits": 4, "kv_group_size": 32, "quantized_kv_start": 0}),
    "states": ("lfm2_moe/f32", {}),
    "list": ("falcon_h1/f32", {}),
}

# Both programs on prose-5m: flags of `cache-prompt`, which both spell alike. Python's ignores a
# limit where the model makes its caches itself, so that one is for our file alone.
RUNS = [[], ["--max-kv-size", "16"], ["--kv-bits", "4", "--kv-group-size", "32", "--quantized-kv-start", "0"]]
BEGINNING, REST = "It is a truth universally", " acknowledged"


def golden(out, fixtures):
    cases = {}
    for name, (checkpoint, options) in CASES.items():
        model, _ = load_model(fixtures / "lm" / checkpoint)
        model.set_dtype(mx.float32)
        vocab = model.args.vocab_size
        prompt = [(17 * i + 5) % (vocab - 3) + 3 for i in range(21)]
        rest = [(29 * i + 11) % (vocab - 3) + 3 for i in range(4)]
        cache = make_prompt_cache(model)
        for _ in generate_step(mx.array(prompt), model, max_tokens=0, prompt_cache=cache, **options):
            pass
        path = out / "prompt-cache" / f"golden-{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_prompt_cache(str(path), cache, {"model": checkpoint, "tokenizer_config": "{}"})
        steps = generate_step(mx.array(rest), model, max_tokens=NEW_TOKENS, prompt_cache=load_prompt_cache(str(path)), **options)
        tokens = [int(token) for token, _ in steps]
        cases[name] = {"checkpoint": checkpoint, "prompt": prompt, "rest": rest, "tokens": tokens}
    common.write_json(out / "prompt-cache" / "golden.json", cases)
    common.write_note(
        out / "prompt-cache",
        upstream=common.versions("mlx", "mlx-lm"),
        dtype="float32",
        tolerance=1e-4,
        reason="sums of float32 in another order",
    )


def text(command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{command} failed: {done.stderr[-600:]}")
    return done.stdout.strip()


def both_programs(model):
    text(["cargo", "build", "--quiet", "--package", "mlx-lm", "--bin", "mlx-lm"])
    ours = str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "mlx-lm")
    python = [sys.executable, "-m", "mlx_lm"]
    for flags in RUNS:
        with tempfile.TemporaryDirectory() as scratch:
            files = {"ours": f"{scratch}/ours.safetensors", "theirs": f"{scratch}/theirs.safetensors"}
            make = ["--model", model, "--prompt", BEGINNING, *flags, "--prompt-cache-file"]
            text([ours, "cache-prompt", *make, files["ours"]])
            if "--max-kv-size" in flags:
                del files["theirs"]
            else:
                text([*python, "cache_prompt", *make, files["theirs"]])
            # What is packed stays packed; a limit belongs to the cache.
            packing = flags if "--kv-bits" in flags else []
            found = {}
            for file, path in files.items():
                go_on = ["--prompt-cache-file", path, "--prompt", REST, "--max-tokens", str(NEW_TOKENS), "--temp", "0", *packing]
                found[f"ours on {file}"] = text([ours, "generate", "--quiet", *go_on])
                found[f"theirs on {file}"] = text([*python, "generate", "--verbose", "False", *go_on])
        if len(set(found.values())) != 1:
            sys.exit(f"{flags}: {json.dumps(found, indent=1)}")
        print(f"prompt cache {flags}: {len(found)} times {next(iter(found.values()))!r}")


def generate(out, args):
    mx.set_default_device(mx.cpu)
    golden(out, args.fixtures)
    both_programs(str(args.fixtures / "prose-5m"))


if __name__ == "__main__":
    common.run(__doc__, generate)
