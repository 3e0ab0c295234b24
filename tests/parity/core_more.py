"""The table of core_table.py, continued: indexing, products, transforms, random numbers."""

import mlx.core as mx
import numpy as np

import core_spec as spec
from core_table import ALL, VIEWS, key, op

DTYPES6 = ("f32", "i32", "bool", "bf16", "c64", "u8")


def slices(a):
    return tuple(slice(*limits) for limits in zip(a["starts"], a["stops"], a.get("strides", [1] * len(a["starts"]))))


def updated(a, method):
    target, part = a["a"], slices(a)
    if method is None:
        out = mx.array(target)
        out[part] = a["update"]
        return out
    return getattr(target.at[part], method)(a["update"])


CUTS = [([0, 1], [2, 3], [1, 1]), ([1, 0], [3, 4], [2, 3]), ([0, 3], [3, 0], [1, -1]), ([-2, 0], [9, 4], [1, 2]), ([2, 2], [1, 4], [1, 1])]
op("indexing::slice", lambda a: a["a"][slices(a)], [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "starts": CUTS[i % 2][0], "stops": CUTS[i % 2][1]} for i, d in enumerate(ALL)], [{"a": "@f32:3x4:small:1:T", "starts": [0, 1], "stops": [2, 3]}])
op("indexing::slice_strided", lambda a: a["a"][slices(a)], [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "starts": c[0], "stops": c[1], "strides": c[2]} for i, d in enumerate(ALL) for c in CUTS], [{"a": "@f32:3x4:small:1:T", "starts": [1, 3], "stops": [3, 0], "strides": [1, -1]}])
for name, method in [("slice_update", None), ("slice_update_strided", None), ("slice_update_add", "add"), ("slice_update_prod", "multiply"), ("slice_update_max", "maximum"), ("slice_update_min", "minimum")]:
    cases = []
    for i, d in enumerate(DTYPES6):
        if d == "c64" and method in ("maximum", "minimum"):
            continue
        for update in ("2x2", "2", ""):
            strides = {} if name == "slice_update" else {"strides": [1, 2]}
            stops = [3, 3] if name == "slice_update" else [3, 5]
            cases.append({"a": f"@{d}:3x5:small:{i}:{VIEWS[i % 6]}", "update": f"@{d}:{update}:small:{i + 3}", "starts": [1, 1], "stops": stops, **strides})
    op("indexing::" + name, lambda a, m=method: updated(a, m), cases, [{"a": "@f32:3x5:dist:1", "update": "@f32:2:small:2", "starts": [1, 1], "stops": [3, 3], **({} if name == "slice_update" else {"strides": [1, 1]})}])
INDICES = ["@i32:3=0,2,-1", "@u32:2x2=0,1,2,1", "@i64:0=", "@u8:=1", "@i32:2=0,3", "@f32:2=0,1", "@i32:2=-4,0"]
INDICES[2] = "@i64:0:small:1"
op("indexing::take", lambda a: mx.take(a["a"], a["indices"], axis=a["axis"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "indices": x, "axis": 0} for i, d in enumerate(DTYPES6) for x in INDICES[:4]] + [{"a": "@f32:2x5:small:1", "indices": INDICES[0], "axis": a} for a in (1, -1, 2)] + [{"a": "@f32:3x4:small:1", "indices": INDICES[5], "axis": 0}], [{"a": "@f32:3x4:small:1", "indices": "@i32:3=0,2,0", "axis": 0}])
op("indexing::take_flat", lambda a: mx.take(a["a"], a["indices"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "indices": x} for i, d in enumerate(DTYPES6) for x in INDICES[:4]], [{"a": "@f32:3x4:small:1:T", "indices": "@i32:3=0,2,-1"}])
ALONG = ["@i32:3x2=0,1,2,-1,3,0", "@u32:1x3=3,1,2", "@i32:3x0:small:1"]
op("indexing::take_along_axis", lambda a: mx.take_along_axis(a["a"], a["indices"], axis=a["axis"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "indices": x, "axis": 1} for i, d in enumerate(DTYPES6) for x in ALONG] + [{"a": "@f32:3x4:small:1", "indices": "@i32:2=0,1", "axis": 0}], [{"a": "@f32:3x4:small:1", "indices": ALONG[0], "axis": 1}])
op("indexing::put_along_axis", lambda a: mx.put_along_axis(a["a"], a["indices"], a["values"], axis=a["axis"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "indices": ALONG[0], "values": f"@{d}:{v}:small:5", "axis": 1} for i, d in enumerate(DTYPES6) for v in ("3x2", "")], [{"a": "@f32:3x4:small:1", "indices": ALONG[0], "values": "@f32:3x2:small:5", "axis": 1}])


