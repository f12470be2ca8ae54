"""Digests of weights: of a safetensors file or a PyTorch module, whatever the order of their tensors."""

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterable
from functools import singledispatch
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard, cast

import safetensors

from expunge.errors import WeightsMismatch

__all__ = [
    "TensorInfo",
    "digest_safetensors",
    "digest_tensors",
    "is_digest",
    "tensors_in",
    "undigested",
    "weights_digest",
    "weights_tensors",
]

_READER_OF_MODULES = "expunge.training.tensors"  # by name: this room imports no torch


class TensorInfo(NamedTuple):
    """One tensor of a weights file: dtype by safetensors' name, e.g. "F32", and SHA-256 of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    digest: bytes

    @property
    def size(self) -> int:
        """Coordinates."""
        return prod(self.shape)


def tensors_in(content: bytes) -> tuple[TensorInfo, ...]:
    """What a safetensors file's content holds, whatever its metadata or order.

    Raises:
        WeightsMismatch: it is no whole safetensors file.
    """
    try:
        tensors = cast("list[tuple[str, dict[str, Any]]]", safetensors.deserialize(content))
    except safetensors.SafetensorError as error:
        raise WeightsMismatch(f"not a whole safetensors file: {error}") from error
    return tuple(
        TensorInfo(name, str(t["dtype"]), tuple(t["shape"]), len(t["data"]), hashlib.sha256(bytes(t["data"])).digest())
        for name, t in tensors
    )


def digest_tensors(tensors: Iterable[TensorInfo]) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of tensors in any order."""
    total = hashlib.sha256(b"expunge.weights/1\n")
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        shape = ",".join(map(str, tensor.shape))
        total.update(f"{len(tensor.name.encode())}:{tensor.name}|{tensor.dtype}|{shape}|{tensor.nbytes}\n".encode())
        total.update(tensor.digest)
    return f"sha256:{total.hexdigest()}"


def digest_safetensors(content: bytes) -> str:
    """The weights digest of a safetensors file's content, whatever its metadata or order; raises `WeightsMismatch`."""
    return digest_tensors(tensors_in(content))


def is_digest(weights: object) -> TypeGuard[str]:
    """Whether weights are given by their digest."""
    return isinstance(weights, str) and weights.startswith("sha256:")


def weights_digest(weights: object) -> str:
    """The digest of weights: of a safetensors file (path), a PyTorch module, or a digest as it stands."""
    if is_digest(weights):
        return weights
    return digest_tensors(weights_tensors(weights))


@singledispatch
def weights_tensors(weights: object) -> tuple[TensorInfo, ...]:
    """What a safetensors file (path) or a PyTorch module holds.

    Raises:
        WeightsMismatch: the file cannot be read, or is no whole safetensors file.
        TypeError: they are neither.
    """
    if (
        sys.modules.get("torch") is not None
    ):  # whoever holds a module has it; the reader of modules registers itself here
        importlib.import_module(_READER_OF_MODULES)
        reader = weights_tensors.dispatch(type(weights))
        if reader is not weights_tensors.dispatch(object):
            return reader(weights)
    raise TypeError(
        f"weights must be a safetensors path, a digest 'sha256:...', or a torch module, not {type(weights).__name__}"
    )


@weights_tensors.register
def _(weights: str) -> tuple[TensorInfo, ...]:
    return weights_tensors(Path(weights))


@weights_tensors.register(os.PathLike)
def _(weights: "os.PathLike[str]") -> tuple[TensorInfo, ...]:
    return tensors_in(_content(weights))


def undigested(path: str | os.PathLike[str]) -> str | None:
    """What a safetensors file holds beside its tensors, where no digest reaches: its metadata; None where nothing."""
    content = _content(path)
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        header: object = json.loads(content[8:end])
    except ValueError as error:
        raise WeightsMismatch(f"not a whole safetensors file: {error}") from error
    metadata: object = cast("dict[str, object]", header).get("__metadata__") if isinstance(header, dict) else None
    return None if not metadata else f"metadata {metadata!r:.100}"


def _content(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise WeightsMismatch(f"cannot read the weights {os.fspath(path)}: {error.strerror}") from error
