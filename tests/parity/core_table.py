"""For each op of mlx-core: how Python computes it, and the calls to compare.

A case is (op, arguments by our parameter names, options). Arrays are descriptions after `@`.
"""

import mlx.core as mx
import numpy as np

import core_spec as spec

TABLE = {}
ALL = list(spec.DTYPES)
VIEWS = ["", "T", "R", "S", "B", "L"]


class Op:
    def __init__(self, python, cases, grad=()):
        self.python, self.cases, self.grad = python, cases, grad


def op(name, python, cases, grad=()):
    TABLE[name] = Op(python, cases, grad)


def family(names, prefix, build):
    for name in names.split():
        build(prefix + "::" + name, getattr(mx, name))


def one(rules=("small", "wild"), parameter="a", **extra):
    """A unary op over dtypes, ranks, views, empty arrays and special values."""
    cases = []
    for index, dtype in enumerate(ALL):
        for rule in rules:
            cases.append({parameter: f"@{dtype}:8:{rule}:{index}", **extra})
        cases.append({parameter: f"@{dtype}:2x3:{rules[0]}:{index + 1}:{VIEWS[index % 6]}", **extra})
    cases += [
        {parameter: f"@f32::{rules[0]}:3", **extra},
        {parameter: f"@f32:0x3:{rules[0]}:3", **extra},
        {parameter: f"@f16:2x1x3x2:{rules[0]}:4:T", **extra},
        {parameter: f"@i32:0:{rules[0]}:5", **extra},
        {parameter: f"@bf16:3x4:{rules[0]}:6:S", **extra},
    ]
    return cases


def two(left="lhs", right="rhs", rules=("small", "pos")):
    """A binary op over pairs of dtypes, broadcasting, views, empty arrays and special values."""
    cases = []
    for i, a in enumerate(ALL):
        cases.append({left: f"@{a}:2x3:{rules[0]}:{i}", right: f"@{a}:2x3:{rules[1]}:{i + 9}:{VIEWS[i % 6]}"})
        for j in (3, 7, 10):
            b = ALL[(i + j) % 14]
            cases.append({left: f"@{a}:2x1:{rules[0]}:{i}", right: f"@{b}:3:{rules[1]}:{i + j}"})
    for dtype in ("f32", "bf16", "i32", "u8", "c64", "i64", "bool"):
        cases.append({left: f"@{dtype}:16:wild:1", right: f"@{dtype}:16:{'pos' if rules[1] == 'divisor' else 'wild'}:2"})
    cases += [
        {left: f"@f32::{rules[0]}:1", right: f"@f32:2x2:{rules[1]}:2:T"},
        {left: f"@f32:0x3:{rules[0]}:1", right: f"@f32:3:{rules[1]}:2"},
        {left: f"@f32:2x3:{rules[0]}:1", right: f"@f32:2x4:{rules[1]}:2"},
        {left: f"@f32:4x1x2:{rules[0]}:1:B", right: f"@f32:3x1:{rules[1]}:2:L"},
    ]
    return cases


def key(seed=7):
    return f"@u32:2=0,{seed}"


DIFFERENTIABLE = "abs negative square sqrt rsqrt exp expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arctanh degrees radians sigmoid erf erfinv reciprocal floor ceil sign positive".split()
UNIT = [{"a": "@f32:2x3:unit:5"}, {"a": "@f32:3x2:unit:6:T"}]

for name in "abs negative positive sign reciprocal square sqrt rsqrt floor ceil trunc exp expm1 log log2 log10 log1p sin cos tan arcsin arccos arctan sinh cosh tanh arcsinh arccosh arctanh degrees radians sigmoid erf erfinv real imag conjugate".split():
    op("arithmetic::" + name, lambda a, f=getattr(mx, name): f(a["a"]), one(), UNIT if name in DIFFERENTIABLE else ())
op("arithmetic::arccosh", lambda a: mx.arccosh(a["a"]), one(), [{"a": "@f32:4=1.5,2,3,9"}])
for name in "add subtract multiply divide power maximum minimum logaddexp arctan2".split():
    grads = [{"lhs": "@f32:2x3:pos:1", "rhs": "@f32:3:unit:2"}, {"lhs": "@f32:2x1:unit:3", "rhs": "@f32:2x3:pos:4:T"}]
    op("arithmetic::" + name, lambda a, f=getattr(mx, name): f(a["lhs"], a["rhs"]), two(), grads)
