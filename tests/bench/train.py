"""Times a training step of ours and of Python's MLX in one run: `cargo xtask bench train`.

Both sides start from the same Llama, take the same steps on the same tokens with AdamW in float32,
and must give the same losses. Each is a process of its own, a fresh one for each model; their steps
alternate, so that a change of the machine's load meets both. What is reported are medians and the
peaks of memory: that of the process as the kernel counts it, and that of MLX's arrays.

Ends with an error where ours is not at least RATIO times as fast, or takes more memory by either
count.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCH, LENGTH, RATE = 8, 256, 1e-3
RATIO = 1.5

# Name, configuration, and how many timed rounds of one step each.
MODELS = [
    ("5m", {"hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 704, "num_attention_heads": 8, "num_key_value_heads": 4}, 5),
    ("15m", {"hidden_size": 384, "num_hidden_layers": 8, "intermediate_size": 1056, "num_attention_heads": 6, "num_key_value_heads": 3}, 3),
]
SHARED = {
    "model_type": "llama",
    "vocab_size": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def python_model(config):
    from mlx_lm.models import llama

    return llama.Model(llama.ModelArgs.from_dict(config))


def prepare(folder, config):
    """Writes the model and the tokens that both sides read; run in a process of its own."""
    import mlx.core as mx
    import numpy as np
    from mlx.utils import tree_flatten

    mx.set_default_device(mx.cpu)
    random = np.random.default_rng(0)
    weights = {}
    for name, array in tree_flatten(python_model(config).parameters()):
        if array.ndim == 1:
            weights[name] = mx.ones(array.shape)
        else:
            weights[name] = mx.array(random.standard_normal(array.shape, dtype=np.float32) * 0.02)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    # Words that follow each other by a rule, so that there is something to learn.
    tokens = np.cumsum(random.integers(1, 4, (BATCH, LENGTH + 1)), axis=1) * 7 % config["vocab_size"]
    tokens = mx.array(tokens.astype(np.int32))
    mx.save_safetensors(str(folder / "batch.safetensors"), {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]})
    print(sum(array.size for array in weights.values()))


def peak_of_process():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def serve(folder):
    """The side of Python's MLX: the loop of its documentation."""
    from functools import partial

    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    mx.set_default_device(mx.cpu)
    model = python_model(json.loads((folder / "config.json").read_text()))
    model.load_weights(str(folder / "model.safetensors"))
    batch = mx.load(str(folder / "batch.safetensors"))
    optimizer = optim.AdamW(RATE)
    optimizer.init(model.trainable_parameters())
    mx.eval(model.parameters(), optimizer.state, batch)
    mx.reset_peak_memory()

    def loss(inputs, targets):
        return nn.losses.cross_entropy(model(inputs), targets, reduction="mean")

    state = [model.state, optimizer.state]

    @partial(mx.compile, inputs=state, outputs=state)
    def step(inputs, targets):
        value, gradients = nn.value_and_grad(model, loss)(inputs, targets)
        optimizer.update(model, gradients)
        return value

    for line in sys.stdin:
        losses, start = [], time.perf_counter()
        for _ in range(int(line)):
            value = step(batch["inputs"], batch["targets"])
            mx.eval(value, state)
            losses.append(value.item())
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "losses": losses, "process": peak_of_process(), "arrays": mx.get_peak_memory()}), flush=True)


class Process:
    def __init__(self, command, environment):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )

    def step(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{self.process.args[0]} ended")
        return json.loads(answer)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(name, config, rounds, options, environment):
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "config.json").write_text(json.dumps(config))
        script = [sys.executable, os.path.abspath(__file__)]
        made = subprocess.run([*script, "--prepare", scratch], check=True, stdout=subprocess.PIPE, text=True)
        sides = {
            "ours": Process([options.ours, scratch], environment),
            "mlx": Process([*script, "--peer", scratch], environment),
        }
        seconds, losses, last = {side: [] for side in sides}, {side: [] for side in sides}, {}
        # The first step is traced and compiled, and not counted.
        for number in range(rounds + 1):
            for side, process in sides.items():
                last[side] = process.step(1)
                losses[side] += last[side]["losses"]
                if number > 0:
                    seconds[side].append(last[side]["seconds"])
                print(f"{name}, step {number}, {side}: {last[side]['seconds']:.3g} s, loss {losses[side][-1]:.5f}", flush=True)
        for process in sides.values():
            process.end()
    apart = max(abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["mlx"]))
    if not apart < 1e-3:
        sys.exit(f"{name}: the losses differ by {apart:.1e}, so the sides do not compute the same")
    result = {
        side: {"tokens_per_second": BATCH * LENGTH / statistics.median(seconds[side]), "process": last[side]["process"], "arrays": last[side]["arrays"]}
        for side in sides
    }
    return {"parameters": int(made.stdout), "largest_difference_of_losses": apart, **result}


def table(results):
    lines = [
        "| model | ours, tokens/s | Python MLX, tokens/s | ratio | peak of the process, ours / Python | peak of the arrays, ours / Python |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        ours, mlx = result["ours"], result["mlx"]
        sizes = " | ".join(f"{ours[key] / 1e6:.0f} / {mlx[key] / 1e6:.0f} MB" for key in ("process", "arrays"))
        lines.append(
            f"| {result['parameters'] / 1e6:.2f} M parameters | {ours['tokens_per_second']:.0f} | {mlx['tokens_per_second']:.0f} | "
            f"{ours['tokens_per_second'] / mlx['tokens_per_second']:.1f}× | {sizes} |"
        )
    return "\n".join(lines)


def shortfalls(results):
    """What is slower or larger than promised, in words."""
    for name, result in results.items():
        ours, mlx = result["ours"], result["mlx"]
        ratio = ours["tokens_per_second"] / mlx["tokens_per_second"]
        if not ratio >= RATIO:
            yield f"{name}: {ratio:.2f} times as fast as Python's MLX, not {RATIO}"
        for key in ("process", "arrays"):
            if not ours[key] <= mlx[key]:
                yield f"{name}: the peak of the {key} is {ours[key] / 1e6:.0f} MB, of Python's MLX {mlx[key] / 1e6:.0f} MB"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepare", type=Path)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--ours")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json")
    parser.add_argument("models", nargs="*")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, json.loads((options.prepare / "config.json").read_text()))
        return
    if options.peer:
        serve(options.peer)
        return
    unknown = set(options.models) - {name for name, _, _ in MODELS}
    if unknown:
        sys.exit(f"no model is called {', '.join(unknown)}; known: {', '.join(name for name, _, _ in MODELS)}")
    number = str(options.threads)
    environment = {name: number for name in ("MLX_CPU_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    before = os.getloadavg()[0]
    results = {}
    for name, config, rounds in MODELS:
        if not options.models or name in options.models:
            results[name] = measure(name, {**SHARED, **config}, rounds, options, environment)
    print(f"\n{number} threads, {BATCH} samples of {LENGTH} tokens a step, medians; load of the machine before: {before:.1f}\n")
    print(table(results))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=1)
    problems = list(shortfalls(results))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