def scattered(a, method):
    """`axes` are the first ones here, and every slice takes whole the axes behind them."""
    rank = len(a["axes"])
    updates = mx.reshape(a["updates"], a["updates"].shape[: a["updates"].ndim - a["a"].ndim] + a["a"].shape[rank:])
    where = tuple(a["indices"]) if rank > 1 else a["indices"][0]
    if method is None:
        out = mx.array(a["a"])
        out[where] = updates
        return out
    return getattr(a["a"].at[where], method)(updates)


SCATTERS = [(["@i32:2=0,2"], "2x1x4", [0]), (["@u32:2=0,1", "@u32:2=3,0"], "2x1x1", [0, 1]), (["@i32:2x2=0,-1,1,1"], "2x2x1x4", [0])]
for name, method in [("scatter", None), ("scatter_add", "add"), ("scatter_prod", "multiply"), ("scatter_max", "maximum"), ("scatter_min", "minimum")]:
    pick = SCATTERS[:2] if method is None else SCATTERS
    op("indexing::" + name, lambda a, m=method: scattered(a, m), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "indices": x, "updates": f"@{d}:{u}:small:6", "axes": axes} for i, d in enumerate(("f32", "i32", "bf16", "u8", "i64", "f64")) for x, u, axes in pick], [{"a": "@f32:3x4:dist:1", "indices": x, "updates": f"@f32:{u}:small:6", "axes": axes} for x, u, axes in SCATTERS[:2]] if method in (None, "add") else ())
op("indexing::scatter_add_axis", lambda a: along_add(a), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "indices": ALONG[0], "values": f"@{d}:3x2:small:5", "axis": 1} for i, d in enumerate(("f32", "i32", "f64", "u8"))])


def along_add(a):
    rows = mx.broadcast_to(mx.arange(3).reshape(3, 1), (3, 2))
    return a["a"].at[rows, a["indices"]].add(a["values"])


def gathered(a):
    source = np.array(a["a"].astype(mx.float32))
    index = [np.array(i.astype(mx.int32)) for i in a["indices"]]
    shape = np.broadcast_shapes(*[i.shape for i in index]) if index else ()
    out = np.zeros(shape + tuple(a["slice_sizes"]), np.float32)
    for place in np.ndindex(*shape):
        start = [0] * source.ndim
        for axis, values in zip(a["axes"], index):
            start[axis] = int(np.broadcast_to(values, shape)[place]) % source.shape[axis]
        out[place] = source[tuple(slice(s, s + n) for s, n in zip(start, a["slice_sizes"]))]
    return mx.array(out).astype(a["a"].dtype)


op("indexing::gather", gathered, [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "indices": x, "axes": axes, "slice_sizes": n} for i, d in enumerate(("f32", "i32", "bool", "bf16")) for x, axes, n in [(["@i32:3=0,2,-1"], [0], [1, 4]), (["@u32:2x1=0,1", "@u32:3=0,1,2"], [0, 1], [1, 1]), (["@i32:2=0,2"], [1], [3, 2])]])
op("indexing::masked_scatter", lambda a: masked(a), [{"a": f"@{d}:2x3:small:{i}", "mask": "@bool:2x3=1,0,1,1,0,0", "src": f"@{d}:6:small:4"} for i, d in enumerate(("f32", "i32", "bf16", "bool"))])


