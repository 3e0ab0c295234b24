"""Arrays from one-line descriptions, the same in Python and in Rust (tests/it/core_parity/spec.rs).

`f32:3x4:small:7:T` is float32 of shape [3, 4], filled by the rule `small` from seed 7, seen through
the view `T`. `f32:3=1,nan,-0` lists its values.

Views: `T` transposed, `R` reversed on every axis, `S` every other element of the last axis of an
array twice as wide, `B` broadcast along a first axis of size 1, `L` not computed yet.
"""

import math

import mlx.core as mx
import numpy as np

DTYPES = {
    "bool": mx.bool_, "u8": mx.uint8, "u16": mx.uint16, "u32": mx.uint32, "u64": mx.uint64,
    "i8": mx.int8, "i16": mx.int16, "i32": mx.int32, "i64": mx.int64,
    "f16": mx.float16, "bf16": mx.bfloat16, "f32": mx.float32, "f64": mx.float64, "c64": mx.complex64,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
FLOATS = ["f16", "bf16", "f32", "f64"]
INTS = ["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64"]
RANGES = {
    "u8": (0, 2**8 - 1), "u16": (0, 2**16 - 1), "u32": (0, 2**32 - 1), "u64": (0, 2**64 - 1),
    "i8": (-(2**7), 2**7 - 1), "i16": (-(2**15), 2**15 - 1), "i32": (-(2**31), 2**31 - 1), "i64": (-(2**63), 2**63 - 1),
}
NUMPY = {"u8": "u1", "u16": "u2", "u32": "u4", "u64": "u8", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8"}
WILD = [0.0, -0.0, 1.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-30, 3.5, -2.5, 60000.0, 1e-8, -7.0]
MASK = (1 << 64) - 1


def words(seed, count):
    """SplitMix64."""
    state, out = seed & MASK, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out.append(z ^ (z >> 31))
    return out


def integer(rule, name, i, z):
    low, high = RANGES[name]
    if rule == "wild":
        return [0, 1, low, high, high - 1, 7, max(low, -8), max(low, -1)][z % 8]
    if rule == "pos":
        return 1 + z % 9
    if rule == "unit":
        return z % 2
    if rule == "dist":
        return (i * 37 % 101) - (50 if low < 0 else 0)
    return z % 11 - (5 if low < 0 else 0)


def real(rule, i, z):
    if rule == "wild":
        return WILD[z % 16]
    if rule == "pos":
        return (z % 80 + 1) / 8
    if rule == "unit":
        return (z % 15 + 1) / 16
    if rule == "dist":
        return (i * 37 % 101) / 8 - 6
    return (z % 81 - 40) / 8


def filled(name, shape, rule, seed):
    """A dense array."""
    count = math.prod(shape)
    random = words(seed, count)
    if name == "bool":
        return mx.array(np.array([z & 1 for z in random], dtype=bool).reshape(shape))
    if name == "c64":
        pairs = [complex(real(rule, i, z), real(rule, i + 1, z >> 16)) for i, z in enumerate(random)]
        return mx.array(np.array(pairs, dtype=np.complex64).reshape(shape))
    if name in NUMPY:
        return mx.array(np.array([integer(rule, name, i, z) for i, z in enumerate(random)], dtype=NUMPY[name]).reshape(shape))
    values = np.array([real(rule, i, z) for i, z in enumerate(random)], dtype=np.float64).reshape(shape)
    return from_float64(values, name)


def from_float64(values, name):
    if name == "f64":
        return mx.array(values, dtype=mx.float64)
    with np.errstate(all="ignore"):
        return mx.array(values.astype(np.float32)).astype(DTYPES[name])


def make(spec):
    """The array that a description names."""
    head, _, listed = spec.partition("=")
    name, dims, *rest = head.split(":")
    shape = [int(dim) for dim in dims.split("x")] if dims else []
    if listed:
        if name in NUMPY or name == "bool":
            return mx.array(np.array([int(v) for v in listed.split(",")]).astype("?" if name == "bool" else NUMPY[name]).reshape(shape))
        return from_float64(np.array([float(v) for v in listed.split(",")], dtype=np.float64).reshape(shape), name)
    rule, seed = (rest + ["small", "1"])[:2] if rest else ("small", "1")
    view = rest[2] if len(rest) > 2 else ""
    if view == "S" and shape:
        return filled(name, shape[:-1] + [2 * shape[-1]], rule, int(seed))[..., ::2]
    if view == "T":
        return mx.transpose(filled(name, shape[::-1], rule, int(seed)))
    if view == "B" and shape:
        return mx.broadcast_to(filled(name, [1] + shape[1:], rule, int(seed)), shape)
    array = filled(name, shape, rule, int(seed))
    if view == "R":
        return array[tuple(slice(None, None, -1) for _ in shape)] if shape else array
    if view == "L":
        return mx.logical_not(mx.logical_not(array)) if name == "bool" else mx.maximum(array, array)
    return array