for name in "floor_divide remainder divmod".split():
    op("arithmetic::" + name, lambda a, f=getattr(mx, name): f(a["lhs"], a["rhs"]), two(rules=("small", "divisor")))
    # Division of integers by zero ends Python's process, and half of all bools are zero.
    cases = TABLE["arithmetic::" + name].cases
    cases[:] = [case for case in cases if "bool" not in case["rhs"]]
    for case in cases:
        case["rhs"] = case["rhs"].replace(":divisor:", ":pos:")
        if "wild" in case["lhs"]:
            case["rhs"] = case["rhs"].replace(":wild:", ":pos:")
op("arithmetic::round", lambda a: mx.round(a["a"], a["decimals"]), one(decimals=0) + [{"a": "@f32:9:small:1", "decimals": d} for d in (1, 2, -1)])
op("arithmetic::clip", lambda a: mx.clip(a["a"], a.get("a_min"), a.get("a_max")),
   one(a_min="@f32:=-1", a_max="@f32:=2") + [{"a": "@f32:8:wild:1", "a_min": "@f32:=0"}, {"a": "@i32:8:wild:1", "a_max": "@i32:=3"}, {"a": "@i32:8:wild:1"}],
   [{"a": "@f32:6:dist:1", "a_min": "@f32:=-1", "a_max": "@f32:=2"}])

for name in "equal not_equal greater greater_equal less less_equal".split():
    op("comparison::" + name, lambda a, f=getattr(mx, name): f(a["lhs"], a["rhs"]), two())
for name in "isnan isinf isfinite isposinf isneginf".split():
    op("comparison::" + name, lambda a, f=getattr(mx, name): f(a["a"]), one())
op("comparison::array_equal", lambda a: mx.array_equal(a["lhs"], a["rhs"], equal_nan=a["equal_nan"]),
   [{**case, "equal_nan": nan} for case in two() for nan in (False, True)][::2])
for name in ("allclose", "isclose"):
    f = getattr(mx, name)
    op("comparison::" + name, lambda a, f=f: f(a["lhs"], a["rhs"], a["rtol"], a["atol"]), [{**case, "rtol": 1e-3, "atol": 1e-2} for case in two(rules=("small", "small"))])
op("comparison::isclose_with", lambda a: mx.isclose(a["lhs"], a["rhs"], a["rtol"], a["atol"], equal_nan=a["equal_nan"]),
   [{"lhs": "@f32:16:wild:1", "rhs": "@f32:16:wild:1", "rtol": 0.1, "atol": 0.1, "equal_nan": nan} for nan in (False, True)])

for name in "logical_and logical_or logical_xor".split():
    if hasattr(mx, name):
        op("logical::" + name, lambda a, f=getattr(mx, name): f(a["lhs"], a["rhs"]), two())
for name in "bitwise_and bitwise_or bitwise_xor".split():
    op("logical::" + name, lambda a, f=getattr(mx, name): f(a["lhs"], a["rhs"]), two())
for name in "left_shift right_shift".split():
    op("logical::" + name, lambda a, f=getattr(mx, name): f(a["lhs"], a["rhs"]),
       [{"lhs": f"@{d}:2x3:pos:{i}", "rhs": f"@{d}:3=1,2,3"} for i, d in enumerate(spec.INTS)] + [{"lhs": "@f32:3:small:1", "rhs": "@f32:3:pos:1"}, {"lhs": "@bool:3:small:1", "rhs": "@bool:3:pos:1"}])
op("logical::logical_not", lambda a: mx.logical_not(a["a"]), one())
op("logical::bitwise_invert", lambda a: mx.bitwise_invert(a["a"]), one())

