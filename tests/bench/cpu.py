"""Times our CPU back end and others in one run: `cargo xtask bench cpu`.

Every peer is a process of its own that stays alive. A round runs a case once in each, so that a
change of the machine's load meets all of them; what is reported are medians over the rounds.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SIDE, PROMPT, WRITTEN = 4096, 512, 64
# Language models of random weights, which made.py writes.
MADE = ["0.6b-Q4_0", "0.6b-Q8_0", "0.6b-Q4_K_M", "0.6b-BF16", "1b-Q4_0", "1b-Q8_0", "1b-BF16"]
SENTENCE = "The quick brown fox jumps over the lazy dog while the sun sets in the west."


def each(count, run):
    start = time.perf_counter()
    for _ in range(count):
        run()
    return [(time.perf_counter() - start) / count]


def mlx_peer(_):
    import mlx.core as mx

    mx.set_default_device(mx.cpu)

    def made(shape, dtype):
        a = mx.random.normal(shape).astype(dtype)
        mx.eval(a)
        return a

    def product(dtype, transposed=False):
        a, b = made((1024, 1024), dtype), made((1024, 1024), dtype)
        b = b.T if transposed else b
        return lambda count: each(count, lambda: mx.eval(a @ b))

    def quantized(rows):
        w = mx.quantize(made((SIDE, SIDE), mx.bfloat16), group_size=64, bits=4)
        x = made((rows, SIDE), mx.bfloat16)
        mx.eval(w)
        run = lambda: mx.eval(mx.quantized_matmul(x, *w, transpose=True, group_size=64, bits=4))
        return lambda count: each(count, run)

    return {
        "f32_cube": lambda: product(mx.float32),
        "f32_linear": lambda: product(mx.float32, True),
        "bf16_cube": lambda: product(mx.bfloat16),
        "q4_row": lambda: quantized(1),
        "q4_rows": lambda: quantized(128),
    }


def numpy_peer(_):
    import numpy as np

    rng = np.random.default_rng(0)

    def product(transposed):
        a, b = (rng.standard_normal((1024, 1024), dtype=np.float32) for _ in range(2))
        b = b.T if transposed else b
        return lambda count: each(count, lambda: a @ b)

    return {"f32_cube": lambda: product(False), "f32_linear": lambda: product(True)}


def llama_peer(options):
    import ctypes

    import llama_cpp as llama
    import numpy as np

    silent = llama.llama_log_callback(lambda *_: None)

    def language(path):
        llama.llama_log_set(silent, ctypes.c_void_p())
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        # Its AMX kernels end the process on some virtual machines.
        params.use_extra_bufts = False
        model = llama.llama_model_load_from_file(path.encode(), params)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 1024, PROMPT, PROMPT
        params.n_threads = params.n_threads_batch = options.threads
        context = llama.llama_init_from_model(model, params)
        size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

        def feed(ids):
            tokens = (llama.llama_token * len(ids))(*ids)
            status = llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids)))
            if status != 0:
                raise RuntimeError(f"llama_decode returned {status}")
            logits = llama.llama_get_logits_ith(context, -1)
            return int(np.ctypeslib.as_array(logits, (size,)).argmax())

        def run(_):
            llama.llama_memory_clear(llama.llama_get_memory(context), True)
            start = time.perf_counter()
            token = feed([i * 7919 % 40000 + 100 for i in range(PROMPT)])
            first = time.perf_counter()
            for _ in range(WRITTEN - 1):
                token = feed([token])
            return [first - start, (time.perf_counter() - first) / (WRITTEN - 1)]

        return run

    return {case: functools.partial(language, path) for case, path in models(options).items()}


def models(options):
    """The files of language models by case."""
    made = {case: os.path.join(options.made, f"{case}.gguf") for case in MADE}
    return {"smollm2": options.gguf, **made}


def onnx_peer(options):
    import onnxruntime
    import torch
    from transformers import AutoModel, AutoTokenizer

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            # The exporter has a whole graph of it, which the run time's optimiser knows.
            self.model = AutoModel.from_pretrained(options.minilm, attn_implementation="eager")

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids, attention_mask, token_type_ids).last_hidden_state

    def minilm():
        import numpy as np

        tokenizer = AutoTokenizer.from_pretrained(options.minilm)
        names = ["input_ids", "attention_mask", "token_type_ids"]
        axes = {name: {0: "batch", 1: "length"} for name in (*names, "hidden")}
        sample = tokenizer(["one", "one and two"], padding=True, return_tensors="pt")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "minilm.onnx")
            torch.onnx.export(
                Encoder().eval(), tuple(sample[name] for name in names), path, input_names=names,
                output_names=["hidden"], dynamic_axes=axes, opset_version=17, dynamo=False,
            )
            session = onnxruntime.InferenceSession(path, settings, ["CPUExecutionProvider"])

        def encode():
            batch = dict(tokenizer([SENTENCE] * 32, padding=True, return_tensors="np"))
            hidden = session.run(None, {name: batch[name] for name in names})[0]
            mask = batch["attention_mask"][..., None].astype(np.float32)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return mean / np.linalg.norm(mean, axis=-1, keepdims=True)

        return lambda count: each(count, encode)

    return {"minilm": minilm}


def torch_peer(options):
    import torch
    from transformers import AutoModel, AutoTokenizer

    def minilm():
        torch.set_num_threads(options.threads)
        tokenizer = AutoTokenizer.from_pretrained(options.minilm)
        model = AutoModel.from_pretrained(options.minilm).eval()

        def encode():
            batch = tokenizer([SENTENCE] * 32, padding=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                torch.nn.functional.normalize(mean, dim=-1)

        return lambda count: each(count, encode)

    return {"minilm": minilm}


PEERS = {
    "mlx": mlx_peer, "numpy": numpy_peer, "llama": llama_peer, "onnx": onnx_peer,
    "torch": torch_peer,
}


def serve(peer, options):
    made, ready = PEERS[peer](options), {}
    for line in sys.stdin:
        case, count = line.split()
        try:
            if case not in ready:
                ready[case] = made[case]()
            answer = ready[case](int(count))
        except Exception as error:  # The other cases go on.
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


class Process:
    """A peer's process; a dead one answers nothing any more."""

    def __init__(self, name, command, environment):
        self.name, self.problem = name, None
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env={**os.environ, **environment},
        )

    def ask(self, case, count):
        try:
            self.process.stdin.write(f"{case} {count}\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        except (OSError, ValueError) as error:
            answer = {"error": str(error)}
        if isinstance(answer, dict):
            self.problem = f"{case}: {answer['error']}"
            return None
        return answer


# The case, what it is called, who runs it how often in a round, and how many rounds of it.
CASES = [
    ("stream", "read 1 GiB on all threads", {"ours": 1}, 3),
    ("f32_cube", "f32 1024³", {"ours": 5, "mlx": 1, "numpy": 5}, 5),
    ("f32_linear", "f32 1024³, right operand transposed", {"ours": 5, "mlx": 1, "numpy": 5}, 5),
    ("bf16_cube", "bf16 1024³", {"ours": 5, "mlx": 1}, 5),
    ("q4_row", "4 bits, groups of 64, bf16 4096², 1 row", {"ours": 50, "mlx": 1}, 7),
    ("q4_rows", "the same, 128 rows", {"ours": 3, "mlx": 1}, 1),
    ("smollm2", "SmolLM2-135M Q4_1, 512 tokens", {"ours": 1, "llama": 1}, 5),
    ("minilm", "MiniLM, 32 sentences", {"ours": 1, "onnx": 1, "torch": 1}, 7),
    *((case, case.replace("-", " "), {"ours": 1, "llama": 1}, 2) for case in MADE),
]
SIZES = {"stream": 2**30, "f32_cube": 2**31, "f32_linear": 2**31, "bf16_cube": 2**31}


def show(seconds):
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def measure(processes, wanted):
    """Medians by case and peer, each a list of seconds."""
    medians = {}
    for case, title, peers, rounds in CASES:
        if wanted and case not in wanted:
            continue
        peers = {peer: count for peer, count in peers.items() if peer in processes}
        times = {peer: [] for peer in peers}
        slow = set()
        # The first round makes the operands and is not counted, unless it takes long.
        for number in range(rounds + 1):
            for peer, count in peers.items():
                if peer in slow:
                    continue
                # Threads of the peer before spin for a while before they sleep.
                time.sleep(0.2)
                start = time.perf_counter()
                answer = processes[peer].ask(case, count)
                took = time.perf_counter() - start
                if answer is None:
                    continue
                if number > 0 or took > 8:
                    times[peer].append(answer)
                if took > 8 and len(times[peer]) >= 1:
                    slow.add(peer)
        medians[case] = {
            peer: [statistics.median(part) for part in zip(*answers)]
            for peer, answers in times.items() if answers
        }
        print(f"{title}: " + ", ".join(
            f"{peer} {' + '.join(map(show, m))}" for peer, m in medians[case].items()), flush=True)
    return medians


def table(medians):
    lines = ["| case | ours | stock MLX | other | ours / stock | ours / other |", "|---|---|---|---|---|---|"]
    names = {"numpy": "NumPy", "llama": "llama.cpp", "onnx": "onnxruntime", "torch": "torch"}
    ratio = lambda a, b: f"{b / a:.2f}×" if a and b else "–"
    for case, title, _, _ in CASES:
        found = medians.get(case, {})
        if "ours" not in found:
            continue
        language = case == "smollm2" or case in MADE
        parts = [f"{title}: prefill", "the same: each of 63 tokens after"] if language else [title]
        others = [peer for peer in names if peer in found] or [None]
        for i, part, name in ((i, part, name) for i, part in enumerate(parts) for name in others):
            ours = found["ours"][i]
            stock = found.get("mlx", [None] * 2)[i]
            other = found[name][i] if name else None
            notes = ""
            if case == "stream":
                notes = f" ({2**30 / ours / 1e9:.1f} GB/s)"
            elif case in SIZES:
                notes = f" ({SIZES[case] / ours / 1e9:.0f} GFLOP/s)"
            elif case == "q4_row":
                size = SIDE * SIDE // 2 + SIDE * SIDE // 64 * 4
                notes = f" ({size / ours / 1e9:.1f} GB/s)"
            elif language:
                notes = f" ({(PROMPT if i == 0 else 1) / ours:.1f} tokens/s)"
            lines.append(
                f"| {part} | {show(ours)}{notes} | {show(stock) if stock else '–'} | "
                f"{names[name] + ' ' + show(other) if name else '–'} | {ratio(ours, stock)} | {ratio(ours, other)} |")
    return "\n".join(lines)


def make(options):
    """Writes the models that are wanted and not there."""
    for case in MADE:
        path = models(options)[case]
        if (not options.cases or case in options.cases) and not os.path.exists(path):
            import made

            os.makedirs(options.made, exist_ok=True)
            made.write(f"{path}.part", *case.split("-"), options.gguf)
            os.replace(f"{path}.part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--ours")
    parser.add_argument("--gguf")
    parser.add_argument("--minilm")
    parser.add_argument("--made", help="folder of the files that made.py writes")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    if options.peer:
        serve(options.peer, options)
        return
    number = str(options.threads)
    environment = {name: number for name in ("MLX_CPU_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    common = ["--threads", number, "--gguf", options.gguf, "--minilm", options.minilm,
              "--made", options.made]
    make(options)
    processes = {"ours": Process("ours", [options.ours, options.made], environment)}
    for peer in PEERS:
        command = [sys.executable, os.path.abspath(__file__), "--peer", peer, *common]
        processes[peer] = Process(peer, command, environment)
    before = os.getloadavg()[0]
    medians = measure(processes, options.cases)
    for process in processes.values():
        process.process.stdin.close()
        process.process.wait()
        if process.problem:
            print(f"{process.name}: {process.problem}", file=sys.stderr)
    print(f"\n{number} threads, medians; load of the machine before: {before:.1f}\n")
    print(table(medians))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(medians, file, indent=1)
    sys.exit(0 if processes["ours"].problem is None else 1)


if __name__ == "__main__":
    main()
