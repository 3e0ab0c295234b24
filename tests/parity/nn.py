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

    def write(self, out, name, dtype="float32", tolerance=TOLERANCE, reason=REASON):
        folder = out / "nn" / name
        folder.mkdir(parents=True, exist_ok=True)
        mx.save_safetensors(str(folder / "golden.safetensors"), self.arrays)
        common.write_note(
            folder,
            upstream=common.versions("mlx", "mlx-lm"),
            dtype=dtype,
            tolerance=tolerance,
            reason=reason,
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
    quantised = {}
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
        quantised[case] = quantized
    for case, layer in quantised.items():
        group.differentiate(f"quantized_gradient.{case}", layer, x)

    weight = group.normal(10, 64)
    table = nn.Embedding(10, 64)

    def rows(weight):
        table.weight = weight
        return table(ids)

    def logits(x, weight):
        table.weight = weight
        return table.as_linear(x)

    group.differentiate("embedding.rows", rows, weight, names=("weight",))
    group.differentiate("embedding.logits", logits, x, weight, names=("x", "weight"))
    for mode in ("nvfp4", "mxfp8"):
        # Python computes this on the CPU for a single row only.
        layer = nn.QQLinear.from_linear(nn.Linear(64, 32, bias=False), mode=mode)
        layer.weight = group.normal(32, 64)
        dense, row = layer.weight, group.normal(1, 64)
        layer.eval()
        group.add(f"qq.{mode}", dense=dense, x=row, y=layer(row), weight=layer.weight, scales=layer.scales)
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
        # A generator of its own, so that the cotangents change nothing after them.
        cotangent = Group(len(configurations) + 40).normal(*x.shape)
        _, (gradient,) = mx.vjp(lambda x: [layer(x, offset=offsets[1])], [x], [cotangent])
        group.add(name, cotangent=cotangent, dx=gradient)
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


def layers(out):
    """Convolution, pooling, the other normalisations, recurrence, transformer, upsampling."""
    group = Group(6)
    sequence, image, volume = group.normal(2, 9, 4), group.normal(2, 6, 7, 4), group.normal(1, 4, 5, 4, 2)
    group.layer("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2), sequence)
    group.layer("conv1d.grouped", nn.Conv1d(4, 6, 3, groups=2, bias=False), sequence)
    group.layer("conv2d", nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0)), image)
    group.layer("conv2d.depthwise", nn.Conv2d(4, 4, 3, padding=1, groups=4), image)
    group.layer("conv3d", nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=1), volume)
    group.layer("conv_transpose1d", nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1, output_padding=1), sequence)
    group.layer("conv_transpose2d", nn.ConvTranspose2d(4, 3, (3, 2), stride=2, padding=(1, 0)), image)
    group.layer("conv_transpose3d", nn.ConvTranspose3d(2, 3, 2, stride=2, bias=False), volume)

    group.layer("max_pool1d", nn.MaxPool1d(3, stride=2, padding=1), sequence)
    group.layer("avg_pool1d", nn.AvgPool1d(3), sequence)
    group.layer("max_pool2d", nn.MaxPool2d((3, 2), stride=(2, 1)), image)
    group.layer("avg_pool2d", nn.AvgPool2d(2, padding=1), image)
    group.layer("max_pool3d", nn.MaxPool3d(2), volume)
    group.layer("avg_pool3d", nn.AvgPool3d((2, 3, 2), stride=1), volume)

    group.layer("group_norm", nn.GroupNorm(2, 4), image)
    group.layer("group_norm.pytorch", nn.GroupNorm(2, 4, pytorch_compatible=True), image)
    group.layer("group_norm.plain", nn.GroupNorm(4, 4, eps=1e-3, affine=False), image)
    group.layer("instance_norm", nn.InstanceNorm(4), image)
    group.layer("instance_norm.affine", nn.InstanceNorm(4, affine=True), sequence)
    group.layer("batch_norm.untracked", nn.BatchNorm(4, track_running_stats=False), image)
    norm = nn.BatchNorm(4, momentum=0.3)
    first, second = norm(image), norm(image * 2 + 1)
    mx.eval(first, second)
    running = {"running_mean": norm.running_mean, "running_var": norm.running_var}
    norm.eval()
    group.add("batch_norm", x=image, first=first, second=second, evaluated=norm(image), **running)

    group.layer("bilinear", nn.Bilinear(4, 3, 5), group.normal(2, 6, 4), group.normal(2, 6, 3), names=("x1", "x2"))
    group.layer("rnn", nn.RNN(4, 5), sequence)
    group.layer("rnn.relu", nn.RNN(4, 5, bias=False, nonlinearity=nn.relu), sequence)
    hidden = group.normal(2, 5)
    group.layer("rnn.started", nn.RNN(4, 5), sequence, hidden, names=("x", "hidden"))
    group.layer("gru", nn.GRU(4, 5), sequence)
    group.layer("gru.started", nn.GRU(4, 5, bias=False), sequence, hidden, names=("x", "hidden"))
    for part, index in (("hidden", 0), ("cell", 1)):
        lstm = nn.LSTM(4, 5)
        group.layer(f"lstm.{part}", lstm, sequence, call=lambda x: lstm(x)[index])
    lstm = nn.LSTM(4, 5, bias=False)
    started = lambda x, h, c: mx.concatenate(lstm(x, h, c), axis=-1)
    group.layer("lstm.started", lstm, sequence, hidden, group.normal(2, 5), names=("x", "hidden", "cell"), call=started)

    attention = nn.MultiHeadAttention(8, 2, 6, 5, 4, 10, 7, bias=True)
    names = ("queries", "keys", "values")
    group.layer("attention", attention, group.normal(2, 3, 6), group.normal(2, 4, 5), group.normal(2, 4, 4), names=names)
    group.add("additive_mask", mask=nn.MultiHeadAttention.create_additive_causal_mask(4))
    x, memory = group.normal(2, 3, 8), group.normal(2, 4, 8)
    for first in (True, False):
        case = "first" if first else "last"
        encoder = nn.TransformerEncoder(2, 8, 2, 12, norm_first=first, activation=nn.gelu)
        group.layer(f"encoder.norm_{case}", encoder, x, call=lambda x: encoder(x, "causal"))
        decoder = nn.TransformerDecoder(1, 8, 2, norm_first=first)
        names = ("x", "memory")
        group.layer(f"decoder.norm_{case}", decoder, x, memory, names=names, call=lambda x, m: decoder(x, m, "causal", None))
    transformer = nn.Transformer(8, 2, 1, 1, 12)
    names = ("source", "target")
    group.layer("transformer", transformer, memory, x, names=names, call=lambda s, t: transformer(s, t, None, "causal", None))

    positions = mx.arange(5, dtype=mx.float32) * 3
    group.add(
        "sinusoidal",
        x=positions,
        y=nn.SinusoidalPositionalEncoding(8)(positions),
        turned=nn.SinusoidalPositionalEncoding(6, 1e-2, 2.0, scale=1.0, cos_first=True, full_turns=True)(positions),
        two=nn.SinusoidalPositionalEncoding(2)(positions),
    )
    for heads in (4, 6):
        scores = group.normal(1, heads, 3, 5)
        group.add(f"alibi.{heads}", x=scores, y=nn.ALiBi()(scores), later=nn.ALiBi()(scores, offset=2, mask=scores[0, 0]))

    small = group.normal(1, 5, 4, 2)
    for mode in ("nearest", "linear", "cubic"):
        for factor in (2.0, 1.5, (0.5, 3.0)):
            name = f"upsample.{mode}.{factor if isinstance(factor, float) else '0.5x3'}"
            group.layer(f"{name}.edges", nn.Upsample(factor, mode), small)
            if mode != "nearest":
                group.layer(f"{name}.corners", nn.Upsample(factor, mode, align_corners=True), small)
                group.layer(f"{name}.antialias", nn.Upsample(factor, mode, antialias=True), small)
    group.layer("upsample.linear.1d", nn.Upsample(3.0, "linear"), sequence)

    group.differentiate("sinusoidal.gradient", nn.SinusoidalPositionalEncoding(8), positions)
    group.differentiate("alibi.gradient", nn.ALiBi(), group.normal(1, 4, 3, 5))
    group.layer("batch_norm.evaluated", norm, image)
    group.add("batch_norm.evaluated", **running)
    trained = nn.BatchNorm(4)
    group.layer("batch_norm.trained", trained, image)
    for name, layer, x in (
        ("dropout", nn.Dropout(0.3), sequence),
        ("dropout2d", nn.Dropout2d(0.3), image),
        ("dropout3d", nn.Dropout3d(0.3), volume),
    ):

        def seeded(x):
            mx.random.seed(9)
            return layer(x)

        group.differentiate(name, seeded, x)
    group.write(out, "layers")


