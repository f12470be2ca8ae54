"""Run the files named, or all, each in a process of its own; keep the results; write docs/performance.md and its plot."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from performance import GPU, GROUPS
from performance.page import write

RESULTS = Path(__file__).parent.parent / "results" / "performance"


def environment() -> dict[str, Any]:
    """What ran, and on what."""
    packages = ("expunge", "torch", "numpy", "scipy", "scikit-learn", "cryptography")
    return {
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "machine": platform.machine(), "cores": os.cpu_count(), "processor": _processor(), "seed": 0,
        "load": [round(load, 1) for load in os.getloadavg()],
    }  # fmt: skip


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def measure(group: str) -> None:
    """Measure one file's rows in this process, print and keep them."""
    begun = time.perf_counter()
    rows = importlib.import_module(f"performance.{group}").rows()
    if not rows:
        print(f"{group}: nothing was measured, and earlier results stay as they are", flush=True)
        return
    result = {"environment": environment(), "seconds": time.perf_counter() - begun, "rows": [r.to_dict() for r in rows]}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{group}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        peer = "" if row.peer is None else f", {row.peer_is} {row.peer:.4g}, ratio {row.ours / row.peer:.3g}"
        limit = "" if row.limit is None else f", {row.limit_is} {row.limit:.4g}"
        told = "reached" if row.reached else f"not reached, {row.judged:.3g}"
        print(f"{row.work}: {row.ours:.4g} {row.unit}{peer}{limit}; target {row.target:g} {told}", flush=True)


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "groups",
        nargs="*",
        choices=[[], *GROUPS, GPU],
        help=f"files of benchmarks/performance; by default all but {GPU}",
    )
    parser.add_argument("--here", action="store_true", help="in this process")
    options = parser.parse_args()
    if GPU in options.groups and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device here: nothing was checked")
    for group in options.groups or GROUPS:
        if options.here:
            measure(group)
        else:
            subprocess.run(
                [sys.executable, "-m", "performance", group, "--here"], check=True, cwd=Path(__file__).parent.parent
            )
    if not options.here:
        write(RESULTS, Path(__file__).parent.parent.parent / "docs")


if __name__ == "__main__":
    main()
