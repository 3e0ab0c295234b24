"""Seconds from starting `generate` on prose-5m to its first text on the screen.

    python startup.py [--ours target/release/mlx-lm] [--runs 5]

Runs the Python peer, and ours where the binary is given, in turns; prints each median.
The first run of each warms the file cache and is not counted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODEL = Path(__file__).resolve().parent.parent / "fixtures" / "prose-5m"
PROMPT = "The rain could not"
RULE = b"=========="


def first_text(command):
    """Seconds until `command` has written text to stdout; a leading rule is not text."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen, elapsed = b"", None
    while elapsed is None:
        block = os.read(process.stdout.fileno(), 4096)
        if not block:
            break
        seen += block
        if seen.removeprefix(RULE).strip():
            elapsed = time.perf_counter() - began
    _, errors = process.communicate()
    if process.returncode or elapsed is None:
        sys.exit(f"{command} failed: {errors.decode(errors='replace')[-400:]}")
    return elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", type=Path, help="the mlx-lm binary to compare with")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    shared = ["--model", str(MODEL), "--prompt", PROMPT, "--max-tokens", "16", "--temp", "0"]
    commands = {"Python mlx-lm": [sys.executable, "-m", "mlx_lm", "generate", *shared]}
    if args.ours:
        commands["mlx-lm (Rust)"] = [str(args.ours.resolve()), "generate", *shared]
    times = {name: [] for name in commands}
    for run in range(args.runs + 1):
        for name, command in commands.items():
            elapsed = first_text(command)
            if run:
                times[name].append(elapsed)
    for name, found in times.items():
        print(f"{name:15} {statistics.median(found):.3f} s to the first text, {min(found):.3f} to {max(found):.3f} over {len(found)} runs")


main()
