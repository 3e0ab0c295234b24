"""Times decode steps of ours and of Python's mlx-lm in one run: `cargo xtask bench lm`.

Both sides are processes that stay alive and load the same folders. A round runs a case once in
each, so that a change of the machine's load meets both; what is reported are medians over the
rounds, and of the host's cost medians over the steps of a round before that.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

from cpu import Process, show

SHORT, LONG = 16, 128
TINY = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": 300, "max_position_embeddings": 4096,
    "rope_theta": 10000.0, "tie_word_embeddings": True, "hidden_act": "silu", "eos_token_id": 0,
}


def make_tiny(folder, layers, tokenizer):
    """A random llama for both sides."""
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.models import llama

    config = TINY | {"num_hidden_layers": layers}
    mx.random.seed(layers)
    model = llama.Model(llama.ModelArgs.from_dict(config))
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer.json").write_bytes(Path(tokenizer).read_bytes())


def prompt(length):
    return [i * 7919 % 290 + 1 for i in range(length)]


def host(model, count):
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(model)
    mx.eval(model(mx.array([prompt(SHORT)]), cache=cache))
    token, times = mx.array([[1]], dtype=mx.uint32), []
    for _ in range(count):
        start = time.perf_counter()
        logits = model(token, cache=cache)
        token = mx.argmax(logits[:, -1], axis=-1, keepdims=True)
        times.append(time.perf_counter() - start)
        mx.eval(token)
    return [statistics.median(times)]


def decode(model, length, count):
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    start = time.perf_counter()
    tokens = generate_step(mx.array(prompt(length)), model, max_tokens=count + 1)
    next(tokens)
    first = time.perf_counter()
    written = sum(1 for _ in tokens)
    return [first - start, (time.perf_counter() - first) / written]


def serve(models):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    mx.set_default_device(mx.cpu)
    loaded = {}

    def model(name):
        if name not in loaded:
            loaded[name], _ = load_model(Path(models) / name)
        return loaded[name]

    def run(case, count):
        kind, _, layers = case.partition("_")
        if kind == "host":
            return host(model(f"tiny_{layers}"), count)
        if kind == "step":
            return decode(model(f"tiny_{layers}"), SHORT, count)[1:]
        return decode(model(case), LONG, count)

    for line in sys.stdin:
        case, count = line.split()
        try:
            answer = run(case, int(count))
        except Exception as error:  # The other cases go on.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


# The case, what each of its figures is called, how many steps a round has, and how many rounds.
CASES = [
    ("host_2", ["llama of 2 layers: host's share of a decode step"], 200, 15),
    ("host_16", ["llama of 16 layers: host's share of a decode step"], 100, 15),
    ("step_2", ["llama of 2 layers: a whole step"], 200, 15),
    ("step_16", ["llama of 16 layers: a whole step"], 100, 15),
    ("smollm2", [f"SmolLM2-135M, 4 bits: prefill of {LONG} tokens", "the same: each token after"], 16, 3),
]


def measure(processes, wanted):
    """Medians by case and side, each a list of seconds."""
    medians = {}
    for case, _, count, rounds in CASES:
        if wanted and case not in wanted:
            continue
        times = {side: [] for side in processes}
        # The first round warms up.
        for number in range(rounds + 1):
            for side, process in processes.items():
                answer = process.ask(case, count)
                if answer is not None and number > 0:
                    times[side].append(answer)
        medians[case] = {
            side: [statistics.median(part) for part in zip(*answers)] for side, answers in times.items() if answers
        }
    return medians


def table(medians):
    lines = ["| case | ours | mlx-lm in Python | ours / Python |", "|---|---|---|---|"]
    for case, titles, _, _ in CASES:
        found = medians.get(case, {})
        if len(found) == 2:
            for title, ours, python in zip(titles, found["ours"], found["python"]):
                lines.append(f"| {title} | {show(ours)} | {show(python)} | {ours / python:.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--ours")
    parser.add_argument("--models", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    if options.serve:
        serve(options.models)
        return
    for layers in (2, 16):
        make_tiny(Path(options.models) / f"tiny_{layers}", layers, options.tokenizer)
    number = str(options.threads)
    environment = {name: number for name in ("MLX_CPU_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    serving = [sys.executable, os.path.abspath(__file__), "--serve", "--models", options.models]
    processes = {
        "ours": Process("ours", [options.ours, options.models], environment),
        "python": Process("python", serving, environment),
    }
    before = os.getloadavg()[0]
    medians = measure(processes, options.cases)
    failed = False
    for process in processes.values():
        process.process.stdin.close()
        process.process.wait()
        if process.problem:
            failed = True
            print(f"{process.name}: {process.problem}", file=sys.stderr)
    print(f"\n{number} threads, medians; load of the machine before: {before:.1f}\n")
    print(table(medians))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(medians, file, indent=1)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
