"""What every results file says beside its figures: what ran, and on what."""

import os
import platform
import sys
from importlib.metadata import version
from typing import Any

__all__ = ["environment"]


def environment(*packages: str) -> dict[str, Any]:
    """Versions of Python, expunge, numpy, torch where it was loaded, and `packages`; hardware, with torch's threads and device.

    A build's own suffix ("+cpu") is left out.
    """
    torch = sys.modules.get("torch")
    names = dict.fromkeys(("expunge", "numpy", *(["torch"] if torch else []), *packages))
    return {
        "versions": {"python": platform.python_version()} | {name: version(name).partition("+")[0] for name in names},
        "hardware": {
            "machine": platform.machine(), "cpus": os.cpu_count(), "load": os.getloadavg()[0],
            "threads": os.environ.get("OMP_NUM_THREADS") if torch is None else torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu",
        },
    }  # fmt: skip
