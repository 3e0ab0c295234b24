"""Every block format of GGUF: a small file by the `gguf` package, and what that package decodes it to.

Blocks are random bytes with sane scales, so that every code occurs, also those that
no quantiser would choose. `Q8_1` and `Q8_K` are decoded here, as the package leaves
them out; it also gives `Q8_1` another size than the C library, so that its blocks
stand in the arrays instead of the file.
"""

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

import common

PLAIN = {
    T.F32: np.float32,
    T.F16: np.float16,
    T.F64: np.float64,
    T.I8: np.int8,
    T.I16: np.int16,
    T.I32: np.int32,
    T.I64: np.int64,
}
# Where the half-precision numbers of a block sit.
HALVES = {
    T.Q4_0: [0],
    T.Q4_1: [0, 2],
    T.Q5_0: [0],
    T.Q5_1: [0, 2],
    T.Q8_0: [0],
    T.Q2_K: [80, 82],
    T.Q3_K: [108],
    T.Q4_K: [0, 2],
    T.Q5_K: [0, 2],
    T.Q6_K: [208],
    T.IQ4_NL: [0],
    T.IQ4_XS: [0],
    T.TQ1_0: [52],
    T.TQ2_0: [64],
    T.MXFP4: [],
    T.NVFP4: [],
}


def blocks(random, count, size, halves):
    data = random.integers(0, 256, (count, size), dtype=np.uint8)
    for start in halves:
        scales = random.normal(0, 0.05, count).astype(np.float16)
        scales[0] = np.float16(5e-6)  # Subnormal.
        data[:, start : start + 2] = scales.view(np.uint8).reshape(count, 2)
    return data


def quantised(random, qtype):
    block_len, size = gguf.GGML_QUANT_SIZES[qtype]
    rows, per_row = 2, max(1, 64 // block_len)
    data = blocks(random, rows * per_row, size, HALVES[qtype])
    if qtype == T.MXFP4:
        # Both subnormal exponents and ordinary ones.
        data[:, 0] = np.resize(np.array([0, 1, 118, 127], dtype=np.uint8), len(data))
    if qtype == T.NVFP4:
        data[:, :4] = np.array([[0, 3, 0x38, 0x7E], [0x41, 0x08, 0x07, 0x2B]], dtype=np.uint8)
    return data.reshape(rows, per_row * size)


def generate(out, _args):
    folder = out / "core" / "gguf_blocks"
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(20)
    writer = gguf.GGUFWriter(folder / "blocks.gguf", "test")
    golden = {}

    writer.add_uint8("scalar.u8", 200)
    writer.add_int8("scalar.i8", -100)
    writer.add_uint16("scalar.u16", 60000)
    writer.add_int16("scalar.i16", -30000)
    writer.add_uint32("scalar.u32", 4000000000)
    writer.add_int32("scalar.i32", -2000000000)
    writer.add_uint64("scalar.u64", 1 << 63)
    writer.add_int64("scalar.i64", -(1 << 62))
    writer.add_float32("scalar.f32", 1e-5)
    writer.add_float64("scalar.f64", 0.1)
    writer.add_bool("scalar.bool", True)
    writer.add_string("scalar.string", "grüße, 世界")
    writer.add_array("array.i32", [3, -1, 2])
    writer.add_array("array.f32", [0.5, -1.5])
    writer.add_array("array.bool", [True, False, True])
    writer.add_array("array.string", ["a", "", "Ġb"])
    writer.add_array("array.nested", [[1, 2], [3]])

    for qtype, dtype in PLAIN.items():
        if np.issubdtype(dtype, np.floating):
            values = random.normal(0, 1, (2, 3)).astype(dtype)
        else:
            info = np.iinfo(dtype)
            values = random.integers(info.min, info.max, (2, 3), dtype=dtype)
        writer.add_tensor(qtype.name, values)
        golden[qtype.name] = values.astype(np.float32)
    for qtype in [T.BF16]:
        values = random.normal(0, 1, (2, 3)).astype(np.float32)
        raw = gguf.quants.quantize(values, qtype)
        writer.add_tensor(qtype.name, raw, raw_dtype=qtype)
        golden[qtype.name] = gguf.quants.dequantize(raw, qtype)
    for qtype in HALVES:
        raw = quantised(random, qtype)
        writer.add_tensor(qtype.name, raw, raw_dtype=qtype)
        golden[qtype.name] = gguf.quants.dequantize(raw, qtype)

    raw = random.integers(0, 256, (1, 292), dtype=np.uint8)
    raw[:, :4] = np.array([0.0123], dtype=np.float32).view(np.uint8)
    writer.add_tensor("Q8_K", raw, raw_dtype=T.Q8_K)
    golden["Q8_K"] = np.float32(0.0123) * raw[:, 4:260].view(np.int8).astype(np.float32)

    raw = blocks(random, 2, 36, [0, 2])
    golden["Q8_1.blocks"] = raw
    scales = raw[:, :2].copy().view(np.float16).astype(np.float32)
    golden["Q8_1"] = scales * raw[:, 4:].view(np.int8).astype(np.float32)

    # What the quantisers of the package make of ordinary weights.
    source = random.normal(0, 0.02, (3, 64)).astype(np.float32)
    source[2, :32] = 0
    golden["quantize.source"] = source
    for qtype in [T.Q4_0, T.Q4_1, T.Q8_0, T.BF16]:
        golden[f"quantize.{qtype.name}"] = gguf.quants.quantize(source, qtype)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(golden, folder / "golden.safetensors")
    common.write_note(
        folder,
        upstream=common.versions("gguf"),
        dtype="float32",
        tolerance=0.0,
        reason="decoding is one or two roundings of exact products, in the same order",
    )


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
