"""Digests of weights: of a safetensors file or a PyTorch module, whatever the order of their tensors."""

import contextlib
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Generator, Iterable, Mapping
from functools import singledispatch
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import safetensors

from expunge.certificate.folders import files_in
from expunge.errors import WeightsMismatch

__all__ = [
    "TensorInfo",
    "arrays_of",
    "digest_tensors",
    "is_digest",
    "undigested",
    "weights_digest",
    "weights_tensors",
]

_PIECE = 1 << 20  # bytes
_TYPES = {"float16": "F16", "float32": "F32", "float64": "F64"}
_METADATA = "__metadata__"
_OF_PYTORCH = {"format": "pt"}  # what `save_pretrained` writes into every file
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


def digest_tensors(tensors: Iterable[TensorInfo]) -> str:
    """SHA-256 over (name, dtype, shape, bytes) of tensors in any order."""
    total = hashlib.sha256(b"expunge.weights/1\n")
    for tensor in sorted(tensors, key=lambda tensor: tensor.name):
        shape = ",".join(map(str, tensor.shape))
        total.update(f"{len(tensor.name.encode())}:{tensor.name}|{tensor.dtype}|{shape}|{tensor.nbytes}\n".encode())
        total.update(tensor.digest)
    return f"sha256:{total.hexdigest()}"


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
    """What a safetensors file (path), a folder of `save_pretrained` or a PyTorch module holds.

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
    if os.path.isdir(weights):
        parts = files_in(weights)
        found = tuple(info._replace(name=before + info.name) for before, path in parts for info in _tensors_of(path))
        names = [info.name for info in found]
        if len(set(names)) < len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise WeightsMismatch(
                f"{os.fspath(weights)} holds {twice!r} in two files: which of them would be loaded is not told"
            )
        return found
    return _tensors_of(weights)


def _tensors_of(path: str | os.PathLike[str]) -> tuple[TensorInfo, ...]:
    with _opened(path) as file:
        header, start = _header(file)
        header.pop(_METADATA, None)
        return tuple(_streamed(file, start, name, told) for name, told in header.items())


def undigested(path: str | os.PathLike[str]) -> str | None:
    """What a safetensors file holds beside its tensors, where no digest reaches: its metadata; None where nothing."""
    for _, part in files_in(path) if os.path.isdir(path) else (("", path),):
        with _opened(part) as file:
            metadata = _header(file)[0].get(_METADATA)
        if metadata and metadata != _OF_PYTORCH:
            return f"metadata {metadata!r:.100}"
    return None


def arrays_of(path: str | os.PathLike[str], digest: str) -> dict[str, Any]:
    """The tensors of a safetensors file as numpy arrays, read once: those of a digest, and no others.

    Raises:
        WeightsMismatch: the file has another digest, cannot be read, or holds what numpy has no type for.
    """
    import numpy as np  # late: most certificates need none of it
    from safetensors.numpy import load

    try:
        content = Path(path).read_bytes()
        found: dict[str, Any] = load(content)
    except OSError as error:
        raise WeightsMismatch(f"cannot read the weights {os.fspath(path)}: {error.strerror or error}") from error
    except (safetensors.SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsMismatch(f"the weights {os.fspath(path)} cannot be read as numbers: {error}") from error
    told = [
        TensorInfo(
            name,
            _TYPES.get(array.dtype.name, "?"),
            array.shape,
            array.nbytes,
            hashlib.sha256(np.ascontiguousarray(array).data).digest(),
        )
        for name, array in found.items()
    ]
    if digest_tensors(told) != digest:
        raise WeightsMismatch(f"{os.fspath(path)} does not hold floating-point weights of the digest {digest}")
    return found


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """A safetensors file whose header the library found in order: it speaks of all bytes, each once, and of no others."""
    try:
        with open(path, "rb") as file:
            with safetensors.safe_open(path, framework="np"):  # maps the file and reads the header alone
                pass
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                raise WeightsMismatch(f"{os.fspath(path)} was replaced while it was read")
            yield file
    except safetensors.SafetensorError as error:
        raise WeightsMismatch(f"not a whole safetensors file: {error}") from error
    except OSError as error:
        raise WeightsMismatch(f"cannot read the weights {os.fspath(path)}: {error.strerror or error}") from error


def _header(file: BinaryIO) -> tuple[dict[str, dict[str, Any]], int]:
    """What a file says of its tensors, and where their bytes begin."""
    length = int.from_bytes(file.read(8), "little")
    return json.loads(file.read(length), object_pairs_hook=_each_once), 8 + length


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two readers may take different ones of two entries of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise WeightsMismatch("not a whole safetensors file: its header names something twice")
    return found


def _streamed(file: BinaryIO, start: int, name: str, told: Mapping[str, Any]) -> TensorInfo:
    """A tensor's digest, its bytes read a piece at a time: a file may be larger than the memory."""
    begin, end = told["data_offsets"]
    total, left = hashlib.sha256(), end - begin
    piece = memoryview(bytearray(min(_PIECE, left)))
    file.seek(start + begin)
    while left:
        count = file.readinto(piece[:left])  # pyright: ignore[reportAttributeAccessIssue]
        if not count:
            raise WeightsMismatch("not a whole safetensors file: it became shorter while it was read")
        total.update(piece[:count])
        left -= count
    return TensorInfo(name, told["dtype"], tuple(told["shape"]), end - begin, total.digest())
