"""Writes llama-shaped GGUF files with random weights, for timing.

Blocks of quantised tensors are random bytes whose scales make weights of about 0.02, so that
files are written as fast as a disk takes them. The tokenizer is that of another file.
"""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

# Name, width, layers, width of the MLP, heads, key heads.
SHAPES = {"0.6b": (1536, 20, 4096, 24, 8), "1b": (2048, 16, 8192, 32, 8)}
# Weights of the layers, and the table of tokens, which is the output as well.
TYPES = {
    "Q4_0": (Type.Q4_0, Type.Q8_0),
    "Q8_0": (Type.Q8_0, Type.Q8_0),
    "BF16": (Type.BF16, Type.BF16),
    "Q4_K_M": (Type.Q4_K, Type.Q6_K),
}
VOCABULARY = 49152


def half(number, count):
    return np.full(count, number, np.float16).view(np.uint8).reshape(-1, 2)


def blocks(rng, kind, shape):
    """Random data of a tensor, as rows of bytes."""
    rows, columns = shape
    if kind == Type.BF16:
        numbers = rng.standard_normal(shape, np.float32) * 0.02
        return (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    count = rows * columns // elements
    data = rng.integers(0, 256, (count, size), np.uint8)
    if kind == Type.Q4_0:
        data[:, :2] = half(0.02 / 4.6, count)
    elif kind == Type.Q8_0:
        data[:, :2] = half(0.02 / 74, count)
    elif kind == Type.Q4_K:
        data[:, :2] = half(0.02 / (31 * 4.6), count)
        data[:, 2:4] = half(0.02 / (31 * 4.6) * 7.5, count)
    elif kind == Type.Q6_K:
        data[:, -2:] = half(0.02 / (74 * 18), count)
    else:
        raise ValueError(f"no random blocks of {kind}")
    return data.reshape(rows, -1)


def write(path, shape, types, tokenizer):
    width, layers, hidden, heads, kv_heads = SHAPES[shape]
    weights, table = TYPES[types]
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    for name, field in gguf.GGUFReader(tokenizer).fields.items():
        if name.startswith("tokenizer.") and name != "tokenizer.chat_template":
            element = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], element)
    writer.add_block_count(layers)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCABULARY)
    kv = width // heads * kv_heads
    tensors = [("token_embd", (VOCABULARY, width), table), ("output_norm", None, None)]
    for i in range(layers):
        # The mix that files of this name have: a half of two weights in more bits.
        better = Type.Q6_K if types == "Q4_K_M" and (i < layers // 8 or i % 3 == 2) else weights
        tensors += [
            (f"blk.{i}.attn_norm", None, None),
            (f"blk.{i}.attn_q", (width, width), weights),
            (f"blk.{i}.attn_k", (kv, width), weights),
            (f"blk.{i}.attn_v", (kv, width), better),
            (f"blk.{i}.attn_output", (width, width), weights),
            (f"blk.{i}.ffn_norm", None, None),
            (f"blk.{i}.ffn_gate", (hidden, width), weights),
            (f"blk.{i}.ffn_up", (hidden, width), weights),
            (f"blk.{i}.ffn_down", (width, hidden), better),
        ]

    def size(shape, kind):
        if shape is None:
            return (width,), np.float32, width * 4, None
        bytes_of = shape[0] * shape[1] // gguf.GGML_QUANT_SIZES[kind][0] * gguf.GGML_QUANT_SIZES[kind][1]
        return (shape[0], bytes_of // shape[0]), np.uint8, bytes_of, kind

    for name, shape, kind in tensors:
        writer.add_tensor_info(f"{name}.weight", *size(shape, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, shape, kind in tensors:
        data = np.ones(width, np.float32) if shape is None else blocks(rng, kind, shape)
        writer.write_tensor_data(data)
    writer.close()
