"""NumPy's own npy and npz files, in every dtype, order and version that readers meet."""

import io

import mlx.core as mx
import numpy as np

import common

DTYPES = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8"]


def generate(out, _args):
    folder = out / "core" / "npy"
    folder.mkdir(parents=True, exist_ok=True)
    values = np.arange(6).reshape(2, 3)
    arrays = {np.dtype(name).name: values.astype(name) for name in DTYPES}
    arrays["scalar"] = np.float32(2.5)
    arrays["empty"] = np.zeros((0, 3), np.float32)
    arrays["vector"] = np.array([1, 2, 3], np.int32)
    arrays["fortran"] = np.asfortranarray(values.astype(np.float32))
    arrays["big_endian"] = values.astype(">f4")
    arrays["big_endian_complex"] = (values + 1j).astype(">c8")
    np.savez(folder / "stored.npz", **arrays)
    np.savez_compressed(folder / "deflated.npz", **arrays)

    for version in [(1, 0), (2, 0), (3, 0)]:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, values.astype(np.float32), version=version)
        (folder / f"version{version[0]}.npy").write_bytes(buffer.getvalue())
    mx.save(str(folder / "bfloat16.npy"), mx.arange(6, dtype=mx.bfloat16).reshape(2, 3))
    common.write_note(
        folder,
        upstream=common.versions("numpy", "mlx"),
        dtype="every one",
        tolerance=0.0,
        reason="bytes are copied",
    )


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