def loss(out):
    group = Group(7)
    x, t = group.normal(4, 5), group.normal(4, 5)
    signs = mx.sign(group.normal(4, 5))
    ids = mx.array([3, 0, 4, 1])
    chances = mx.softmax(group.normal(4, 5))
    half = group.uniform(0.05, 0.95, 4, 5)
    weights = group.uniform(0.5, 2.0, 4)
    losses, names = nn.losses, ("x", "t")
    group.add("shared", ids=ids, chances=chances, weights=weights, signs=signs)
    group.differentiate("cross_entropy", lambda x: losses.cross_entropy(x, ids), x)
    group.differentiate("cross_entropy.smooth", lambda x: losses.cross_entropy(x, ids, weights, label_smoothing=0.1, reduction="mean"), x)
    group.differentiate("cross_entropy.chances", lambda x: losses.cross_entropy(x, chances, reduction="sum"), x)
    group.differentiate("cross_entropy.axis", lambda x: losses.cross_entropy(x, ids % 4, axis=0), group.normal(5, 4))
    group.differentiate("binary_cross_entropy", lambda x: losses.binary_cross_entropy(x, chances), x)
    group.differentiate("binary_cross_entropy.chances", lambda x: losses.binary_cross_entropy(x, chances, with_logits=False), half)
    group.differentiate("l1", losses.l1_loss, x, t, names=names)
    group.differentiate("mse", losses.mse_loss, x, t, names=names)
    group.differentiate("nll", lambda x: losses.nll_loss(x, ids), x)
    gaussian = lambda x, t, v: losses.gaussian_nll_loss(x, t, v, full=True)
    group.differentiate("gaussian_nll", gaussian, x, t, half, names=("x", "t", "variances"))
    group.differentiate("kl_div", losses.kl_div_loss, x, t, names=names)
    group.differentiate("smooth_l1", lambda x, t: losses.smooth_l1_loss(x, t, beta=0.7), x, t, names=names)
    group.differentiate("triplet", losses.triplet_loss, x, t, half, names=("x", "t", "negatives"))
    group.differentiate("hinge", lambda x: losses.hinge_loss(x, signs), x)
    group.differentiate("huber", lambda x, t: losses.huber_loss(x, t, delta=0.8), x, t, names=names)
    group.differentiate("log_cosh", losses.log_cosh_loss, x, t, names=names)
    group.differentiate("cosine_similarity", losses.cosine_similarity_loss, x, t, names=names)
    ranking = lambda x, t: losses.margin_ranking_loss(x, t, signs, margin=0.2)
    group.differentiate("margin_ranking", ranking, x, t, names=names)

    each = group.uniform(0.5, 2.0, 4, 5)
    group.add("shared", each=each)
    weighted = lambda x: losses.binary_cross_entropy(x, chances, each, reduction="none")
    group.differentiate("binary_cross_entropy.weights", weighted, x)
    weighted = lambda x: losses.binary_cross_entropy(x, chances, each, with_logits=False)
    group.differentiate("binary_cross_entropy.chances.weights", weighted, half)
    gaussian = lambda x, t, v: losses.gaussian_nll_loss(x, t, v, reduction="none")
    group.differentiate("gaussian_nll.short", gaussian, x, t, half, names=("x", "t", "variances"))
    group.write(out, "loss")