def masked(a):
    out, src = np.array(a["a"].astype(mx.float32)), np.array(a["src"].astype(mx.float32))
    where = np.array(a["mask"])
    out[where] = src[: where.sum()]
    return mx.array(out).astype(a["a"].dtype)


op("indexing::slice_dynamic", lambda a: mx.slice(a["a"], a["start"], a["axes"], a["slice_size"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "start": "@i32:2=1,2", "axes": [0, 1], "slice_size": [2, 2]} for i, d in enumerate(DTYPES6)], [{"a": "@f32:3x4:small:1", "start": "@i32:1=1", "axes": [1], "slice_size": [3, 2]}])
op("indexing::slice_update_dynamic", lambda a: mx.slice_update(a["a"], a["update"], a["start"], a["axes"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "update": f"@{d}:2x1:small:3", "start": "@i32:2=1,2", "axes": [0, 1]} for i, d in enumerate(DTYPES6)], [{"a": "@f32:3x4:small:1", "update": "@f32:2x1:small:3", "start": "@i32:2=1,2", "axes": [0, 1]}])
op("indexing::where", lambda a: mx.where(a["condition"], a["x"], a["y"]), [{"condition": "@bool:2x3:small:1", "x": f"@{d}:2x3:small:{i}:{VIEWS[i % 6]}", "y": f"@{ALL[(i + 5) % 14]}:3:small:3"} for i, d in enumerate(ALL)] + [{"condition": "@f32:2x3:small:1", "x": "@f32::small:1", "y": "@f32:2x1:small:2"}, {"condition": "@bool:2:small:1", "x": "@f32:3:small:1", "y": "@f32:3:small:2"}], [{"condition": "@bool:2x3:small:1", "x": "@f32:3:small:1", "y": "@f32:2x1:small:2"}])
op("indexing::diagonal", lambda a: mx.diagonal(a["a"], a["offset"], a["axis1"], a["axis2"]), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "offset": i % 9 - 4, "axis1": i % 2, "axis2": 1 - i % 2} for i, d in enumerate(ALL)] + [{"a": "@f32:3:small:1", "offset": 0, "axis1": 0, "axis2": 1}], [{"a": "@f32:3x4:small:1", "offset": 1, "axis1": 0, "axis2": 1}])
op("indexing::diag", lambda a: mx.diag(a["a"], a["k"]), [{"a": f"@{d}:{s}:small:{i}", "k": i % 5 - 2} for i, d in enumerate(ALL) for s in ("3", "3x4")] + [{"a": "@f32:2x2x2:small:1", "k": 0}], [{"a": "@f32:3:small:1", "k": 1}])

FLOATS = ("f32", "f16", "bf16", "f64", "c64")
SHAPES = [("2x3", "3x4"), ("3", "3x2"), ("2x3", "3"), ("3", "3"), ("2x2x3", "2x3x1"), ("2x1x2x3", "4x3x2"), ("0x3", "3x2"), ("2x0", "0x3"), ("5x17", "17x9"), ("2x3", "2x3")]
op("linalg_basic::matmul", lambda a: mx.matmul(a["lhs"], a["rhs"]), [{"lhs": f"@{d}:{s}:small:{i}:{VIEWS[(i + j) % 4]}", "rhs": f"@{d}:{t}:small:{i + 1}:{VIEWS[(i + 2 * j) % 4]}"} for i, d in enumerate(FLOATS + ("i32",)) for j, (s, t) in enumerate(SHAPES)], [{"lhs": "@f32:2x3:small:1:T", "rhs": "@f32:3x4:small:2"}, {"lhs": "@f32:2x2x3:small:1", "rhs": "@f32:3x2:small:2"}])
op("linalg_basic::addmm", lambda a: mx.addmm(a["c"], a["a"], a["b"], a["alpha"], a["beta"]), [{"c": f"@{d}:{c}:small:3", "a": f"@{d}:2x3:small:{i}:T", "b": f"@{d}:3x4:small:2", "alpha": 0.5, "beta": 2.0} for i, d in enumerate(FLOATS[:4]) for c in ("4", "2x4", "3x4")], [{"c": "@f32:2x4:small:3", "a": "@f32:2x3:small:1", "b": "@f32:3x4:small:2", "alpha": 0.5, "beta": 2.0}])
for name, pairs in [("inner", [("2x3", "4x3"), ("3", "3"), ("2x3", "2x4")]), ("outer", [("2", "3"), ("2x2", "3"), ("0", "2")]), ("kron", [("2x2", "1x3"), ("2", "3"), ("2x2", "2")])]:
    op("linalg_basic::" + name, lambda a, f=getattr(mx, name): f(a["lhs"], a["rhs"]), [{"lhs": f"@{d}:{s}:small:{i}", "rhs": f"@{d}:{t}:small:7:T"} for i, d in enumerate(FLOATS) for s, t in pairs], [{"lhs": f"@f32:{pairs[0][0]}:small:1", "rhs": f"@f32:{pairs[0][1]}:small:2"}])
