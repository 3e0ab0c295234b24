"""The table of core_table.py, continued: random numbers, transforms, factorisations, fused ops."""

import mlx.core as mx

from core_table import ALL, TABLE, VIEWS, key, op

random = mx.random
FLOATS = ("f32", "f16", "bf16")


def name_of(dtype):
    return "%" + dtype


op("random::key", lambda a: random.key(a["seed"]), [{"seed": s} for s in (0, 1, 2**32 + 5, 2**63)])
op("random::split", lambda a: mx.unstack(random.split(a["key"]), axis=0), [{"key": key(s)} for s in (0, 9)])
op("random::split_n", lambda a: random.split(a["key"], a["num"]), [{"key": key(3), "num": n} for n in (1, 5)])
op("random::uniform", lambda a: random.uniform(a["low"], a["high"], a["shape"], a["dtype"], a["key"]), [{"low": -1.0, "high": 2.5, "shape": s, "dtype": name_of(d), "key": key()} for d in FLOATS for s in ([3, 4], [7], [], [0, 2])])
op("random::normal", lambda a: random.normal(a["shape"], a["dtype"], a["loc"], a["scale"], a["key"]), [{"loc": 0.5, "scale": 2.0, "shape": s, "dtype": name_of(d), "key": key()} for d in FLOATS for s in ([3, 4], [])])
op("random::randint", lambda a: random.randint(a["low"], a["high"], a["shape"], a["dtype"], a["key"]), [{"low": -5, "high": 9, "shape": [11], "dtype": name_of(d), "key": key()} for d in ("i32", "i64", "i8", "i16")])
op("random::bernoulli", lambda a: random.bernoulli(a["p"], a["shape"], a["key"]), [{"p": p, "shape": [4, 3], "key": key()} for p in ("@f32:=0.3", "@f32:3:unit:1")])
op("random::truncated_normal", lambda a: random.truncated_normal(a["lower"], a["upper"], a["shape"], a["dtype"], a["key"]), [{"lower": "@f32:=-1", "upper": "@f32:=2", "shape": [9], "dtype": name_of(d), "key": key()} for d in ("f32",)])
op("random::gumbel", lambda a: random.gumbel(a["shape"], a["dtype"], a["key"]), [{"shape": [6], "dtype": name_of(d), "key": key()} for d in FLOATS])
op("random::laplace", lambda a: random.laplace(a["shape"], a["dtype"], a["loc"], a["scale"], a["key"]), [{"shape": [6], "dtype": name_of(d), "loc": 0.5, "scale": 2.0, "key": key()} for d in FLOATS])
op("random::categorical", lambda a: random.categorical(a["logits"], a["axis"], key=a["key"]), [{"logits": f"@{d}:3x5:small:1:{v}", "axis": x, "key": key()} for d in FLOATS for v, x in (("", -1), ("T", 0))])
op("random::categorical_n", lambda a: random.categorical(a["logits"], a["axis"], num_samples=a["num_samples"], key=a["key"]), [{"logits": "@f32:3x5:small:1", "axis": -1, "num_samples": 4, "key": key()}])
op("random::categorical_shape", lambda a: random.categorical(a["logits"], a["axis"], shape=a["shape"], key=a["key"]), [{"logits": "@f32:3x5:small:1", "axis": -1, "shape": [2, 3], "key": key()}])
op("random::permutation", lambda a: random.permutation(a["x"], a["axis"], a["key"]), [{"x": f"@{d}:5x2:small:1", "axis": x, "key": key()} for d in ("f32", "i8") for x in (0, 1)])
op("random::permutation_n", lambda a: random.permutation(a["n"], key=a["key"]), [{"n": n, "key": key()} for n in (1, 9)])

fft = mx.fft
for name in ("fft", "ifft", "rfft", "irfft"):
    kind = "c64" if name in ("ifft", "irfft") else "f32"
    op("fft::" + name, lambda a, f=getattr(fft, name): f(a["a"], n=a.get("n"), axis=a["axis"], norm=a["norm"]), [{"a": f"@{kind}:4x6:small:{i}:{VIEWS[i % 4]}", "axis": i % 2 - 1, "norm": n, **e} for i, n in enumerate(("backward", "ortho", "forward")) for e in ({}, {"n": 4}, {"n": 9}, {"n": 0})])
    op("fft::" + name + "n", lambda a, f=getattr(fft, name + "n"): f(a["a"], s=a.get("n"), axes=a["axes"], norm=a["norm"]), [{"a": f"@{kind}:4x6:small:{i}:{VIEWS[i % 4]}", "axes": [0, 1], "norm": "backward", **e} for i, e in enumerate(({}, {"n": [3, 5]}, {"n": [4]}))])