WHOLE = "sum prod mean median max min all any logsumexp count_nonzero".split()
DIFF_REDUCE = {"sum", "prod", "mean", "max", "min", "logsumexp", "var", "std"}
for name in WHOLE + ["var", "std"]:
    f = getattr(mx, name)
    extra = {"ddof": 0} if name in ("var", "std") else {}
    whole = one(keepdims=False, **extra) + [{"a": "@f32:3x4:small:1:T", "keepdims": True, **extra}]
    op("reduction::" + name, lambda a, f=f: f(a["a"], keepdims=a["keepdims"], **({"ddof": a["ddof"]} if "ddof" in a else {})), whole,
       [{"a": "@f32:3x4:dist:1", "keepdims": False, **extra}] if name in DIFF_REDUCE else ())
    axes = [{"a": f"@{d}:2x3x4:small:{i}:{VIEWS[i % 6]}", "axes": [[0], [1, -1], [0, 2], [-1]][i % 4], "keepdims": i % 2 == 0, **extra} for i, d in enumerate(ALL)]
    # Over an empty axis of a transposed array MLX reads strides that do not exist.
    axes += [{"a": f"@f32:{s}:small:1{'' if '0' in s else ':T'}", "axes": x, "keepdims": False, **extra} for s, x in
             [("0x3", [0]), ("0x3", [1]), ("3x0", [0, 1]), ("2x2", [2]), ("2x2", [0, 0]), ("2x2", []), ("", [0]), ("5x1x3", [1])]]
    axes += [{"a": "@f32:4x4:wild:1", "axes": [1], "keepdims": False, **extra}, {"a": "@bf16:4x4:wild:1", "axes": [0], "keepdims": False, **extra}]
    op("reduction::" + name + "_axes", lambda a, f=f: f(a["a"], axis=a["axes"], keepdims=a["keepdims"], **({"ddof": a["ddof"]} if "ddof" in a else {})), axes,
       [{"a": "@f32:2x3x2:dist:1:T", "axes": [0, 2], "keepdims": True, **extra}] if name in DIFF_REDUCE else ())
# Reductions of nothing plan by strides that do not exist: MLX waits for ever, or leaves the answer
# unwritten. Ours are tested by their meaning.
for name in WHOLE + ["var", "std"]:
    for kind in ("", "_axes"):
        cases = TABLE["reduction::" + name + kind].cases
        cases[:] = [case for case in cases if not (":0" in case["a"] or "x0" in case["a"])]
for name in ("var", "std"):
    TABLE["reduction::" + name].cases += [{"a": "@f32:5:small:1", "keepdims": False, "ddof": d} for d in (1, 5, 6)]
for name in ("argmax", "argmin"):
    f = getattr(mx, name)
    op("reduction::" + name, lambda a, f=f: f(a["a"], keepdims=a["keepdims"]), one(keepdims=False))
    op("reduction::" + name + "_axis", lambda a, f=f: f(a["a"], axis=a["axis"], keepdims=a["keepdims"]),
       [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "axis": i % 2 - 1, "keepdims": i % 2 == 0} for i, d in enumerate(ALL)] + [{"a": "@f32:2:small:1", "axis": 1, "keepdims": False}])
op("reduction::minmax", lambda a: mx.minmax(a["a"], keepdims=a["keepdims"]), one(keepdims=False))
op("reduction::trace", lambda a: mx.trace(a["a"], a["offset"], a["axis1"], a["axis2"]),
   [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "offset": i % 5 - 2, "axis1": 0, "axis2": 1} for i, d in enumerate(ALL)] + [{"a": "@f32:2x3x3:small:1", "offset": 0, "axis1": -1, "axis2": 1}, {"a": "@f32:3:small:1", "offset": 0, "axis1": 0, "axis2": 1}],
   [{"a": "@f32:3x4:small:1", "offset": 1, "axis1": 0, "axis2": 1}])
softmax = [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "axes": [[-1], [0], [0, 1]][i % 3]} for i, d in enumerate(ALL)] + [{"a": "@f32:0x3:small:1", "axes": [1]}, {"a": "@f32:4x4:wild:1", "axes": [1]}, {"a": "@f32:3:small:1", "axes": [1]}]
op("reduction::softmax", lambda a: mx.softmax(a["a"], axis=a["axes"]), softmax, [{"a": "@f32:3x4:small:1", "axes": [-1]}, {"a": "@f32:3x4:small:1:T", "axes": [0]}])
op("reduction::softmax_with", lambda a: mx.softmax(a["a"], axis=a["axes"], precise=a["precise"]), [{**case, "precise": True} for case in softmax])
for name in "cumsum cumprod cummax cummin logcumsumexp".split():
    f = getattr(mx, name)
    scans = [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "axis": i % 3 - 1, "reverse": i % 2 == 0, "inclusive": i % 4 < 2} for i, d in enumerate(ALL)]
    scans += [{"a": "@f32:0x3:small:1", "axis": 0}, {"a": "@f32:3:small:1", "axis": 1}, {"a": "@f32:9:wild:1", "axis": 0}, {"a": "@f32:2x3x2:small:1:T", "axis": 1}]
    op("reduction::" + name, lambda a, f=f: f(a["a"], axis=a["axis"], reverse=a.get("reverse", False), inclusive=a.get("inclusive", True)), scans,
       [{"a": "@f32:2x4:dist:3", "axis": 1}, {"a": "@f32:2x4:dist:3", "axis": 0, "reverse": True}])