op("linalg_basic::vecdot", lambda a: mx.vecdot(a["lhs"], a["rhs"], axis=a["axis"]), [{"lhs": f"@{d}:2x3:small:{i}", "rhs": f"@{d}:2x3:small:2:T", "axis": i % 2} for i, d in enumerate(FLOATS)], [{"lhs": "@f32:2x3:small:1", "rhs": "@f32:2x3:small:2", "axis": -1}])
op("linalg_basic::tensordot", lambda a: mx.tensordot(a["lhs"], a["rhs"], a["axis"]), [{"lhs": "@f32:2x3x4:small:1", "rhs": "@f32:3x4x2:small:2:T", "axis": n} for n in (2, 1, 0, 4, -1)], [{"lhs": "@f32:2x3:small:1", "rhs": "@f32:3x2:small:2", "axis": 1}])
op("linalg_basic::tensordot_axes", lambda a: mx.tensordot(a["lhs"], a["rhs"], [a["axes_lhs"], a["axes_rhs"]]), [{"lhs": "@f32:2x3x4:small:1", "rhs": "@f32:4x2x3:small:2", "axes_lhs": l, "axes_rhs": r} for l, r in [([0, 2], [1, 0]), ([1], [2]), ([0], [0]), ([-1], [0]), ([0, 1], [1])]], [{"lhs": "@f32:2x3:small:1", "rhs": "@f32:2x3:small:2", "axes_lhs": [0], "axes_rhs": [0]}])
op("linalg_basic::einsum", lambda a: mx.einsum(a["subscripts"], *a["operands"]), [{"subscripts": s, "operands": [f"@f32:{x}:small:{i}" for i, x in enumerate(o)]} for s, o in [("ij,jk->ik", ["2x3", "3x4"]), ("ii->i", ["3x3"]), ("ii", ["3x3"]), ("i,j->ji", ["2", "3"]), ("...ij,jk->...ik", ["2x2x3", "3x2"]), ("ij,jk,kl->il", ["2x3", "3x2", "2x4"]), ("ij->z", ["2x2"]), ("ij,jk->ik", ["2x3", "4x4"]), ("ijk->kj", ["2x3x4"])]], [{"subscripts": "ij,jk->ik", "operands": ["@f32:2x3:small:1", "@f32:3x2:small:2"]}])
op("linalg_basic::einsum_path", lambda a: [], [{"subscripts": "ij,jk->ik", "operands": ["@f32:2x3:small:1", "@f32:3x4:small:2"]}])
op("linalg_basic::gather_mm", lambda a: mx.gather_mm(a["a"], a["b"], lhs_indices=a.get("lhs_indices"), rhs_indices=a.get("rhs_indices"), sorted_indices=a["sorted_indices"]), [{"a": f"@{d}:2x3x4:small:{i}", "b": f"@{d}:3x4x2:small:2", **e, "sorted_indices": False} for i, d in enumerate(("f32", "bf16", "f16")) for e in ({"lhs_indices": "@u32:3=1,0,1", "rhs_indices": "@u32:3=2,2,0"}, {"rhs_indices": "@u32:2=2,1"})])
op("linalg_basic::segmented_mm", lambda a: mx.segmented_mm(a["a"], a["b"], a["segments"]), [{"a": f"@{d}:2x8:small:1", "b": f"@{d}:8x3:small:2", "segments": "@u32:3x2=0,2,2,5,5,8"} for d in ("f32",)])
op("linalg_basic::block_masked_mm", lambda a: mx.block_masked_mm(a["a"], a["b"], a["block_size"], a.get("mask_out"), a.get("mask_lhs"), a.get("mask_rhs")), [{"a": "@f32:33x32:small:1", "b": "@f32:32x3:small:2", "block_size": 32, **m} for m in ({}, {"mask_out": "@bool:2x1=1,0"}, {"mask_lhs": "@bool:2x1=0,1", "mask_rhs": "@bool:1x1=1"})])
op("linalg_basic::hadamard_transform", lambda a: mx.hadamard_transform(a["a"], a.get("scale")), [{"a": f"@{d}:2x{n}:small:1:{VIEWS[i % 4]}", "scale": 0.5} for i, d in enumerate(("f32", "f16", "bf16")) for n in (4, 12, 20, 28, 6, 1)], [{"a": "@f32:2x4:small:1"}])

