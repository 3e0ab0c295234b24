"""Goldens of mlx-nn: layers, activations, rotary positions, attention, losses and optimizers.

Each group is one safetensors file whose keys read `<case>/<array>`: inputs, parameters, and what
Python MLX computed from them, gradients (for the stored cotangent) included.
"""

import common

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.rope_utils import initialize_rope

TOLERANCE = 1e-5
REASON = "float32 on both sides; only the order of sums and fused kernels may differ"


class Group:
    """The arrays of one file, and the random inputs for them."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.arrays = {}

    def normal(self, *shape, scale=1.0):
        return mx.array((self.random.standard_normal(shape) * scale).astype(np.float32))

    def uniform(self, low, high, *shape):
        return mx.array(self.random.uniform(low, high, shape).astype(np.float32))

    def add(self, case, **arrays):
        for name, array in arrays.items():
            key = f"{case}/{name}"
            assert key not in self.arrays, key
            self.arrays[key] = mx.contiguous(array)

    def differentiate(self, case, f, *inputs, names=("x",), **extra):
        """Stores inputs, output, a cotangent and the gradient of each input."""
        y = f(*inputs)
        cotangent = self.normal(*y.shape)
        _, gradients = mx.vjp(lambda *xs: [f(*xs)], list(inputs), [cotangent])
        self.add(case, **dict(zip(names, inputs)), y=y, cotangent=cotangent, **extra)
        self.add(case, **{f"d{name}": gradient for name, gradient in zip(names, gradients)})

    def layer(self, case, module, *inputs, names=("x",), call=None):
        """`differentiate` for a module, with respect to inputs and parameters."""
        from mlx.utils import tree_flatten, tree_unflatten

        parameters = tree_flatten(module.trainable_parameters())
        parameters = [(name, self.normal(*value.shape, scale=0.4)) for name, value in parameters]
        call = call or (lambda *xs: module(*xs))

        def f(*arrays):
            values = [(name, value) for (name, _), value in zip(parameters, arrays[len(inputs) :])]
            module.update(tree_unflatten(values))
            return call(*arrays[: len(inputs)])

        names = [*names, *(f"parameters.{name}" for name, _ in parameters)]
        self.differentiate(case, f, *inputs, *(value for _, value in parameters), names=names)

    def write(self, out, name):
        folder = out / "nn" / name
        folder.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(str(folder / "golden.safetensors"), self.arrays)
        common.write_note(
            folder,
            upstream=common.versions("mlx", "mlx-lm"),
            dtype="float32",
            tolerance=TOLERANCE,
            reason=REASON,
        )


def activation(out):
    group = Group(1)
    plain = (
        "celu elu gelu gelu_approx gelu_fast_approx hard_shrink hard_tanh hardswish leaky_relu log_sigmoid "
        "mish relu relu2 relu6 selu sigmoid silu softplus softshrink softsign step tanh"
    )
    x = group.normal(3, 8, scale=3.0)
    for name in plain.split():
        function = getattr(nn, name)
        group.differentiate(name, lambda x: function(x).astype(mx.float32), x)
    for name in ("glu", "log_softmax", "softmax", "softmin"):
        function = getattr(nn, name)
        group.differentiate(f"{name}.last", function, x)
        group.differentiate(f"{name}.first", lambda x: function(x, axis=0), group.normal(4, 3))
    group.differentiate("prelu", nn.prelu, x, group.uniform(0.1, 0.4, 8), names=("x", "alpha"))
    group.write(out, "activation")


def norm(out):
    group = Group(2)
    x = group.normal(2, 5, 16, scale=2.0)
    group.layer("rms_norm", nn.RMSNorm(16, eps=1e-5), x)
    group.layer("layer_norm", nn.LayerNorm(16, eps=1e-5), x)
    group.layer("layer_norm.without_bias", nn.LayerNorm(16, eps=1e-3, bias=False), x)
    group.layer("layer_norm.without_parameters", nn.LayerNorm(16, eps=1e-5, affine=False), x)
    group.write(out, "norm")


def linear(out):
    group = Group(3)
    x = group.normal(2, 3, 64)
    group.layer("linear", nn.Linear(64, 6), x)
    group.layer("linear.without_bias", nn.Linear(64, 6, bias=False), x)
    ids = mx.array([[3, 0, 3], [9, 1, 2]], dtype=mx.uint32)
    table = nn.Embedding(10, 64)
    table.weight = group.normal(10, 64)
    group.add("embedding", **{"parameters.weight": table.weight}, ids=ids, y=table(ids), logits=table.as_linear(x), x=x)

    settings = [("affine", bits, 32) for bits in (2, 3, 4, 5, 6, 8)]
    settings += [("affine", 4, 64), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
    for mode, bits, group_size in settings:
        case = f"{mode}.{bits}.{group_size}"
        layer = nn.Linear(64, 8)
        layer.update({"weight": group.normal(8, 64), "bias": group.normal(8)})
        quantized = nn.QuantizedLinear.from_linear(layer, group_size, bits, mode)
        table = nn.Embedding(10, 64)
        table.weight = group.normal(10, 64)
        table = nn.QuantizedEmbedding.from_embedding(table, group_size, bits, mode)
        group.add(f"quantized.{case}", dense=layer.weight, x=x, y=quantized(x), **quantized.parameters())
        group.add(
            f"quantized_embedding.{case}",
            ids=ids,
            y=table(ids).astype(mx.float32),
            x=x,
            logits=table.as_linear(x),
            **table.parameters(),
        )
    group.write(out, "linear")


ROPES = {
    "default": (16, 10000.0, False, None, None),
    "default.traditional": (16, 10000.0, True, None, None),
    "default.partial": (8, 500000.0, False, None, None),
    "linear": (16, 10000.0, False, {"type": "linear", "factor": 4.0}, None),
    "dynamic": (16, 10000.0, False, {"rope_type": "dynamic", "factor": 2.0}, 64),
    "llama3": (
        16,
        500000.0,
        False,
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
        131072,
    ),
    "yarn": (16, 1000000.0, False, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
    "yarn.deepseek": (
        8,
        10000.0,
        True,
        {
            "type": "deepseek_yarn",
            "factor": 40,
            "original_max_position_embeddings": 4096,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 0.707,
        },
        163840,
    ),
    "longrope.long": (
        16,
        10000.0,
        False,
        {
            "type": "longrope",
            "original_max_position_embeddings": 32,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
            "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0],
        },
        128,
    ),
    "proportional": (16, 1000000.0, False, {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0}, None),
    "mrope": (16, 1000000.0, False, {"type": "mrope", "mrope_section": [2, 3, 3]}, None),
}


def rope(out):
    group = Group(4)
    x = group.normal(2, 3, 5, 16)
    configurations = {}
    for name, (dims, base, traditional, scaling, max_positions) in ROPES.items():
        layer = initialize_rope(dims, base, traditional, scaling, max_positions)
        if name == "longrope.long":
            # The Python layer knows the long factors only; reference behaviour for a short
            # sequence is the same layer with the short ones in their place.
            short = dict(scaling, long_factor=scaling["short_factor"])
            group.add("longrope.short", x=x, y0=initialize_rope(dims, base, traditional, short, max_positions)(x, offset=0))
        offsets = (40, 1000) if name == "longrope.long" else (0, 11, 1000)
        group.add(name, x=x, **{f"y{offset}": layer(x, offset=offset) for offset in offsets})
        configurations[name] = {
            "dims": dims,
            "base": base,
            "traditional": traditional,
            "rope_scaling": scaling,
            "max_position_embeddings": max_positions,
        }
    group.write(out, "rope")
    common.write_json(out / "nn" / "rope" / "configurations.json", configurations)


def attention(out):
    group = Group(5)
    queries, keys, values = group.normal(2, 4, 3, 8), group.normal(2, 2, 7, 8), group.normal(2, 2, 7, 8)
    names = ("queries", "keys", "values")
    additive = group.normal(3, 7)
    windowed = create_causal_mask(3, 4, window_size=2)
    masks = {"none": None, "causal": "causal", "window": windowed, "additive": additive}
    for name, mask in masks.items():
        f = lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.35, mask=mask)
        group.differentiate(f"attention.{name}", f, queries, keys, values, names=names)
    group.add("masks", window=windowed, additive=additive, causal=create_causal_mask(4, 3), plain=create_causal_mask(3))
    group.write(out, "attention")


def generate(out, args):
    activation(out)
    norm(out)
    linear(out)
    rope(out)
    attention(out)


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