STEPS = 20


def optimizer(out):
    """Twenty steps of each rule on one matrix, one vector and one kernel."""
    import mlx.optimizers as optim

    group = Group(8)
    start = {"matrix": group.normal(6, 4), "vector": group.normal(5), "kernel": group.normal(3, 2, 2)}
    gradients = [{name: group.normal(*value.shape) for name, value in start.items()} for _ in range(STEPS)]
    for name, value in start.items():
        group.add("shared", **{name: value, f"gradients.{name}": mx.stack([step[name] for step in gradients])})
    rules = {
        "sgd": optim.SGD(0.1),
        "sgd.momentum": optim.SGD(0.1, momentum=0.9, weight_decay=0.01, dampening=0.1),
        "sgd.nesterov": optim.SGD(0.1, momentum=0.9, nesterov=True),
        "rmsprop": optim.RMSprop(0.01),
        "adagrad": optim.Adagrad(0.1),
        "adadelta": optim.AdaDelta(1.0),
        "adam": optim.Adam(0.01),
        "adam.corrected": optim.Adam(0.01, bias_correction=True),
        "adamw": optim.AdamW(0.01, weight_decay=0.1),
        "adamax": optim.Adamax(0.01),
        "lion": optim.Lion(0.01, weight_decay=0.1),
        "adafactor": optim.Adafactor(),
        "adafactor.absolute": optim.Adafactor(
            0.01, beta_1=0.9, weight_decay=0.1, scale_parameter=False, relative_step=False
        ),
        "adafactor.warmup": optim.Adafactor(warmup_init=True),
        "muon": optim.Muon(0.02),
        "muon.plain": optim.Muon(0.02, weight_decay=0.0, nesterov=False),
        "scheduled": optim.SGD(optim.cosine_decay(0.1, 10, 0.01)),
    }
    for case, rule in rules.items():
        parameters = dict(start)
        for step, gradient in enumerate(gradients):
            parameters = rule.apply_gradients(gradient, parameters)
            if step in (0, STEPS - 1):
                group.add(f"{case}.{step + 1}", **parameters)
        from mlx.utils import tree_flatten

        state = {name: value for name, value in tree_flatten(rule.state) if value.dtype == mx.float32}
        group.add(f"{case}.state", **state)
    rule = optim.MultiOptimizer([optim.Muon(0.02), optim.AdamW(0.01)], [lambda name, gradient: gradient.ndim == 2])
    parameters = dict(start)
    for gradient in gradients:
        parameters = rule.apply_gradients(gradient, parameters)
    group.add("multi.20", **parameters)

    schedules = {
        "exponential": optim.exponential_decay(0.1, 0.9),
        "step": optim.step_decay(0.1, 0.5, 4),
        "cosine": optim.cosine_decay(0.1, 12, 0.01),
        "linear": optim.linear_schedule(0.0, 0.1, 5),
        "joined": optim.join_schedules([optim.linear_schedule(0.0, 0.1, 5), optim.cosine_decay(0.1, 10)], [5]),
    }
    for case, schedule in schedules.items():
        group.add(f"schedule.{case}", y=mx.stack([mx.array(schedule(mx.array(step)), mx.float32) for step in range(STEPS)]))
    clipped, norm = optim.clip_grad_norm(gradients[0], 1.0)
    group.add("clipped", norm=norm, **clipped)
    group.write(out, "optimizer")