CONVS = [{}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2}, {"flip": True}, {"groups": 3}]
for axes, size, kernel in [(1, "9", "3"), (2, "5x6", "3x2"), (3, "4x3x4", "2x2x3")]:
    cases, transposed = [], []
    for i, extra in enumerate(CONVS):
        spread = {k: [v] * axes if k in ("stride", "padding", "dilation") else v for k, v in extra.items()}
        groups = extra.get("groups", 1)
        for d in ("f32", "f16", "bf16", "f64", "i32")[: 5 if i == 0 else 2]:
            case = {"input": f"@{d}:2x{size}x4:small:{i}:{VIEWS[i % 4]}", "weight": f"@{d}:4x{kernel}x{4 // groups}:small:2", **spread}
            cases.append(case)
            if "flip" not in extra:
                transposed.append({**case, "output_padding": 0 if axes == 1 else [0] * axes})
    one_group = {"input": f"@f32:1x{size}x2:small:1", "weight": f"@f32:2x{kernel}x2:small:2"}

    def general(a, n=axes):
        return mx.conv_general(a["input"], a["weight"], stride=a.get("stride", 1), padding=a.get("padding", 0), kernel_dilation=a.get("dilation", 1), groups=a.get("groups", 1), flip=a.get("flip", False))

    def backward(a, n=axes):
        plain = (lambda v: v[0] if isinstance(v, list) else v) if n == 1 else (lambda v: tuple(v) if isinstance(v, list) else v)
        f = getattr(mx, f"conv_transpose{n}d")
        return f(a["input"], a["weight"], plain(a.get("stride", 1)), plain(a.get("padding", 0)), plain(a.get("dilation", 1)), plain(a["output_padding"]), a.get("groups", 1))

    op(f"conv::conv{axes}d", general, cases, [one_group])
    op(f"conv::conv_transpose{axes}d", backward, transposed, [{**one_group, "output_padding": 0 if axes == 1 else [0] * axes}])
    if axes == 2:
        op("conv::conv_general", general, cases[:6])
op("conv::convolve", lambda a: mx.convolve(a["a"], a["v"], a["mode"]), [{"a": f"@{d}:5:small:1", "v": f"@{d}:3:small:2", "mode": m} for d in ("f32", "f16") for m in ("full", "same", "valid")])

LAYOUTS = [("affine", g, b) for g in (32, 64, 128) for b in (1, 2, 3, 4, 5, 6, 8)] + [("mxfp4", 32, 4), ("mxfp8", 32, 8), ("nvfp4", 16, 4)]