op("fft::fftfreq", lambda a: fft.fftfreq(a["n"], a["d"]), [{"n": n, "d": 0.5} for n in (1, 6, 7)])
op("fft::rfftfreq", lambda a: fft.rfftfreq(a["n"], a["d"]), [{"n": n, "d": 0.5} for n in (1, 6, 7)])
for name in ("fftshift", "ifftshift"):
    op("fft::" + name, lambda a, f=getattr(fft, name): f(a["a"], a["axes"]), [{"a": f"@{d}:3x4:small:1", "axes": x} for d in ("f32", "c64") for x in ([0], [0, 1])])
op("fft::stft", lambda a: fft.stft(a["a"], a["n_fft"], a.get("hop_length"), center=a["center"]), [{"a": "@f32:40:small:1", "n_fft": 8, "center": c, **h} for c in (True, False) for h in ({}, {"hop_length": 3})])

linalg = mx.linalg
SQUARE = "@f32:3x3=4,1,0.5,1,3,0.25,0.5,0.25,2"

def cpu(f):
    def call(a):
        with mx.stream(mx.cpu):
            result = f(a)
            mx.eval(result)
            return result
    return call


for name in ("inv", "pinv", "det", "slogdet", "eigvals", "qr", "lu_factor", "lu"):
    cases = [{"a": SQUARE}, {"a": SQUARE.replace("f32", "f64")}, {"a": "@f32:2x3x3:dist:1:T"}, {"a": "@f32:2x3:small:1"}, {"a": "@f32:3:small:1"}, {"a": "@i32:3x3:small:1"}]
    op("linalg::" + name, cpu(lambda a, f=getattr(linalg, name): f(a["a"])), cases if name != "eigvals" else cases[:2])
op("linalg::svd", cpu(lambda a: linalg.svd(a["a"], a["compute_uv"])), [{"a": a, "compute_uv": u} for a in (SQUARE, "@f32:2x3:dist:1") for u in (False, True)])
for name in ("cholesky", "cholesky_inv", "tri_inv"):
    op("linalg::" + name, cpu(lambda a, f=getattr(linalg, name): f(a["a"], upper=a["upper"])), [{"a": SQUARE, "upper": u} for u in (False, True)])
# Not positive definite: Python's MLX does not say so either.
TABLE["linalg::cholesky"].cases += [{"a": "@f32:2x2=1,2,2,1", "upper": u} for u in (False, True)]
for name in ("eigvalsh",):
    op("linalg::" + name, cpu(lambda a, f=getattr(linalg, name): f(a["a"], a["uplo"])), [{"a": SQUARE, "uplo": u} for u in ("L", "U")])
op("linalg::solve", cpu(lambda a: linalg.solve(a["a"], a["b"])), [{"a": SQUARE, "b": b} for b in ("@f32:3x2:small:1", "@f32:3:small:1")])
op("linalg::solve_triangular", cpu(lambda a: linalg.solve_triangular(a["a"], a["b"], upper=a["upper"])), [{"a": SQUARE, "b": "@f32:3x2:small:1", "upper": u} for u in (False, True)])
op("linalg::cross", cpu(lambda a: linalg.cross(a["a"], a["b"], a["axis"])), [{"a": f"@{d}:2x3:small:1", "b": f"@{d}:2x3:small:2", "axis": -1} for d in ("f32", "bf16", "i32")])
op("linalg::norm", lambda a: linalg.norm(a["a"], axis=a.get("axes"), keepdims=a["keepdims"]), [{"a": f"@{d}:2x3:small:1:T", "keepdims": k, **x} for d in ("f32", "f16", "i32") for k in (False, True) for x in ({}, {"axes": [0]})])
op("linalg::norm_p", cpu(lambda a: linalg.norm(a["a"], ord=a["ord"], axis=a["axes"], keepdims=a["keepdims"])), [{"a": "@f32:2x3:small:1", "ord": o, "axes": x, "keepdims": False} for o in (1.0, 2.0, 3.0) for x in ([0], [0, 1])])
op("linalg::norm_named", cpu(lambda a: linalg.norm(a["a"], ord=a["ord"], axis=a["axes"], keepdims=a["keepdims"])), [{"a": "@f32:2x3:small:1", "ord": o, "axes": [0, 1], "keepdims": False} for o in ("fro", "nuc", "zzz")])

