"""How arrays read as text (MLX's repr) and what NumPy's indexing picks and replaces."""

import json

import mlx.core as mx
import numpy as np

import common

SELECTIONS = 240
UPDATES = 160


def lines(path, cases):
    """One case a line, so that a difference shows which case moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n", encoding="utf-8")


# ---- text ------------------------------------------------------------------------------------


def displayed():
    inf, nan = float("inf"), float("nan")
    floats = [0.0, -0.0, 1.0, -1.5, 0.1, 1 / 3, 100000.0, 999999.0, 999999.5, 1e6, 1234567.0, 1e10, -1e-4,
              1e-5, 123456.789, 0.00012345678, inf, -inf, nan, 3.4e38, 1e-40, 5e-324, 1e300, 2.5, 0.125]
    for dtype in (mx.float16, mx.bfloat16, mx.float32, mx.float64):
        for at in range(0, len(floats), 5):
            yield mx.array(floats[at : at + 5], dtype=dtype)
        yield mx.array(floats, dtype=dtype).reshape(5, 5)
    yield mx.array([1 + 2j, 3.5 - 4j, -1j, complex(nan, 1), complex(0.1, -inf), complex(-0.0, nan)])
    for dtype in (mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, mx.int8, mx.int16, mx.int32, mx.int64):
        yield mx.array([[0, 1, 2], [100, 3, 1]], dtype=dtype)
        yield mx.array(7, dtype=dtype)
    yield mx.array([-(2**63), 2**63 - 1], dtype=mx.int64)
    yield mx.array([-128, 127], dtype=mx.int8)
    for shape in [(0,), (0, 3), (2, 0), (2, 0, 3), (1, 1, 1), (6,), (7,), (8, 8), (2, 7), (7, 2), (2, 2, 2), (3, 1, 7, 2)]:
        yield mx.arange(int(np.prod(shape)), dtype=mx.int32).reshape(shape)
        yield mx.arange(int(np.prod(shape)), dtype=mx.float32).reshape(shape) / 8
    yield mx.arange(12, dtype=mx.int32).reshape(3, 4).T
    yield mx.broadcast_to(mx.array([1.5, 2.5]), (3, 2))


def display_cases():
    for array in displayed():
        dense = mx.contiguous(array)
        mx.eval(dense)
        data = bytes(memoryview(dense.view(mx.uint16) if array.dtype == mx.bfloat16 else dense)) if array.size else b""
        case = {"dtype": str(array.dtype).removeprefix("mlx.core.").removesuffix("_"), "shape": list(array.shape),
                "data": data.hex(), "text": repr(array)}
        if mx.issubdtype(array.dtype, mx.inexact):
            with mx.printoptions(precision=2):
                case["two_decimals"] = repr(array)
        yield case


# ---- indices ---------------------------------------------------------------------------------


class Indices:
    """Random indices, as what NumPy takes and as what the tests read."""

    def __init__(self, random):
        self.random = random

    def shape(self):
        return tuple(int(self.random.integers(1, 5)) for _ in range(self.random.integers(1, 5)))

    def limit(self, dim):
        return None if self.random.random() < 0.3 else int(self.random.integers(-dim - 2, dim + 3))

    def position(self, dim):
        wrong = self.random.random() < 0.06
        return int(dim + self.random.integers(0, 2)) if wrong else int(self.random.integers(-dim, dim))

    def index(self, shape, distinct):
        """`distinct`: no element may be picked twice, because the order of writes is not defined."""
        parts, numpy_parts, axis = [], [], 0
        fancy = None
        ellipsis = False
        while axis < len(shape):
            dim = shape[axis]
            kind = self.random.choice(["int", "slice", "slice", "full", "new", "ellipsis", "array", "mask", "stop"])
            if kind == "int":
                value = self.position(dim)
                parts.append(["i", value])
                numpy_parts.append(value)
                axis += 1
            elif kind in ("slice", "full"):
                step = int(self.random.choice([1, 1, 2, 3, -1, -2, -3]))
                start, stop = (None, None) if kind == "full" else (self.limit(dim), self.limit(dim))
                step = 1 if kind == "full" else step
                parts.append(["s", start, stop, step])
                numpy_parts.append(slice(start, stop, step))
                axis += 1
            elif kind == "new":
                parts.append(["n"])
                numpy_parts.append(None)
            elif kind == "ellipsis" and not ellipsis:
                ellipsis = True
                skipped = int(self.random.integers(0, len(shape) - axis + 1))
                parts.append(["e"])
                numpy_parts.append(Ellipsis)
                axis += skipped
                # What the ellipsis covers is known only if the rest is used up.
                rest = len(shape) - axis
                for _ in range(rest):
                    parts.append(["s", None, None, 1])
                    numpy_parts.append(slice(None))
                break
            elif kind == "array" and not (distinct and fancy):
                fancy = fancy or tuple(int(self.random.integers(1, 4)) for _ in range(self.random.integers(0, 3)))
                size = int(np.prod(fancy))
                if distinct and size > dim:
                    fancy = (1,)
                    size = 1
                values = self.random.permutation(dim)[:size] if distinct else self.random.integers(-dim, dim, size)
                values = np.asarray(values, np.int32).reshape(fancy)
                parts.append(["a", list(fancy), values.ravel().tolist()])
                numpy_parts.append(values)
                axis += 1
            elif kind == "mask" and fancy is None and not any(part[0] == "b" for part in parts):
                covered = int(self.random.integers(1, len(shape) - axis + 1))
                mask = self.random.random(shape[axis : axis + covered]) < 0.5
                parts.append(["b", list(mask.shape), mask.ravel().astype(int).tolist()])
                numpy_parts.append(mask)
                fancy = ()  # Other index arrays would have to broadcast with its count.
                axis += covered
            elif kind == "stop":
                break
        if not parts:
            return self.index(shape, distinct)
        return parts, tuple(numpy_parts)


def selections(random):
    make = Indices(random)
    while True:
        shape = make.shape()
        parts, index = make.index(shape, distinct=False)
        source = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
        case = {"shape": list(shape), "index": parts}
        try:
            picked = source[index]
        except IndexError:
            yield case | {"error": True}
            continue
        yield case | {"picked": [list(picked.shape), picked.ravel().tolist()]}


def updates(random):
    make = Indices(random)
    ufuncs = {"add": np.add, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum}
    while True:
        shape = make.shape()
        how = str(random.choice(["set", *ufuncs]))
        parts, index = make.index(shape, distinct=how == "set")
        target = random.integers(-4, 5, shape).astype(np.int32)
        case = {"shape": list(shape), "target": target.ravel().tolist(), "index": parts, "how": how}
        try:
            picked = target[index]
        except IndexError:
            continue
        dims = picked.shape[int(random.integers(0, picked.ndim + 1)) :]
        dims = tuple(1 if random.random() < 0.2 else dim for dim in dims)
        values = random.integers(-3, 4, dims).astype(np.int32)
        if how == "set":
            target[index] = values
        else:
            ufuncs[how].at(target, index, values)
        yield case | {"values": [list(dims), values.ravel().tolist()], "result": target.ravel().tolist()}


def generate(out, _args):
    folder = out / "core" / "ergonomics"
    mx.set_default_device(mx.cpu)
    lines(folder / "display.json", list(display_cases()))
    random = np.random.default_rng(20)
    for name, cases, count in [("selections", selections, SELECTIONS), ("updates", updates, UPDATES)]:
        made = cases(random)
        lines(folder / f"{name}.json", [next(made) for _ in range(count)])
    common.write_note(
        folder,
        upstream=common.versions("numpy", "mlx"),
        dtype="every one; indices of int32",
        tolerance=0.0,
        reason="text and integers",
    )


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
