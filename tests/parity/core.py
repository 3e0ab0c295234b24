"""The answers of Python's MLX for every op of mlx-core: values, dtypes, shapes, or that it raises.

The inputs are descriptions that both sides turn into the same arrays (core_spec.py), so the
golden file holds answers only. `python core.py --out FOLDER` writes cases.json, a list of calls,
and golden.safetensors, the bytes of all answers in the order of the calls; and the same for the
gradients (core_gradients.py).
"""

import json

import mlx.core as mx
import numpy as np

import common
import core_gradients
import core_more  # noqa: F401  (fills the table)
import core_random  # noqa: F401
import core_spec as spec
from core_table import TABLE


def argument(value):
    """The value of a recorded argument: `@` an array, `%` a dtype, text and numbers themselves."""
    if isinstance(value, str) and value.startswith("@"):
        return spec.make(value[1:])
    if isinstance(value, str) and value.startswith("%"):
        return spec.DTYPES[value[1:]]
    if isinstance(value, list) and any(isinstance(v, str) for v in value):
        return [argument(v) for v in value]
    return value


def resolve(case):
    """Arguments for Python; packed weights are quantised from their description."""
    args = {name: argument(value) for name, value in case.items() if name not in ("quantise", "rename")}
    if case.get("quantise"):
        parts = mx.quantize(args["w"], group_size=args["group_size"], bits=args["bits"], mode=args["mode"])
        args.update(zip(("w", "scales", "biases"), parts))
    return args


def arrays(result):
    if isinstance(result, mx.array):
        return [result]
    return [part for part in result]


def raw(array):
    """Bytes in row-major order."""
    if array.dtype == mx.bfloat16:
        array = mx.view(mx.contiguous(array), mx.uint16) if array.size else array.astype(mx.float16)
    return np.array(array, copy=True).tobytes()


def generate(out, _args):
    cases, answers = [], bytearray()
    for name in sorted(TABLE):
        entry = TABLE[name]
        for case in entry.cases:
            record = {"op": name, "args": case}
            try:
                results = arrays(entry.python(resolve(case)))
                mx.eval(results)
                parts = [(raw(r), spec.NAMES[r.dtype], list(r.shape)) for r in results]
            except (ValueError, RuntimeError, IndexError, TypeError, OverflowError):
                record["raises"] = True
            else:
                record["out"] = [f"{dtype}:{'x'.join(map(str, shape))}" for _, dtype, shape in parts]
                for data, _, _ in parts:
                    answers += data
            cases.append(record)
    write(out / "core" / "ops", cases, answers)
    write(out / "core" / "gradients", *core_gradients.record(resolve, arrays, raw))


def write(folder, cases, answers):
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (folder / "cases.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    mx.save_safetensors(str(folder / "golden.safetensors"), {"answers": mx.array(np.frombuffer(bytes(answers), np.uint8))})
    common.write_note(
        folder,
        upstream=common.versions("mlx"),
        dtype="every one",
        tolerance=0.0,
        reason="the same library computes both; where ours does not, the test gives each op its tolerance",
        calls=len(cases),
    )


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
