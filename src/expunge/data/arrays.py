"""What a caller hands over as numbers or names: tensors, numpy arrays, sequences; taken exactly, or refused."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge import _validate

__all__ = ["Names", "Numbers", "as_tensor", "names_in", "narrow", "numbers", "wholes"]

Numbers: TypeAlias = Tensor | NDArray[Any]
Names: TypeAlias = Sequence[str] | NDArray[np.str_]

_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *_WHOLE)
_NARROW = (torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.int8, torch.int16)
_LARGEST = 2**53  # float64 holds every whole number up to here


def numbers(name: str, value: object, dim: int) -> Tensor:
    """Real numbers as a tensor of `dim` axes, in float64, exactly; it may share memory with `value`.

    Raises:
        TypeError: neither a tensor nor a numpy array, or of a type that float64 does not hold exactly.
        ValueError: another number of axes, or whole numbers beyond 2^53.
    """
    given = as_tensor(name, value)
    if given.dtype not in _REAL:
        raise TypeError(f"{name} must hold real numbers that float64 holds exactly, not {given.dtype}")
    if given.dim() != dim:
        raise ValueError(f"{name} must have {dim} axes, not shape {tuple(given.shape)}")
    if given.dtype == torch.int64 and given.numel() and not _within(given):
        raise ValueError(f"{name} holds whole numbers beyond 2^53, which float64 does not hold exactly")
    return given.to(torch.float64)


def narrow(name: str, value: object, dim: int) -> Tensor:
    """As `numbers`, but in float32 where the type of `value` is one of which float32 holds every number."""
    given = as_tensor(name, value)
    return given.to(torch.float32) if given.dtype in _NARROW and given.dim() == dim else numbers(name, value, dim)


def wholes(name: str, value: object, what: str = "whole numbers") -> Tensor:
    """Whole numbers as a tensor of one axis, int64.

    Raises:
        TypeError: neither a tensor nor a numpy array, or of another type.
        ValueError: another number of axes.
    """
    given = as_tensor(name, value)
    if given.dtype not in _WHOLE:
        raise TypeError(f"{name} must hold {what}, not {given.dtype}")
    if given.dim() != 1:
        raise ValueError(f"{name} must hold one entry for each row, shape (n,), not shape {tuple(given.shape)}")
    return given.to(torch.int64)


def names_in(ids: object) -> list[str]:
    """Ids as a list of plain texts.

    Raises:
        TypeError: a single text, no collection, or an id that is no text.
    """
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"ids must be a sequence of texts, not the single text {_validate.shown(ids)}")
    if not isinstance(ids, Iterable) or (isinstance(ids, np.ndarray) and ids.ndim != 1):
        raise TypeError(f"ids must be a sequence of texts of one axis, not {type(ids).__name__}")
    names = list(cast("Iterable[object]", ids))
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"ids must be texts, not {_validate.shown(name)} of type {type(name).__name__}")
    return [str(name) for name in names]


def as_tensor(name: str, value: object) -> Tensor:
    """A tensor as it is, without its graph; a numpy array of numbers as a tensor, which shares memory where it can.

    Raises:
        TypeError: something else, or numbers that no tensor holds exactly.
        ValueError: unsigned whole numbers beyond 2^53.
    """
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: fill it, or leave the rows out")
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a tensor or a numpy array, not {type(value).__name__}")
    return _of_numpy(name, cast("NDArray[Any]", value))


def _of_numpy(name: str, array: NDArray[Any]) -> Tensor:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fiu" or size > 8:
        raise TypeError(f"{name} must hold real numbers that float64 holds exactly, not {array.dtype}")
    if kind == "u" and size > 1:  # torch has hardly any arithmetic for these
        if array.size and int(array.max()) > _LARGEST:
            raise ValueError(f"{name} holds whole numbers beyond 2^53, which float64 does not hold exactly")
        array = array.astype(np.int64)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # pyright: ignore[reportUnknownMemberType]


def _within(given: Tensor) -> bool:
    return int(given.min()) >= -_LARGEST and int(given.max()) <= _LARGEST