fast = mx.fast
op("fast::rms_norm", lambda a: fast.rms_norm(a["x"], a.get("weight"), a["eps"]), [{"x": f"@{d}:2x8:small:1:{v}", "eps": 1e-5, **w} for d in FLOATS + ("f64", "i32") for v in ("", "T") for w in ({}, {"weight": f"@{d}:8:unit:2"}, {"weight": f"@{d}:7:unit:2"})])
op("fast::layer_norm", lambda a: fast.layer_norm(a["x"], a.get("weight"), a.get("bias"), a["eps"]), [{"x": f"@{d}:2x8:small:1:{v}", "eps": 1e-5, **w} for d in FLOATS for v in ("", "T") for w in ({}, {"weight": f"@{d}:8:unit:2"}, {"weight": f"@{d}:8:unit:2", "bias": f"@{d}:8:small:3"})])
op("fast::cross_entropy", lambda a: fast.cross_entropy(a["logits"], a["targets"]), [{"logits": f"@{d}:3x5:small:1", "targets": "@u32:3=0,4,2"} for d in FLOATS])
op("fast::rope", lambda a: fast.rope(a["x"], a["dims"], traditional=a["traditional"], base=a["base"], scale=a["scale"], offset=a["offset"]), [{"x": f"@{d}:1x2x3x8:small:1", "dims": n, "traditional": t, "base": 100.0, "scale": 0.5, "offset": 2} for d in FLOATS for n in (8, 4) for t in (False, True)])
op("fast::rope_with_offsets", lambda a: fast.rope(a["x"], a["dims"], traditional=a["traditional"], base=a["base"], scale=a["scale"], offset=a["offsets"]), [{"x": "@f32:2x2x3x8:small:1", "dims": 8, "traditional": t, "base": 100.0, "scale": 0.5, "offsets": "@i32:2=1,5"} for t in (False, True)])
op("fast::scaled_dot_product_attention", lambda a: fast.scaled_dot_product_attention(a["queries"], a["keys"], a["values"], scale=a["scale"], mask=a.get("mask_mode") or a.get("mask"), sinks=a.get("sinks")), [{"queries": f"@{d}:1x4x3x8:small:1", "keys": f"@{d}:1x2x5x8:small:2", "values": f"@{d}:1x2x5x8:small:3", "scale": 0.25, **m} for d in FLOATS for m in ({}, {"mask_mode": "causal"}, {"mask": "@bool:3x5:small:3"}, {"sinks": f"@{d}:4:small:5"})])
op("fast::scaled_dot_product_attention_fused", lambda a: fast.scaled_dot_product_attention(a["queries"], a["keys"], a["values"], scale=a["scale"], mask=a.get("mask_mode") or a.get("mask"), sinks=a.get("sinks"), force_fused=True), [{"queries": f"@{d}:1x4x3x8:small:1", "keys": f"@{d}:1x2x5x8:small:2", "values": f"@{d}:1x2x5x8:small:3", "scale": 0.25, **m} for d in ("f32", "bf16") for m in ({}, {"mask_mode": "causal"}, {"mask": "@bool:3x5:small:3"}, {"sinks": f"@{d}:4:small:5"})])
op("fast::gated_delta_update", lambda a: fast.gated_delta_update(a["queries"], a["keys"], a["values"], a["gates"], a["beta"], a.get("initial_state")), [{"queries": "@f32:1x3x2x4:unit:1", "keys": "@f32:1x3x2x4:unit:2", "values": "@f32:1x3x2x4:unit:3", "gates": "@f32:1x3x2:unit:4", "beta": "@f32:1x3x2:unit:5"}])

op("array::arange_dtype", lambda a: mx.arange(a["start"], a["stop"], a["step"], a["dtype"]), [{"start": s, "stop": e, "step": t, "dtype": name_of(d)} for s, e, t in ((0.0, 5.0, 1.0), (3.0, -2.0, -0.5), (0.0, 1.0, 2.0), (2.0, 1.0, 1.0)) for d in ("f32", "i32", "f16", "u8")])
op("array::linspace", lambda a: mx.linspace(a["start"], a["stop"], a["num"]), [{"start": -1.0, "stop": 2.0, "num": n} for n in (0, 1, 2, 7, -1)])
op("array::eye", lambda a: mx.eye(a["n"], a["m"], a["k"], a["dtype"]), [{"n": 3, "m": 4, "k": k, "dtype": name_of(d)} for k in (-1, 0, 2, 9) for d in ("f32", "bool", "i8")])
op("array::tri", lambda a: mx.tri(a["n"], a["m"], a["k"], a["dtype"]), [{"n": 3, "m": 4, "k": k, "dtype": name_of(d)} for k in (-1, 0, 2) for d in ("f32", "i8")])
op("array::zeros_dtype", lambda a: mx.zeros(a["shape"], a["dtype"]), [{"shape": s, "dtype": name_of(d)} for d in ALL for s in ([2, 3], [0], [])])
op("array::ones_dtype", lambda a: mx.ones(a["shape"], a["dtype"]), [{"shape": s, "dtype": name_of(d)} for d in ALL for s in ([2, 3], [0], [])])

