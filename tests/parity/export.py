"""A function that MLX exported from Python, for the importer, and what it computes there."""

import mlx.core as mx

import common


def function(x, scale=None):
    weight = mx.array([[1.5, -2.0], [0.25, 3.0]])
    y = mx.sigmoid(x @ weight) + mx.arange(2, dtype=mx.float32)
    return y if scale is None else y * scale


def generate(out, _args):
    folder = out / "core" / "export"
    folder.mkdir(parents=True, exist_ok=True)
    mx.set_default_device(mx.cpu)
    x = mx.array([[1.0, -0.5], [0.0, 2.0], [3.0, 1.0]])
    scale = mx.array([10.0, 0.5])
    with mx.exporter(str(folder / "function.mlxfn"), function, metadata="from Python") as exporter:
        exporter(x)
        exporter(x, scale=scale)
    f = mx.import_function(str(folder / "function.mlxfn"))
    (y,), (z,) = f(x), f(x, scale=scale)
    arrays = {"x": x, "scale": scale, "y": y, "z": z}
    mx.save_safetensors(str(folder / "golden.safetensors"), arrays)
    common.write_note(
        folder,
        upstream=common.versions("mlx"),
        dtype="float32",
        tolerance=0.0,
        reason="the same operations of the same library",
    )


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