def shaped(name, python, variants, grad=True, dtypes=("f32", "bool", "i64", "bf16", "c64", "u8"), shape="2x3x4"):
    cases = []
    for i, extra in enumerate(variants):
        cases.append({"a": f"@{dtypes[i % len(dtypes)]}:{shape}:small:{i}:{VIEWS[i % 6]}", **extra})
        cases.append({"a": f"@f32:{shape}:small:{i}:T", **extra})
        cases.append({"a": f"@f32:0x{shape}:small:{i}", **extra})
    op("shape::" + name, python, cases, [{"a": f"@f32:{shape}:small:1:T", **variants[0]}] if grad else ())


def no(key_values):
    return [dict(zip(key_values, values)) for values in zip(*key_values.values())]


shaped("reshape", lambda a: mx.reshape(a["a"], a["shape"]), no({"shape": [[24], [-1], [4, -1], [2, 12], [-1, -1], [5, 5], [0, -1], [1, 24, 1]]}))
shaped("unflatten", lambda a: mx.unflatten(a["a"], a["axis"], a["shape"]), no({"axis": [2, -1, 0, 1, 3], "shape": [[2, 2], [-1, 2], [1, 2], [3, 1], [1]]}))
shaped("flatten", lambda a: mx.flatten(a["a"], a["start_axis"], a["end_axis"]), no({"start_axis": [0, 1, -2, 2, 0, 5], "end_axis": [-1, 2, -1, 1, 9, 5]}))
shaped("squeeze", lambda a: mx.squeeze(a["a"]), [{}], shape="1x3x1")
shaped("squeeze_axes", lambda a: mx.squeeze(a["a"], a["axes"]), no({"axes": [[0], [-1], [0, 2], [1], [3], [0, 0]]}), shape="1x3x1")
shaped("expand_dims", lambda a: mx.expand_dims(a["a"], a["axes"]), no({"axes": [[0], [-1], [0, 2], [4], [9], [0, 0]]}))
shaped("flip", lambda a: mx.flip(a["a"]), [{}])
shaped("flip_axes", lambda a: mx.flip(a["a"], a["axes"]), no({"axes": [[0], [-1], [0, 2], [7]]}))
shaped("transpose", lambda a: mx.transpose(a["a"]), [{}])
shaped("transpose_axes", lambda a: mx.transpose(a["a"], a["axes"]), no({"axes": [[2, 0, 1], [0, -1, 1], [0, 1], [0, 0, 1], [0, 1, 3]]}))
shaped("matrix_transpose", lambda a: mx.matrix_transpose(a["a"]), [{}])
shaped("swapaxes", lambda a: mx.swapaxes(a["a"], a["axis1"], a["axis2"]), no({"axis1": [0, -1, 1, 3], "axis2": [2, 0, 1, 0]}))
shaped("moveaxis", lambda a: mx.moveaxis(a["a"], a["source"], a["destination"]), no({"source": [0, -1, 1, 3], "destination": [2, 0, 1, 0]}))
shaped("broadcast_to", lambda a: mx.broadcast_to(a["a"], a["shape"]), no({"shape": [[3, 4], [2, 3, 4], [3], [0, 3, 4]]}), shape="3x1")
shaped("contiguous", lambda a: mx.contiguous(a["a"], a["allow_col_major"]), no({"allow_col_major": [False, True]}))
for name in ("atleast_1d", "atleast_2d", "atleast_3d"):
    op("shape::" + name, lambda a, f=getattr(mx, name): f(a["a"]), one(("small",)), [{"a": "@f32:3:small:1"}])
joins = [["@f32:2x3:small:1", "@f32:2x3:small:2:T"], ["@i8:2x3:small:1", "@f16:2x3:small:2:S", "@u32:2x3:small:3"], ["@bool:2x3:small:1"], ["@f32:0x3:small:1", "@f32:2x3:small:2"], ["@f32:2x3:small:1", "@f32:3x3:small:2"], []]
for name in ("concatenate", "stack"):
    f = getattr(mx, name)
    op("shape::" + name, lambda a, f=f: f(a["arrays"], a["axis"]), [{"arrays": list_, "axis": axis} for list_ in joins for axis in (0, 1, -1, 3)], [{"arrays": joins[0], "axis": 1}])