for name in ("fft2", "ifft2", "rfft2", "irfft2"):
    kind = "c64" if name in ("ifft2", "irfft2") else "f32"
    op("fft::" + name, lambda a, f=getattr(fft, name): f(a["a"], s=a.get("n"), axes=a.get("axes", [-2, -1]), norm=a["norm"]), [{"a": f"@{kind}:2x4x6:small:1:{v}", "norm": n, **e} for v in ("", "T") for n in ("backward", "ortho") for e in ({}, {"n": [3, 5]}, {"axes": [0, 1]})])
op("fft::istft", lambda a: fft.istft(a["a"], a.get("n_fft"), a.get("hop_length"), center=a["center"], length=a.get("length")), [{"a": "@c64:6x5:small:1", "n_fft": 8, "hop_length": 2, "center": c, **e} for c in (True,) for e in ({}, {"length": 7})])
op("linalg::eig", cpu(lambda a: linalg.eig(a["a"])), [{"a": SQUARE}])
op("linalg::eigh", cpu(lambda a: linalg.eigh(a["a"], a["uplo"])), [{"a": SQUARE, "uplo": u} for u in ("L", "U")])
op("random::multivariate_normal", cpu(lambda a: random.multivariate_normal(a["mean"], a["cov"], a["shape"], key=a["key"])), [{"mean": "@f32:3:small:1", "cov": SQUARE, "shape": [4], "key": key()}])
for name in ("zeros", "ones"):
    op("array::" + name, lambda a, f=getattr(mx, name): f(a["shape"], a["dtype"]), [{"shape": s, "dtype": name_of(d)} for d in ("f32", "c64", "u8") for s in ([2, 3], [0], [])])
op("array::arange", lambda a: mx.arange(a["start"], a["stop"], a["step"], a["dtype"]), [{"start": 1.0, "stop": 4.5, "step": 0.5, "dtype": name_of(d)} for d in ("f32", "f64", "bf16")])
op("array::identity", lambda a: mx.identity(a["n"], a["dtype"]), [{"n": n, "dtype": name_of(d)} for n in (0, 1, 3) for d in ("f32", "bool")])


def place(parts):
    """The index that recorded parts mean."""
    words = {"...": Ellipsis, "new": None}
    return tuple(slice(*p["s"]) if isinstance(p, dict) else words.get(p, p) if isinstance(p, str) else p for p in parts)


def assigned(a, method):
    if method is None:
        out = mx.array(a["a"])
        out[place(a["index"])] = a["values"]
        return out
    return getattr(a["a"].at[place(a["index"])], method)(a["values"])


PLACES = [[1], [-1, 2], [{"s": [None, None, 2]}], [{"s": [None, None, -1]}, 0], ["...", 1], ["new", 1], [{"s": [1, None, None]}, {"s": [None, -1, None]}], ["@i32:2=0,2"], ["@i32:2=0,-1", {"s": [1, 3, None]}], [{"s": [None, None, None]}, "@i32:2x2=0,1,2,3"], ["@i32:2=0,2", "@i32:2=1,3"], [5], [0, 0, 0], [{"s": [9, None, None]}]]
op("array::index", lambda a: a["a"][place(a["index"])], [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "index": p} for i, p in enumerate(PLACES) for d in ("f32", "i8", "bf16")])
for name, method in [("set", None), ("add_at", "add"), ("multiply_at", "multiply"), ("maximum_at", "maximum"), ("minimum_at", "minimum")]:
    op("array::" + name, lambda a, m=method: assigned(a, m), [{"a": f"@{d}:3x4:small:{i}:{VIEWS[i % 6]}", "index": p, "values": f"@{d}::small:3"} for i, p in enumerate(PLACES[:11]) for d in ("f32", "i8", "bf16")])
op("array::linspace_with", lambda a: mx.linspace(a["start"], a["stop"], a["num"], dtype=a["dtype"]), [{"start": -1.0, "stop": 2.0, "num": 5, "endpoint": True, "dtype": name_of(d)} for d in ("f32", "f16", "i32")])
NV = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
op("quantized::quantize_with_global_scale", lambda a: mx.quantize(a["w"], mode="nvfp4", global_scale=a["global_scale"]), [{"w": f"@{d}:2x32:{r}:1", "global_scale": "@f32:=0.5"} for d in ("f32", "bf16") for r in ("small", "dist")])
op("quantized::dequantize_with_global_scale", lambda a: mx.dequantize(a["w"], a["scales"], mode="nvfp4", global_scale=a["global_scale"], dtype=a["dtype"]), [{"w": "@f32:2x32:small:1", "quantise": True, **NV, "global_scale": "@f32:=0.5", "dtype": name_of(d)} for d in ("f32", "bf16")])
