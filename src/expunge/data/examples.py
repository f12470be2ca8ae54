"""Examples held as tensors, by position or by name, with an id for each, and their parts by index or mask."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from expunge import _validate
from expunge.certificate.commitments import labels, texts
from expunge.data.arrays import as_tensor
from expunge.data.datasets import read

__all__ = ["Batch", "Examples", "as_examples", "split"]

Array = NDArray[Any]
Batch: TypeAlias = tuple[Tensor, ...] | dict[str, Tensor]
"""Some examples: tensors by position, or by the names of their fields."""

_RESERVED = ("ids", "groups")


class Examples:
    """Aligned tensors whose first axis counts examples: `Examples(x, y)`, or `Examples(input_ids=..., labels=...)`.

    Batches of the first are tuples of tensors, batches of the second are dicts of tensors.

    Args:
        tensors: of the same length, on one device; numpy arrays are taken as tensors of the same numbers.
        ids: a stable name for each example, no two alike; whole numbers become their decimal digits. By default its
            position, which is no name: another set of examples has the same positions.
        groups: whose each example is, e.g. the patient's number: a text or whole number for each, of which several may
            be equal, for `Request.groups`; optional.
        fields: the same as `tensors`, by name, in the place of them.

    Attributes:
        values: every tensor, in order; fields in the order of their names.
        fields: the names of `values`, sorted; empty where tensors have positions.
        ids: a text for each example.
        named: whether ids were given.
        groups: the owner of each example, or None.

    Raises:
        ValueError: no tensor, no example, unequal lengths, or an id given twice.
        TypeError: no tensors, sparse ones, some by position and others by name, or ids that are neither texts nor whole
            numbers, or a set.

    >>> rows = Examples(x=torch.zeros(3, 2), labels=torch.tensor([0, 1, 1]), ids=["a", "b", "c"])
    >>> [tuple(batch) for batch in rows.chunks(2)]
    [('labels', 'x'), ('labels', 'x')]
    """

    def __init__(
        self,
        *tensors: Tensor | Array,
        ids: Iterable[str | int] | None = None,
        groups: Iterable[str | int] | None = None,
        **fields: Tensor | Array,
    ) -> None:
        if not tensors and not fields:
            raise TypeError(
                "Examples takes tensors whose first axis counts examples, e.g. Examples(x, y) or Examples(x=..., labels=...)"
            )
        if tensors and fields:
            raise TypeError(
                f"Examples takes tensors by position or by name, not both: {len(tensors)} by position, and {', '.join(fields)}"
            )
        self.fields = tuple(sorted(fields))
        given = [fields[name] for name in self.fields] if fields else list(tensors)
        self.values = tuple(
            _tensor(value, f"Examples: {name}" if name else "Examples")
            for name, value in zip(self.fields or [""] * len(given), given, strict=True)
        )
        lengths = [len(t) for t in self.values]
        if len(set(lengths)) > 1:
            told = dict(zip(self.fields, lengths, strict=True)) if fields else lengths
            raise ValueError(f"tensors must have the same length, not {told}")
        if lengths[0] == 0:
            raise ValueError("the set of examples is empty")
        for name, held in (("ids", ids), ("groups", groups)):
            if isinstance(held, (set, frozenset)):
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

    @classmethod
    def of(
        cls, dataset: Any, *, ids: Iterable[str | int] | None = None, groups: Iterable[str | int] | None = None
    ) -> "Examples":
        """The items of a dataset, read once, as tensors.

        Items that are mappings become fields by name, others tensors by position. What a dataset draws anew at each
        reading (random crops) is drawn once here, and stays.

        Args:
            dataset: a `torch.utils.data.Dataset`, or anything with a length and items: each a tensor, numpy array or
                number, or a tuple, list or mapping of them, and all of one shape.
            ids: a name for each item, in their order, as for `Examples`.
            groups: the owner of each item, likewise.

        Raises:
            ValueError: items of unequal shapes, fields or types; no item.
            TypeError: no length, or items that hold something else.
        """
        found = read(dataset)
        if isinstance(found, dict):
            _refuse_reserved(found)
            return cls(ids=ids, groups=groups, **found)
        return cls(*found, ids=ids, groups=groups)

    @classmethod
    def join(cls, parts: Iterable["Examples"]) -> "Examples":
        """All examples of several sets, in order; `first + second` joins two.

        Sets without ids have positions anew; owners are known where every set names them.

        Raises:
            ValueError: no set, an id in two of them, or fields, types or shapes of rows that differ.
            TypeError: something else than `Examples`.
        """
        held = list(parts)
        if not held:
            raise ValueError("there are no examples to join")
        first = held[0]
        for other in held:
            if not isinstance(other, Examples):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"only Examples can be joined, not {type(other).__name__}")
            _refuse_unlike(first, other)
        values = [torch.cat(column) for column in zip(*(part.values for part in held), strict=True)]
        ids = [name for part in held for name in part.ids] if first.named else None
        owners = [part.groups for part in held]
        groups = None if None in owners else [owner for part in owners for owner in part or ()]
        return _made(first.fields, values, ids, groups)

    def __add__(self, other: "Examples") -> "Examples":
        return Examples.join([self, other]) if isinstance(other, Examples) else NotImplemented  # pyright: ignore

    def __len__(self) -> int:
        return len(self.values[0])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, where they have positions, e.g. (x, y).

        Raises:
            TypeError: they have names: a tensor's place among them would tell nothing. See `values` and `fields`.
        """
        if self.fields:
            raise TypeError(f"Examples(x, y) with tensors by position are needed here, not fields {list(self.fields)}")
        return self.values

    def batch(self, rows: Tensor | slice) -> Batch:
        """The rows at these positions, or in this slice, as a batch."""
        return _batch(self.fields, (_at(t, rows) for t in self.values))

    def take(self, index: Tensor | Array | Sequence[int] | Sequence[bool]) -> "Examples":
        """The examples at `index`, with their ids and owners.

        Args:
            index: distinct positions from 0, or a mask of one bool for each example.

        Raises:
            TypeError: neither whole numbers nor bools.
            ValueError: a mask of another length, a position that is out of range or given twice, or none at all.
        """
        where = torch.from_numpy(_positions(index, len(self)))
        taken = where.tolist()
        groups = None if self.groups is None else [self.groups[i] for i in taken]
        return self._like([t[where.to(t.device)] for t in self.values], [self.ids[i] for i in taken], groups)

    def to(self, device: torch.device | str) -> "Examples":
        """The same examples on another device."""
        return self._like([t.to(device) for t in self.values], self.ids, self.groups)

    def renamed(self, ids: Iterable[str | int]) -> "Examples":
        """The same examples under these ids."""
        return _made(self.fields, self.values, ids, self.groups)

    def chunks(self, size: int) -> Iterator[Any]:
        """All examples once, in order, in batches: tuples of tensors, or dicts where tensors have names."""
        _validate.whole(size=size)
        for parts in zip(*(t.split(size) for t in self.values), strict=True):
            yield _batch(self.fields, parts)

    def _like(self, values: Sequence[Tensor], ids: list[str], groups: list[str] | None) -> "Examples":
        made = _made(self.fields, values, None, groups)
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
    if type(source).__module__.partition(".")[0] == "datasets":
        raise TypeError(
            f"data must be Examples, not a datasets.{type(source).__name__}, whose rows are texts and lists: make them with "
            "ex.hf.examples(dataset, tokenizer, ...), or Examples.of(dataset) where every column holds numbers of one shape"
        )
    if isinstance(source, Mapping) and source:
        columns = cast("Mapping[Any, Any]", source)
        if all(isinstance(k, str) and isinstance(t, (Tensor, np.ndarray)) for k, t in columns.items()):
            _refuse_reserved(columns)
            return Examples(**columns)
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
    if (
        source is None
        or isinstance(source, (str, bytes, Tensor, np.ndarray, Mapping))
        or not isinstance(source, Iterable)
    ):
        raise TypeError(
            f"data must be Examples, tensors (x, y) or {{name: tensor}}, or a loader of batches, not {type(source).__name__}"
        )
    return None


