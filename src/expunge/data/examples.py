"""Examples held as tensors, with a name for each, and their parts by index or mask."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from expunge import _validate
from expunge.commitments import labels, texts
from expunge.data.arrays import as_tensor

__all__ = ["Examples", "as_examples", "split"]

Array = NDArray[Any]


class Examples:
    """Aligned tensors whose first axis counts examples, e.g. `Examples(x, y)`; batches are tuples of tensors.

    Args:
        tensors: of the same length, on one device; numpy arrays are taken as tensors of the same numbers.
        ids: a stable name for each example, no two alike; whole numbers become their decimal digits. By default its
            position, which is no name: another set of examples has the same positions.
        groups: whose each example is, e.g. the patient's number: a text or whole number for each, of which several may
            be equal, for `Request.groups`; optional.

    Attributes:
        named: whether ids were given.

    Raises:
        ValueError: no tensor, no example, unequal lengths, or an id given twice.
        TypeError: no tensors, sparse ones, or ids that are neither texts nor whole numbers, or a set.
    """

    def __init__(
        self,
        *tensors: Tensor | Array,
        ids: Iterable[str | int] | None = None,
        groups: Iterable[str | int] | None = None,
    ) -> None:
        self.tensors = tuple(_tensor(t) for t in tensors)
        if not tensors:
            raise TypeError("Examples takes tensors whose first axis counts examples, e.g. Examples(x, y)")
        lengths = [len(t) for t in self.tensors]
        if len(set(lengths)) > 1:
            raise ValueError(f"tensors must have the same length, not {lengths}")
        if lengths[0] == 0:
            raise ValueError("the set of examples is empty")
        for name, given in (("ids", ids), ("groups", groups)):
            if isinstance(given, (set, frozenset)):
                raise TypeError(f"{name} must be in the order of the rows, and a set has none: give a list")
        self.named = ids is not None
        self.ids = texts(ids) if ids is not None else [str(i) for i in range(lengths[0])]
        if len(self.ids) != lengths[0]:
            raise ValueError(f"ids must name every example: {len(self.ids)} ids for {lengths[0]} examples")
        self.groups = None if groups is None else labels(groups, name="groups")
        if self.groups is not None and len(self.groups) != lengths[0]:
            raise ValueError(
                f"groups must name the owner of every example: {len(self.groups)} for {lengths[0]} examples"
            )

    def __len__(self) -> int:
        return len(self.tensors[0])

    def take(self, index: Tensor | Array | Sequence[int] | Sequence[bool]) -> "Examples":
        """The examples at `index`, with their ids.

        Args:
            index: distinct positions from 0, or a mask of one bool for each example.

        Raises:
            TypeError: neither whole numbers nor bools.
            ValueError: a mask of another length, a position that is out of range or given twice, or none at all.
        """
        where = torch.from_numpy(_positions(index, len(self)))
        tensors = [t[where.to(t.device)] for t in self.tensors]
        taken = where.tolist()
        groups = None if self.groups is None else [self.groups[i] for i in taken]
        return self._like(tensors, [self.ids[i] for i in taken], groups)

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples on another device."""
        return self._like([t.to(device) for t in self.tensors], self.ids, self.groups)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """All examples once, in order."""
        _validate.whole(size=size)
        yield from zip(*(t.split(size) for t in self.tensors), strict=True)

    def _like(self, tensors: Sequence[Tensor], ids: list[str], groups: list[str] | None) -> "Examples":
        made = Examples(*tensors, groups=groups)
        made.ids, made.named = list(ids), self.named
        return made


def as_examples(source: Any) -> Examples | None:
    """`source` as `Examples`, or None where it makes batches of its own.

    Raises:
        TypeError: no data; an iterator, which is used up by its first pass; or a list of arrays, which may be meant in three ways.
    """
    if isinstance(source, Examples):
        return source
    if isinstance(source, TensorDataset):
        return Examples(*source.tensors)
    if (
        isinstance(source, (tuple, list))
        and source
        and all(isinstance(t, (Tensor, np.ndarray)) for t in cast("list[Any]", source))
    ):
        if isinstance(source, list):
            raise TypeError(
                "a list of arrays may be meant as rows, as batches or as columns: give Examples(torch.stack(rows)) for rows, "
                "Examples(torch.cat(batches)) for batches, and a tuple (x, y) for columns"
            )
        return Examples(*cast("tuple[Tensor, ...]", source))
    if isinstance(source, Iterator):
        raise TypeError(
            f"data must be iterated again and again, and a {type(source).__name__} can be read only once: "
            "pass Examples(x, y), a DataLoader, or an object that opens its batches anew"
        )
    if source is None or isinstance(source, (str, bytes, Tensor, np.ndarray, dict)) or not isinstance(source, Iterable):
        raise TypeError(f"data must be Examples, tensors (x, y), or a loader of batches, not {type(source).__name__}")
    return None


def split(examples: Examples, sizes: Sequence[int], *, generator: torch.Generator) -> list[Examples]:
    """Disjoint random parts of the given sizes; what is left over is the last part."""
    for size in sizes:
        _validate.whole(size=size)
    if sum(sizes) >= len(examples):
        raise ValueError(f"sizes {list(sizes)} leave nothing of {len(examples)} examples")
    order = torch.randperm(len(examples), generator=generator)
    return [examples.take(part) for part in order.split([*sizes, len(examples) - sum(sizes)])]


def _tensor(value: Any) -> Tensor:
    if isinstance(value, np.ndarray):
        array = cast("Array", value)
        value = torch.from_numpy(array.copy()) if array.dtype == np.bool_ else as_tensor("Examples", array)
    if not isinstance(value, Tensor) or value.dim() == 0:
        raise TypeError(
            f"Examples takes tensors whose first axis counts examples, e.g. Examples(x, y), not {type(value).__name__}"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"Examples takes dense tensors, not {value.layout}: give tensor.to_dense()")
    return value


def _is_bool(value: object) -> bool:
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool)


def _positions(index: object, size: int) -> NDArray[np.int64]:
    """Positions from 0, from positions or a mask."""
    if isinstance(index, (list, tuple)) and len({_is_bool(i) for i in cast("Sequence[object]", index)}) > 1:
        raise TypeError(
            "index holds both bools and numbers: give positions alone, or a mask of one bool for each example"
        )
    found = np.asarray(index.detach().cpu() if isinstance(index, Tensor) else index)
    if found.size == 0:
        raise ValueError("index names no example")
    if found.ndim != 1 or found.dtype.kind not in "biu":
        raise TypeError(
            f"index must be positions or a mask of bools, one axis, not {found.dtype} of shape {found.shape}"
        )
    if found.dtype.kind == "b":
        if len(found) != size:
            raise ValueError(f"a mask must have one bool for each example: {len(found)} for {size} examples")
        if not found.any():
            raise ValueError("the mask takes no example: the set would be empty")
        return np.flatnonzero(found).astype(np.int64)
    places = found.astype(np.int64)
    if wrong := [int(i) for i in places if not 0 <= i < size][:1]:
        raise ValueError(f"index must hold positions from 0 to {size - 1}, not {wrong[0]}")
    values, counts = np.unique(places, return_counts=True)
    if len(values) < len(places):
        twice = int(values[counts > 1][0])
        raise ValueError(f"index takes example {twice} twice; a mask must hold bools, e.g. y != 2")
    return places
