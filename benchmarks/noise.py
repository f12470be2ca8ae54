"""What a normal number costs: AES-256 in counter mode beside torch's and numpy's generators and beside the memory.

    python benchmarks/noise.py --size 11000000 --json benchmarks/results/noise.json

All are timed in one run, in turns; the best of the turns counts, as other processes only ever add. On a busy machine (see
"load" in the result) compare the lines with one another.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import expunge
from expunge.randomness.gaussian import each_slice
from expunge.randomness.stream import fill
from expunge.training.noise import Noise


def tasks(size: int) -> dict[str, Callable[[], object]]:
    """Each makes or adds `size` numbers."""
    single, double = torch.zeros(size), torch.zeros(size, dtype=torch.float64)
    threads = torch.get_num_threads()
    rng = np.random.default_rng(0)
    raw, zeros = bytearray(16 * 16384 + 15), memoryview(bytes(16 * 16384))
    adding, noise = Noise(0.1, None), Noise(0.1, None)

    def words() -> None:
        for first in range(0, size // 2, 16384):
            fill(bytes(32), first, 16384, raw, zeros)

    return {
        "AES words alone, one thread": words,
        "normals, float64, not stored": lambda: each_slice(bytes(32), 0, size, lambda *_: None, threads=threads),
        "Noise.add_, float32 weights": lambda: adding.add_(single),
        "Noise.add_, float64 weights": lambda: noise.add_(double),
        "Noise.add_, float64 weights, onto the grid": lambda: noise.add_(double.zero_(), released=True),
        "torch normal_, float32": lambda: single.normal_(),
        "torch normal_, float64": lambda: double.normal_(),
        "numpy standard_normal, float64, one thread": lambda: rng.standard_normal(size),
        "float64 += float64, the memory": lambda: double.add_(double),
    }


def measured(size: int, turns: int) -> dict[str, float]:
    """Nanoseconds a number."""
    best: dict[str, float] = {}
    for _ in range(turns):
        for name, task in tasks(size).items():
            begun = time.perf_counter()
            task()
            best[name] = min(best.get(name, float("inf")), (time.perf_counter() - begun) / size * 1e9)
    return best


def main() -> None:
    """Print and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=11_000_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "size": options.size, "turns": options.turns, "unit": "ns a number", "threads": {},
        "environment": {
            "expunge": expunge.__version__, "torch": torch.__version__, "numpy": np.__version__,
            "cryptography": version("cryptography"), "python": platform.python_version(),
            "machine": platform.machine(), "cores": os.cpu_count(), "load": [round(load, 1) for load in os.getloadavg()],
        },
    }  # fmt: skip
    for threads in sorted({1, os.cpu_count() or 1}):
        torch.set_num_threads(threads)
        found = measured(options.size, options.turns)
        result["threads"][str(threads)] = found
        for name, nanoseconds in found.items():
            print(f"{threads} threads  {nanoseconds:7.2f} ns  {name}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
