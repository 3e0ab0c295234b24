"""The digits of scikit-learn: 1,797 images of 8 x 8 pixels from 0 to 16, and what they show.

From the UCI repository's "Optical Recognition of Handwritten Digits" (1998), as the Python
package scikit-learn carries it; the package is fetched through pip and not installed. Its version is
pinned, and the table's digest: the wheels differ between machines, the table does not.
"""

import gzip
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import common
import mlx.core as mx
import numpy as np

PACKAGE, VERSION = "scikit-learn", "1.9.1"
DIGEST = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"
TABLE = "sklearn/datasets/data/digits.csv.gz"


def generate(out, args):
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch, f"{PACKAGE}=={VERSION}"]
        subprocess.run(command, check=True)
        wheel = next(Path(scratch).glob("*.whl"))
        with zipfile.ZipFile(wheel) as package:
            text = gzip.decompress(package.read(TABLE))
    digest = hashlib.sha256(text).hexdigest()
    assert digest == DIGEST, f"{TABLE} of {PACKAGE} {VERSION} has the digest {digest}"
    text = text.decode("ascii")
    table = np.array([[int(float(cell)) for cell in line.split(",")] for line in text.split()], dtype=np.uint8)
    assert table.shape == (1797, 65), table.shape
    folder = out / "digits"
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"images": mx.array(table[:, :64].reshape(-1, 8, 8)), "labels": mx.array(table[:, 64])}
    mx.save_safetensors(str(folder / "digits.safetensors"), arrays)
    common.write_note(folder, upstream={PACKAGE: VERSION}, dtype="uint8", tolerance=0.0, reason="copied", sha256=DIGEST)


if __name__ == "__main__":
    common.run(__doc__.splitlines()[0], generate)