def optimizer_half(out):
    """Twenty steps of each rule in the two halves of a float, which it must keep to."""
    import mlx.optimizers as optim

    group = Group(12)
    start = {"matrix": group.normal(6, 4), "vector": group.normal(5)}
    gradients = {name: group.normal(STEPS, *value.shape) for name, value in start.items()}
    rules = {
        "sgd.momentum": lambda: optim.SGD(0.1, momentum=0.9, weight_decay=0.01, dampening=0.1),
        "rmsprop": lambda: optim.RMSprop(0.01),
        "adagrad": lambda: optim.Adagrad(0.1),
        "adadelta": lambda: optim.AdaDelta(1.0, eps=1e-4),
        "adam.corrected": lambda: optim.Adam(0.01, bias_correction=True, eps=1e-4),
        "adamw": lambda: optim.AdamW(0.01, weight_decay=0.1, eps=1e-4),
        "adamax": lambda: optim.Adamax(0.01, eps=1e-4),
        "lion": lambda: optim.Lion(0.01, weight_decay=0.1),
        "adafactor": lambda: optim.Adafactor(eps=(1e-6, 1e-3)),
        "muon": lambda: optim.Muon(0.02),
    }
    for dtype in (mx.float16, mx.bfloat16):
        kind = str(dtype).split(".")[-1]
        rounded = {name: value.astype(dtype) for name, value in gradients.items()}
        first = {name: value.astype(dtype) for name, value in start.items()}
        for name, value in first.items():
            group.add(kind, **{name: value, f"gradients.{name}": rounded[name]})
        for case, make in rules.items():
            rule, parameters = make(), first
            for step in range(STEPS):
                parameters = rule.apply_gradients({name: value[step] for name, value in rounded.items()}, parameters)
            group.add(f"{kind}.{case}", **parameters)
    reason = "the same roundings to 8 and 11 bits; a few of twenty steps may round the other way"
    group.write(out, "optimizer_half", dtype="float16 and bfloat16", tolerance=8e-3, reason=reason)


