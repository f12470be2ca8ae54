"""What a replay must have in common with the training beside its code: data and the machine."""

import os
import platform
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from expunge.data import Examples
from expunge.trace.schedule import Tags, keyed_for

__all__ = ["machine", "repeatable", "row_digests", "written_whole"]

_ROWS = 4096  # rows turned into bytes at a time


def row_digests(key: bytes, data: Examples) -> Tags:
    """A keyed digest of each record's content, 16 bytes; dtypes, shapes and names of fields count."""
    names = [f"{name}=" for name in data.fields] or [""] * len(data.values)
    forms = zip(names, data.values, strict=True)
    head = "|".join(f"{name}{t.dtype}{tuple(t.shape[1:])}" for name, t in forms).encode() + b"\0"
    digest, found = keyed_for(key, "row", head), list[bytes]()
    for start in range(0, len(data), _ROWS):
        fields = [_rows_of(t[start : start + _ROWS]) for t in data.values]
        found.extend(digest(*row)[:16] for row in zip(*fields, strict=True))
    return np.frombuffer(b"".join(found), dtype="S16")


def _rows_of(rows: Tensor) -> Iterator[memoryview]:
    """The bytes of each row, where they lie."""
    whole = rows.detach().cpu().reshape(len(rows), -1).contiguous().view(torch.uint8).numpy()
    content, size = whole.reshape(-1).data, whole.shape[1]
    return (content[row * size : (row + 1) * size] for row in range(len(rows)))


def machine(device: torch.device) -> dict[str, str]:
    """What decides the bits of a step: versions, processor, number of threads."""
    found = {
        "torch": torch.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),  # bytecode, hence code digests, follow it
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "device": device.type,
        "default_dtype": str(torch.get_default_dtype()),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": str(torch.backends.mkldnn.enabled),
        "autocast": _autocast(device),
        "flush_denormal": str(float(torch.tensor([1e-310], dtype=torch.float64) + 0.0) == 0.0),
    }
    if device.type == "cuda":
        found["device"] = f"cuda {torch.cuda.get_device_name(device)}"
        found["cublas_workspace"] = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "")
        found["tf32"] = str(torch.backends.cuda.matmul.allow_tf32)
    return found


def _autocast(device: torch.device) -> str:
    """The type that the caller's `torch.autocast` computes in, since a training may run inside of one."""
    enabled = torch.is_autocast_enabled(device.type)
    return str(torch.get_autocast_dtype(device.type)) if enabled else "none"


@contextmanager
def repeatable() -> Generator[None]:
    """Have torch refuse kernels that it knows not to repeat; what was set before comes back."""
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def written_whole() -> Generator[None]:
    """Within `repeatable`, spare the filling of fresh memory: for our own steps, which write all of what they ask for."""
    switch = torch.utils.deterministic
    before = switch.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    switch.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        switch.fill_uninitialized_memory = before  # pyright: ignore[reportAttributeAccessIssue]