op("shape::broadcast_arrays", lambda a: mx.broadcast_arrays(*a["arrays"]), [{"arrays": x} for x in (["@f32:2x1:small:1", "@i32:3:small:2"], ["@f32:2x3:small:1", "@i32:4:small:2"], ["@f32::small:1", "@bool:0x2:small:2"])])
shaped("split", lambda a: mx.split(a["a"], a["num_splits"], a["axis"]), no({"num_splits": [2, 3, 1, 5, 4], "axis": [0, 1, 2, 1, -1]}))
shaped("split_at", lambda a: mx.split(a["a"], a["indices"], a["axis"]), no({"indices": [[1], [1, 3], [0, 4], []], "axis": [1, 2, -1, 0]}))
shaped("unstack", lambda a: mx.unstack(a["a"], axis=a["axis"]), no({"axis": [0, 1, -1, 4]}))
shaped("repeat", lambda a: mx.repeat(a["a"], a["repeats"]), no({"repeats": [2, 0, 1, -1]}), shape="2x2")
shaped("repeat_axis", lambda a: mx.repeat(a["a"], a["repeats"], a["axis"]), no({"repeats": [2, 0, 3, 2], "axis": [0, 1, -1, 2]}), shape="2x2")
shaped("tile", lambda a: mx.tile(a["a"], a["reps"]), no({"reps": [[2], [2, 1], [0, 2], [1, 2, 2], []]}), shape="2x2")
shaped("roll", lambda a: mx.roll(a["a"], a["shift"]), no({"shift": [1, -2, 7, 0]}))
shaped("roll_axes", lambda a: mx.roll(a["a"], a["shift"], a["axes"]), no({"shift": [[1], [1, -1], [9], [1]], "axes": [[0], [0, 2], [-1], [3]]}))
shaped("pad", lambda a: mx.pad(a["a"], a["widths"], a["mode"], a["value"]), no({"widths": [[[1, 2], [0, 1]], [[0, 0], [3, 0]], [[1, 1], [1, 1]], [[1, 1]]], "mode": ["constant", "edge", "edge", "constant"], "value": ["@f32:=2", "@f32:=0", "@f32:=0", "@f32:=0"]}), shape="2x3")
op("shape::meshgrid", lambda a: mx.meshgrid(*a["arrays"], sparse=a["sparse"], indexing=a["indexing"]), [{"arrays": ["@f32:2:small:1", "@i32:3:small:2"], "sparse": s, "indexing": i} for s in (False, True) for i in ("xy", "ij", "zz")])

op("misc::astype", lambda a: mx.astype(a["a"], a["dtype"]) if hasattr(mx, "astype") else a["a"].astype(a["dtype"]), [{"a": f"@{d}:9:small:{i}:{VIEWS[(i + j) % 6]}", "dtype": "%" + e} for i, d in enumerate(ALL) for j, e in enumerate(ALL)], [{"a": "@f32:3:small:1", "dtype": "%f16"}])
op("misc::view", lambda a: mx.view(a["a"], a["dtype"]), [{"a": f"@{d}:2x8:small:{i}:{VIEWS[i % 3]}", "dtype": "%" + e} for i, d in enumerate(ALL) for e in ("u8", "i16", "f32", "u64", "bool")])
op("misc::copy", lambda a: mx.array(a["a"]), one(("small",)))
op("misc::stop_gradient", lambda a: mx.stop_gradient(a["a"]), one(("small",)), [{"a": "@f32:3:small:1"}])
op("misc::as_strided", lambda a: mx.as_strided(a["a"], a["shape"], a["strides"], a["offset"]), [{"a": "@f32:3x4:small:1:T", "shape": s, "strides": t, "offset": o} for s, t, o in [([2, 3], [1, 2], 0), ([3], [-2], 5), ([2, 2], [0, 1], 3), ([0], [1], 0), ([12], [1], 0)]], [{"a": "@f32:3x4:small:1", "shape": [2, 3], "strides": [1, 2], "offset": 2}])
SORTS = [{"a": f"@{d}:3x5:{r}:{i}:{VIEWS[i % 6]}", "axis": i % 3 - 1} for i, d in enumerate(ALL) if d != "c64" for r in ("small", "wild")] + [{"a": "@f32:0x3:small:1", "axis": 0}, {"a": "@f32:3:small:1", "axis": 1}]
for name in ("sort", "argsort"):
    op("misc::" + name, lambda a, f=getattr(mx, name): f(a["a"], axis=a["axis"]), SORTS, [{"a": "@f32:3x5:dist:1", "axis": 1}] if name == "sort" else ())
