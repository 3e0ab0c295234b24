"""Weights as other programs pack them, from the definitions of the formats.

Each function takes a matrix `[out, in]` and returns the tensors that stand for it, by the last part
of their keys, and the matrix that they decode to. Scales have few bits, so that decoding is exact
in every dtype.
"""

import numpy as np
import torch

GROUP = 32


def coarse(values):
    """Positive numbers with four significant bits."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.ceil(mantissa * 16) / 16, exponent).astype(np.float32)


def in_words(values, places):
    """uint32 words of 4-bit values along the last axis; `places[i]` is where value i of a word goes."""
    values = values.astype(np.uint32).reshape(*values.shape[:-1], -1, 8)
    shifts = np.array(places, dtype=np.uint32) * 4
    return torch.from_numpy((values << shifts).sum(-1, dtype=np.uint32).view(np.int32))


def grouped(matrix, groups=None):
    """4-bit codes, scales, zero points and the decoded matrix; `groups` gives the group of each column."""
    rows, columns = matrix.shape
    groups = np.arange(columns) // GROUP if groups is None else groups
    scales = np.empty((rows, columns // GROUP), np.float32)
    zeros = np.empty((rows, columns // GROUP), np.int64)
    for group in range(columns // GROUP):
        part = matrix[:, groups == group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        scales[:, group] = coarse((high - low) / 15)
        zeros[:, group] = np.clip(np.round(-low / scales[:, group]), 1, 15)
    codes = np.clip(np.round(matrix / scales[:, groups]) + zeros[:, groups], 0, 15)
    return codes, scales, zeros, ((codes - zeros[:, groups]) * scales[:, groups]).astype(np.float32)


def awq(matrix, rng):
    """AutoAWQ: both are packed along the outputs, even columns of a word in its lower half."""
    codes, scales, zeros, dense = grouped(matrix)
    places = [0, 4, 1, 5, 2, 6, 3, 7]
    return {
        "qweight": in_words(codes.T, places),
        "qzeros": in_words(zeros.T, places),
        "scales": torch.from_numpy(scales.T.copy()).half(),
    }, dense


def gptq(matrix, rng, groups=None):
    """AutoGPTQ: codes are packed along the inputs, zero points along the outputs and less one."""
    codes, scales, zeros, dense = grouped(matrix, groups)
    columns = matrix.shape[1]
    return {
        "qweight": in_words(codes, range(8)).T.contiguous(),
        "qzeros": in_words((zeros - 1).T, range(8)),
        "scales": torch.from_numpy(scales.T.copy()).half(),
        "g_idx": torch.from_numpy(np.arange(columns) // GROUP if groups is None else groups).int(),
    }, dense


def gptq_act_order(matrix, rng):
    """The same with columns that were quantised in the order of their weight, and groups with them."""
    return gptq(matrix, rng, rng.permutation(matrix.shape[1]) // GROUP)


def fp8(matrix, rng):
    """DeepSeek-V3: 8-bit floats with a scale for each block, here of 16 × 16."""
    rows, columns = matrix.shape
    blocks = matrix.reshape(rows // 16, 16, columns // 16, 16)
    scales = coarse(np.abs(blocks).max((1, 3)) / 448)
    codes = torch.from_numpy(blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
    dense = codes.float().numpy() * scales[:, None, :, None]
    return {
        "weight": codes.reshape(rows, columns),
        "weight_scale_inv": torch.from_numpy(scales),
    }, dense.reshape(rows, columns)


def pack_quantized(matrix, rng):
    """compressed-tensors: symmetric integers from −8 to 7, stored from zero on."""
    rows, columns = matrix.shape
    parts = matrix.reshape(rows, -1, GROUP)
    scales = coarse(np.abs(parts).max(-1) / 7)
    codes = np.clip(np.round(parts / scales[..., None]), -8, 7)
    return {
        "weight_packed": in_words((codes + 8).reshape(rows, columns), range(8)),
        "weight_scale": torch.from_numpy(scales).bfloat16(),
        "weight_shape": torch.tensor([rows, columns]),
    }, (codes * scales[..., None]).reshape(rows, columns).astype(np.float32)


FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)


def float4(values):
    """Codes of the nearest 4-bit floats, two to a byte with the first in the lower half, and their values."""
    nearest = np.abs(np.abs(values)[..., None] - FLOAT4).argmin(-1)
    codes = (nearest + 8 * (values < 0)).astype(np.uint8)
    return torch.from_numpy(codes[..., 0::2] | codes[..., 1::2] << 4), np.sign(values) * FLOAT4[nearest]


def nvfp4(matrix, rng):
    """compressed-tensors: groups of 16 with 8-bit float scales, divided by one of the whole tensor."""
    rows, columns = matrix.shape
    parts = matrix.reshape(rows, -1, 16)
    overall = np.float32(64.0)
    scales = torch.from_numpy(np.abs(parts).max(-1) / 6 * overall).to(torch.float8_e4m3fn)
    scale = scales.float().numpy()[..., None] / overall
    codes, values = float4(parts / np.maximum(scale, 1e-12))
    return {
        "weight_packed": codes.reshape(rows, columns // 2),
        "weight_scale": scales,
        "weight_global_scale": torch.tensor([overall]),
    }, (values * scale).reshape(rows, columns)


def mxfp4(matrix, rng):
    """compressed-tensors: groups of 32 with scales that are powers of two, stored as exponents."""
    rows, columns = matrix.shape
    parts = matrix.reshape(rows, -1, 32)
    exponents = np.ceil(np.log2(np.abs(parts).max(-1) / 6)).astype(np.int64)
    codes, values = float4(parts / np.exp2(exponents)[..., None])
    return {
        "weight_packed": codes.reshape(rows, columns // 2),
        "weight_scale": torch.from_numpy((exponents + 127).astype(np.uint8)),
    }, (values * np.exp2(exponents)[..., None]).reshape(rows, columns).astype(np.float32)


def bitnet(matrix, rng):
    """Ternary weights, a byte holding one row of each quarter; the scale is what to divide by."""
    rows = matrix.shape[0]
    scale = np.float32(1 / coarse(np.abs(matrix).mean(keepdims=True)).item())
    codes = np.clip(np.round(matrix * scale), -1, 1)
    quarters = (codes + 1).astype(np.uint8).reshape(4, rows // 4, -1)
    packed = sum(quarter << np.uint8(2 * i) for i, quarter in enumerate(quarters))
    return {
        "weight": torch.from_numpy(packed.astype(np.uint8)),
        "weight_scale": torch.tensor([scale]),
    }, (codes / scale).astype(np.float32)


def compressed(kind, **weights):
    return {
        "quant_method": "compressed-tensors", "format": kind,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }


# Each format's function and the `quantization_config` that goes with it.
PACKINGS = {
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}),
    "gptq-act-order": (gptq_act_order, {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True}),
    "fp8": (fp8, {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}),
    "pack-quantized": (pack_quantized, compressed("pack-quantized", num_bits=4, group_size=GROUP, symmetric=True)),
    "nvfp4-pack": (nvfp4, compressed("nvfp4-pack-quantized", num_bits=4, group_size=16)),
    "mxfp4-pack": (mxfp4, compressed("mxfp4-pack-quantized", num_bits=4, group_size=32)),
    "bitnet": (bitnet, {"quant_method": "bitnet", "linear_class": "bitlinear"}),
}


def gpt_oss_experts(tensor):
    """The experts of gpt-oss `[E, in, out]` in mxfp4: blocks of 32 inputs, in bytes, and exponents."""
    matrices = tensor.float().numpy().swapaxes(-1, -2)
    parts = matrices.reshape(*matrices.shape[:-1], -1, 32)
    exponents = np.ceil(np.log2(np.abs(parts).max(-1) / 6)).astype(np.int64)
    codes, values = float4(parts / np.exp2(exponents)[..., None])
    dense = (values * np.exp2(exponents)[..., None]).reshape(matrices.shape).swapaxes(-1, -2)
    return {"_blocks": codes, "_scales": torch.from_numpy((exponents + 127).astype(np.uint8))}, dense.astype(np.float32)


def pack(model, name, seed):
    """Packs the layers' matrices of a model, which is left with what they decode to: its tensors."""
    rng = np.random.default_rng(seed)
    function, _ = PACKINGS.get(name, (None, None))
    tensors = {}
    for key, tensor in sorted(model.state_dict().items()):
        if function is None and key.endswith(("experts.gate_up_proj", "experts.down_proj")):
            parts, dense = gpt_oss_experts(tensor)
            tensors |= {key + part: value.contiguous() for part, value in parts.items()}
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(np.ascontiguousarray(dense)))
            continue
        if function is None or not key.endswith("_proj.weight"):
            tensors[key] = tensor.bfloat16().contiguous()
            continue
        parts, dense = function(tensor.float().numpy(), rng)
        tensors |= {key.removesuffix("weight") + part: value.contiguous() for part, value in parts.items()}
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.ascontiguousarray(dense)))
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return tensors