def layout(mode, group, bits):
    return {"mode": mode, "group_size": group, "bits": bits}


def quantised(a):
    return {"group_size": a["group_size"], "bits": a["bits"], "mode": a["mode"]}


def packed(name, mode, group, bits, shape, dtype="f32", seed=1):
    """Our parameters `w`, `scales` and `biases`, quantised from a description on both sides."""
    return {"w": f"@{dtype}:{shape}:small:{seed}", "quantise": True, **layout(mode, group, bits)}


op("quantized::quantize", lambda a: mx.quantize(a["w"], **quantised(a)), [{"w": f"@{d}:2x{2 * g}:{r}:{b}", **layout(m, g, b)} for m, g, b in LAYOUTS for d, r in (("f32", "small"), ("bf16", "dist"), ("f16", "unit"))] + [{"w": "@f32:2x33:small:1", **layout("affine", 32, 4)}, {"w": "@i32:2x32:small:1", **layout("affine", 32, 4)}])
op("quantized::dequantize", lambda a: mx.dequantize(a["w"], a["scales"], a.get("biases"), **quantised(a)), [packed("dequantize", m, g, b, f"2x{2 * g}", d) for m, g, b in LAYOUTS for d in ("f32", "bf16")])
op("quantized::quantized_matmul", lambda a: mx.quantized_matmul(a["x"], a["w"], a["scales"], a.get("biases"), transpose=a["transpose"], **quantised(a)), [{"x": f"@{d}:{s}x{128 if t else 3}:small:4", "transpose": t, **packed("", m, g, b, "3x128", d)} for m, g, b in LAYOUTS for d in ("f32", "bf16", "f16") for s, t in (("1", True), ("5", True))] + [{"x": f"@{d}:2x32:small:4", "transpose": False, **packed("", m, g, b, f"32x{2 * g}", d)} for m, g, b in LAYOUTS for d in ("f32",)], [])
op("quantized::gather_qmm", lambda a: mx.gather_qmm(a["x"], a["w"], a["scales"], a.get("biases"), lhs_indices=a.get("lhs_indices"), rhs_indices=a.get("rhs_indices"), transpose=a["transpose"], sorted_indices=a["sorted_indices"], **quantised(a)), [{"x": f"@{d}:2x1x128:small:4", "lhs_indices": "@u32:3=0,1,0", "rhs_indices": "@u32:3=2,0,1", "transpose": True, "sorted_indices": False, **packed("", m, g, b, "3x4x128", d)} for m, g, b in LAYOUTS[::2] for d in ("f32", "bf16")])
op("quantized::gather_qmm_with_global_scale", lambda a: mx.gather_qmm(a["x"], a["w"], a["scales"], rhs_indices=a["rhs_indices"], transpose=a["transpose"], sorted_indices=a["sorted_indices"], mode="nvfp4", global_scale=a["global_scale"]), [{"x": "@f32:2x1x128:small:4", "rhs_indices": "@u32:2=2,0", "transpose": True, "sorted_indices": False, **packed("", "nvfp4", 16, 4, "3x4x128"), "global_scale": f"@f32:{n}:pos:1"} for n in ("3", "2")])
op("quantized::qqmm", lambda a: mx.qqmm(a["x"], a["w"], a["scales"], **quantised(a)), [{"x": "@f32:1x64:small:4", **packed("", m, g, b, "4x64", "f32"), "rename": {"scales": "w_scales"}} for m, g, b in LAYOUTS if m in ("nvfp4", "mxfp8")])
op("quantized::to_fp8", lambda a: mx.to_fp8(a["a"]), [{"a": f"@{d}:16:{r}:1"} for d in ("f32", "f16", "bf16") for r in ("small", "wild")])
op("quantized::from_fp8", lambda a: mx.from_fp8(a["a"], a["dtype"]), [{"a": "@u8:32:dist:1", "dtype": "%" + d} for d in ("f32", "f16", "bf16")])