# The order of what is not the k-th element is nobody's promise; the sorted parts are compared.
op("misc::partition", lambda a: mx.partition(a["a"], a["kth"], a["axis"]), [{**c, "kth": 1} for c in SORTS] + [{"a": "@f32:5:small:1", "axis": 0, "kth": k} for k in (0, 4, -1, 5)])
op("misc::argpartition", lambda a: mx.argpartition(a["a"], a["kth"], a["axis"]), [{**c, "kth": 1} for c in SORTS if "wild" not in c["a"]])
op("misc::topk", lambda a: mx.topk(a["a"], a["k"], a["axis"]), [{**c, "k": 2} for c in SORTS if "wild" not in c["a"]] + [{"a": "@f32:5:dist:1", "axis": 0, "k": k} for k in (0, 5, 6)], [{"a": "@f32:3x5:dist:1", "axis": 1, "k": 2}])
op("misc::searchsorted", lambda a: mx.searchsorted(a["sorted"], a["values"], a["side"]), [{"sorted": f"@{d}:6=0,1,2,2,3,9", "values": f"@{d}:2x3=0,2,4,9,1,3", "side": s} for d in ("f32", "i32", "u8", "bf16", "f64") for s in ("left", "right", "up")])
op("misc::nan_to_num", lambda a: mx.nan_to_num(a["a"], a["nan"], a.get("posinf"), a.get("neginf")), one(nan=0.5) + [{"a": "@f32:16:wild:1", "nan": 0.0, "posinf": 1.0, "neginf": -2.0}])
for name in ("tril", "triu"):
    op("misc::" + name, lambda a, f=getattr(mx, name): f(a["a"], a["k"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "k": i % 5 - 2} for i, d in enumerate(ALL)] + [{"a": "@f32:2x3x3:small:1", "k": 0}, {"a": "@f32:3:small:1", "k": 0}], [{"a": "@f32:3x3:small:1", "k": 1}])
op("misc::diff", lambda a: mx.diff(a["a"], a["n"], a["axis"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "n": i % 4, "axis": i % 3 - 1} for i, d in enumerate(ALL)] + [{"a": "@f32:3:small:1", "n": n, "axis": 0} for n in (3, 7, -1)], [{"a": "@f32:3x4:small:1", "n": 2, "axis": 1}])
op("misc::zeros_like", lambda a: mx.zeros_like(a["a"]), one(("small",)))
op("misc::ones_like", lambda a: mx.ones_like(a["a"]), one(("small",)))
op("misc::depends", lambda a: mx.depends(a["inputs"], a["dependencies"]), [{"inputs": ["@f32:3:small:1", "@i32:2:small:2"], "dependencies": ["@f32:2:small:3:L"]}, {"inputs": ["@bool:3:small:1:T"], "dependencies": []}])
op("misc::unique", lambda a: mx.unique(a["a"], size=a["size"], return_index=a["return_index"], return_inverse=a["return_inverse"], return_counts=a["return_counts"], fill_value=a.get("fill_value")),
   [{"a": f"@{d}:2x4:small:{i}:{VIEWS[i % 6]}", "size": 8, "return_index": i % 2 == 0, "return_inverse": i % 3 == 0, "return_counts": i % 4 < 2} for i, d in enumerate(ALL) if d not in ("c64",)] + [{"a": "@i32:8:small:1", "size": n, "return_index": True, "return_inverse": True, "return_counts": True} for n in (2, 12)])
op("misc::full_like", lambda a: mx.full_like(a["a"], a["value"], dtype=a["value"].dtype), [{"a": f"@{d}:2x2:small:1", "value": f"@{e}:=3"} for d, e in (("f32", "f32"), ("bool", "i32"), ("f16", "u8"))])
for name in "hanning hamming bartlett blackman".split():
    op("misc::" + name, lambda a, f=getattr(mx, name): f(a["m"]), [{"m": m} for m in (0, 1, 2, 7, -1)])