def split(examples: Examples, sizes: Sequence[int], *, generator: torch.Generator) -> list[Examples]:
    """Disjoint random parts of the given sizes; what is left over is the last part."""
    for size in sizes:
        _validate.whole(size=size)
    if sum(sizes) >= len(examples):
        raise ValueError(f"sizes {list(sizes)} leave nothing of {len(examples)} examples")
    order = torch.randperm(len(examples), generator=generator)
    return [examples.take(part) for part in order.split([*sizes, len(examples) - sum(sizes)])]


def _batch(fields: tuple[str, ...], values: Iterable[Tensor]) -> Batch:
    return dict(zip(fields, values, strict=True)) if fields else tuple(values)


def _at(values: Tensor, rows: Tensor | slice) -> Tensor:
    """The rows at these positions; one position a row by the kernel that copies rows whole, several times as fast."""
    if isinstance(rows, slice):
        return values[rows]
    places = rows.to(values.device)
    return values.index_select(0, places) if places.ndim == 1 and places.dtype == torch.int64 else values[places]


def _made(
    fields: tuple[str, ...], values: Sequence[Tensor], ids: Iterable[str | int] | None, groups: list[str] | None
) -> Examples:
    named = dict(zip(fields, values, strict=True)) if fields else {}
    return Examples(*(() if fields else values), ids=ids, groups=groups, **named)


def _refuse_reserved(names: Iterable[str]) -> None:
    if wrong := [name for name in _RESERVED if name in names]:
        raise TypeError(f"a field cannot be called {wrong[0]!r}: it is what names the rows or their owners")


def _refuse_unlike(first: Examples, other: Examples) -> None:
    """Raise unless the rows of both can lie in one set."""
    for what, one, two in (
        ("fields", first.fields or "by position", other.fields or "by position"),
        ("number of tensors", len(first.values), len(other.values)),
        ("ids", "given" if first.named else "none", "given" if other.named else "none"),
    ):
        if one != two:
            raise ValueError(f"examples can be joined where {what} are alike, not {one} and {two}")
    for k, (one, two) in enumerate(zip(first.values, other.values, strict=True)):
        if (one.dtype, one.shape[1:], one.device) != (two.dtype, two.shape[1:], two.device):
            where = first.fields[k] if first.fields else f"tensor {k}"
            raise ValueError(
                f"examples can be joined where their rows are alike, not {where} of {one.dtype}, {tuple(one.shape[1:])} on "
                f"{one.device}, and of {two.dtype}, {tuple(two.shape[1:])} on {two.device}"
            )


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, np.ndarray):
        array = cast("Array", value)
        value = torch.from_numpy(array.copy()) if array.dtype == np.bool_ else as_tensor(name, array)
    if not isinstance(value, Tensor) or value.dim() == 0:
        raise TypeError(
            f"{name} takes tensors whose first axis counts examples, e.g. Examples(x, y), not {type(value).__name__}"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"{name} takes dense tensors, not {value.layout}: give tensor.to_dense()")
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
