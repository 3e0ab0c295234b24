"""The gradients of every op of the table, as Python's MLX gives them.

The value whose gradient is taken is the sum of the op's results, each times weights that both
sides make from the same description. Every float32 or complex64 input of a call gets a gradient,
or the call is noted as one that raises.
"""

import mlx.core as mx

import core_spec as spec
from core_table import TABLE

MOST_CALLS = 9
# What core_table.py computes with NumPy has no gradient there; finite differences check ours.
EMULATED = {"indexing::gather", "indexing::masked_scatter"}
# MLX has no gradient for the value that fills the border, and reads one that is not there.
ENDS_PYTHON = {"shape::pad": "value"}
# Ops that Python's MLX does not have, or not on the CPU.
OURS = {
    "fast::scaled_dot_product_attention_fused": [{"queries": "@f32:1x4x2x4:small:1", "keys": "@f32:1x2x3x4:small:2", "values": "@f32:1x2x3x4:small:3", "scale": 0.25, **m} for m in ({}, {"mask_mode": "causal"})],
    **{f"fast::{name}": [{"x": "@f32:2x5:small:1"}] for name in ("gelu", "gelu_approx", "gelu_fast_approx", "silu")},
    "fast::swiglu": [{"gate": "@f32:2x5:small:1", "x": "@f32:2x5:small:2:T"}, {"gate": "@f32:1x5:small:3", "x": "@f32:3x5:small:4"}],
}


def dtype_of(value):
    return value[1:].split(":")[0].split("=")[0] if isinstance(value, str) and value.startswith("@") else None


def inputs(case):
    """The names of the inputs that get a gradient; `arrays.1` is the second of a list."""
    names = []
    for name, value in case.items():
        if name == "w" and case.get("quantise"):
            continue
        if dtype_of(value) in ("f32", "c64"):
            names.append(name)
        elif isinstance(value, list):
            names += [f"{name}.{i}" for i, part in enumerate(value) if dtype_of(part) in ("f32", "c64")]
    if case.get("quantise") and case["mode"] == "affine" and "rename" not in case:
        names += ["scales", "biases"]
    return names


def plain(case):
    """Single precision throughout, and no NaN or infinity."""
    parts = [part for value in case.values() for part in (value if isinstance(value, list) else [value])]
    described = [part for part in parts if dtype_of(part)]
    return all(dtype_of(part) not in ("f16", "bf16", "f64") and ":wild" not in part for part in described) and bool(inputs(case))


FAILURES = (ValueError, RuntimeError, IndexError, TypeError, OverflowError)


def answers(entry, case, resolve, arrays):
    """Whether the call itself gives a result: what fails is compared elsewhere."""
    try:
        mx.eval(arrays(entry.python(resolve(case))))
    except FAILURES:
        return False
    return True


def chosen(entry, resolve, arrays):
    """The calls written for gradients, and some of the others, spread evenly."""
    picked = [case for case in entry.grad if plain(case)]
    rest = [case for case in entry.cases if plain(case) and case not in picked and answers(entry, case, resolve, arrays)]
    room = MOST_CALLS - len(picked)
    step = max(1, -(-len(rest) // room))
    return picked + rest[::step]


def weighted(results):
    """A number that depends on every element of the results, or None if nothing is a float."""
    total = None
    for i, result in enumerate(results):
        if not mx.issubdtype(result.dtype, mx.inexact):
            continue
        dims = "x".join(map(str, result.shape))
        parts = [result]
        if result.dtype == mx.complex64:
            parts = [mx.real(result), mx.imag(result)]
        for j, part in enumerate(parts):
            weights = spec.make(f"f32:{dims}:unit:{11 + 2 * i + j}")
            term = mx.sum(part.astype(mx.float32) * weights)
            total = term if total is None else total + term
    return total


class NothingToDo(Exception):
    """No result is a float."""


def replaced(args, names, values):
    """The arguments with arrays in the places that `names` name."""
    args = {name: list(value) if isinstance(value, list) else value for name, value in args.items()}
    for name, value in zip(names, values):
        head, _, place = name.partition(".")
        if place:
            args[head][int(place)] = value
        else:
            args[head] = value
    return args


def gradients(entry, args, names, arrays):
    def value(*given):
        total = weighted(arrays(entry.python(replaced(args, names, given))))
        if total is None:
            raise NothingToDo
        return total

    primals = [args[name.partition(".")[0]] for name in names]
    primals = [p[int(name.partition(".")[2])] if isinstance(p, list) else p for p, name in zip(primals, names)]
    found = mx.grad(value, list(range(len(names))))(*primals)
    found = list(found) if isinstance(found, (list, tuple)) else [found]
    mx.eval(found)
    return found


def record(resolve, arrays, raw):
    """All calls, and the bytes of all gradients in their order."""
    cases, found = [], bytearray()
    for name in sorted(set(TABLE) | set(OURS)):
        calls = OURS.get(name) or chosen(TABLE[name], resolve, arrays)
        for case in calls:
            names = inputs(case)
            line = {"op": name, "args": case, "wrt": names}
            if name in EMULATED or name in OURS or ENDS_PYTHON.get(name) in names:
                line["python"] = False
                cases.append(line)
                continue
            try:
                parts = gradients(TABLE[name], resolve(case), names, arrays)
            except NothingToDo:
                continue
            except FAILURES as error:
                line["raises"] = str(error).split("\n")[0][:60]
            else:
                for gradient in parts:
                    found += raw(gradient)
            cases.append(line)
    return cases, found