def init(out):
    """What each initialiser draws first after a seed."""
    group = Group(11)
    matrix, kernel = mx.zeros((6, 10)), mx.zeros((4, 3, 3, 5))
    made = {
        "constant": lambda: nn.init.constant(0.3)(matrix),
        "normal": lambda: nn.init.normal(0.5, 2.0)(matrix),
        "uniform": lambda: nn.init.uniform(-0.5, 2.0)(matrix),
        "identity": lambda: nn.init.identity()(mx.zeros((5, 5))),
        "glorot_normal": lambda: nn.init.glorot_normal()(kernel, gain=1.5),
        "glorot_uniform": lambda: nn.init.glorot_uniform()(kernel, gain=1.5),
        "he_normal.in": lambda: nn.init.he_normal()(kernel, gain=1.5),
        "he_normal.out": lambda: nn.init.he_normal()(kernel, mode="fan_out"),
        "he_uniform.in": lambda: nn.init.he_uniform()(kernel, gain=1.5),
        "he_uniform.out": lambda: nn.init.he_uniform()(kernel, mode="fan_out"),
        "sparse": lambda: nn.init.sparse(0.35, 1.0, 0.5)(matrix),
        "orthogonal.wide": lambda: nn.init.orthogonal(2.0)(matrix),
        "orthogonal.tall": lambda: nn.init.orthogonal()(matrix.T),
    }
    for case, make in made.items():
        mx.random.seed(5)
        group.add(case, y=make())
    group.write(out, "init")


def switch(out):
    """Layers of experts: few tokens, and enough of them to be sorted by expert."""
    from mlx_lm.models.switch_layers import SwitchGLU, SwitchLinear, SwitchMLP

    group = Group(9)
    chosen = mx.array(group.random.integers(0, 5, (3, 2)), dtype=mx.uint32)
    layer = SwitchLinear(8, 6, 5)
    group.layer("linear", layer, group.normal(3, 1, 1, 8), call=lambda x: layer(x, chosen))
    group.add("linear", indices=chosen)
    for case, tokens in (("few", 5), ("many", 40)):
        chosen = mx.array(group.random.integers(0, 5, (2, tokens, 2)), dtype=mx.uint32)
        x = group.normal(2, tokens, 8)
        for name, block in (("glu", SwitchGLU(8, 12, 5, bias=True)), ("mlp", SwitchMLP(8, 12, 5))):
            group.layer(f"{name}.{case}", block, x, call=lambda x: block(x, chosen))
            group.add(f"{name}.{case}", indices=chosen)
    settings = [("affine", 4, 32), ("affine", 8, 64), ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
    chosen = mx.array(group.random.integers(0, 3, (4, 2)), dtype=mx.uint32)
    x = group.normal(4, 1, 1, 64)
    for mode, bits, group_size in settings:
        layer = SwitchLinear(64, 8, 3)
        layer.weight = group.normal(3, 8, 64)
        layer.bias = group.normal(3, 8)
        quantized = layer.to_quantized(group_size, bits, mode)
        case = f"quantized.{mode}.{bits}.{group_size}"
        group.add(case, dense=layer.weight, x=x, indices=chosen, y=quantized(x, chosen), **quantized.parameters())
    group.write(out, "switch")


def adapter(out):
    """Layers of mlx-lm's tuner with adapters that add something."""
    from mlx_lm.models.switch_layers import SwitchLinear
    from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
    from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

    group = Group(10)
    x = group.normal(3, 16)
    ids = mx.array([[3, 0, 3], [9, 1, 2]], dtype=mx.uint32)
    for case, kind in (("lora", LoRALinear), ("dora", DoRALinear)):
        base = nn.Linear(16, 6)
        base.update({"weight": group.normal(6, 16), "bias": group.normal(6)})
        layer = kind.from_base(base, r=4, scale=2.0)
        layer.update({"lora_a": group.normal(16, 4), "lora_b": group.normal(4, 6)})
        extra = {"m": layer.m} if case == "dora" else {}
        group.add(case, weight=base.weight, bias=base.bias, x=x, y=layer(x), fused=layer.fuse().weight)
        group.add(case, lora_a=layer.lora_a, lora_b=layer.lora_b, **extra)
    for case, kind in (("lora_embedding", LoRAEmbedding), ("dora_embedding", DoRAEmbedding)):
        base = nn.Embedding(10, 16)
        base.weight = group.normal(10, 16)
        layer = kind.from_base(base, r=4, scale=2.0)
        layer.update({"lora_a": group.normal(10, 4), "lora_b": group.normal(4, 16)})
        extra = {"m": layer.m} if case == "dora_embedding" else {}
        group.add(case, weight=base.weight, ids=ids, x=x, y=layer(ids), logits=layer.as_linear(x))
        group.add(case, lora_a=layer.lora_a, lora_b=layer.lora_b, **extra)
    base = SwitchLinear(16, 6, 3, bias=False)
    base.weight = group.normal(3, 6, 16)
    layer = LoRASwitchLinear.from_base(base, r=4, scale=2.0)
    layer.update({"lora_a": group.normal(3, 4, 16), "lora_b": group.normal(3, 6, 4)})
    x = group.normal(4, 1, 1, 16)
    indices = mx.array(group.random.integers(0, 3, (4, 2)), dtype=mx.uint32)
    group.add("lora_switch", weight=base.weight, x=x, indices=indices, y=layer(x, indices))
    group.add("lora_switch", lora_a=layer.lora_a, lora_b=layer.lora_b)

    # With dropout, whose keys follow from the seed.
    x, draw = group.normal(3, 16), group.normal(4, 6)
    for case, kind in (("lora", LoRALinear), ("dora", DoRALinear)):
        base = nn.Linear(16, 6)
        base.update({"weight": group.normal(6, 16), "bias": group.normal(6)})
        layer = kind.from_base(base, r=4, scale=2.0, dropout=0.4)
        layer.update({"lora_a": group.normal(16, 4), "lora_b": draw})
        extra = {"m": layer.m} if case == "dora" else {}
        layer.train()
        mx.random.seed(5)
        first, second = layer(x), layer(x)
        group.add(f"{case}.dropout", weight=base.weight, bias=base.bias, x=x, first=first, second=second)
        group.add(f"{case}.dropout", lora_a=layer.lora_a, lora_b=layer.lora_b, **extra)
    base = nn.Embedding(10, 16)
    base.weight = group.normal(10, 16)
    layer = LoRAEmbedding.from_base(base, r=4, scale=2.0, dropout=0.4)
    layer.update({"lora_a": group.normal(10, 4), "lora_b": group.normal(4, 16)})
    layer.train()
    mx.random.seed(5)
    group.add("lora_embedding.dropout", weight=base.weight, ids=ids, x=x, first=layer(ids), second=layer.as_linear(x))
    group.add("lora_embedding.dropout", lora_a=layer.lora_a, lora_b=layer.lora_b)

    # Generators of their own, so that what is above stays as it is.
    group.random = np.random.default_rng(110)
    base = nn.Embedding(10, 16)
    base.weight = group.normal(10, 16)
    layer = DoRAEmbedding.from_base(base, r=4, scale=2.0, dropout=0.4)
    layer.update({"lora_a": group.normal(10, 4), "lora_b": group.normal(4, 16)})
    layer.train()
    mx.random.seed(5)
    group.add("dora_embedding.dropout", weight=base.weight, ids=ids, x=x, first=layer(ids), second=layer.as_linear(x))
    group.add("dora_embedding.dropout", lora_a=layer.lora_a, lora_b=layer.lora_b, m=layer.m)

    group.random = np.random.default_rng(111)
    kinds = {"lora": LoRALinear, "dora": DoRALinear, "lora_embedding": LoRAEmbedding, "dora_embedding": DoRAEmbedding}
    for case, kind in kinds.items():
        table = case.endswith("embedding")
        base = nn.Embedding(10, 16) if table else nn.Linear(16, 6, bias=False)
        base.weight = group.normal(*base.weight.shape)
        layer = kind.from_base(base, r=4, scale=2.0)
        named = {"lora_a": group.normal(*layer.lora_a.shape), "lora_b": group.normal(*layer.lora_b.shape)}
        if case.startswith("dora"):
            named["m"] = group.uniform(0.5, 4.0, *layer.m.shape)

        def adapted(call):
            def f(x, *arrays):
                layer.update(dict(zip(named, arrays)))
                return call(x)

            return f

        names = ("x", *named)
        calls = {"gradient": layer}
        if table:
            # Rows have no input to differentiate by.
            rows = lambda *arrays: adapted(layer)(ids, *arrays)
            group.differentiate(f"{case}.rows.gradient", rows, *named.values(), names=tuple(named))
            group.add(f"{case}.rows.gradient", weight=base.weight, ids=ids)
            calls = {"logits.gradient": layer.as_linear}
        for name, call in calls.items():
            group.differentiate(f"{case}.{name}", adapted(call), group.normal(3, 16), *named.values(), names=names)
            group.add(f"{case}.{name}", weight=base.weight)
    group.write(out, "adapter")


def generate(out, args):
    adapter(out)
    init(out)
    switch(out)
    layers(out)
    loss(out)
    optimizer(out)
    optimizer_half(out)
    activation(out)
    norm(out)
    linear(out)
    rope(out)
    attention(out)


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
