"""Rows in blocks of one size, corrected, in float64: from memory or from a stream that is read again at every pass.

The blocks depend on the order of the rows alone, so a stream gives, bit for bit, what the same rows in memory give.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.data import Examples
from expunge.data.arrays import names_in, narrow, numbers, wholes
from expunge.errors import NonFinite
from expunge.heads.corrections import Corrections, digests
from expunge.heads.packed import Bytes, PackedDigests

__all__ = ["BLOCK", "TILE", "Block", "Blocks", "Rows", "ids_of"]

BLOCK = 2048  # rows that are read and corrected at once
TILE = 512  # rows of a block that stay in the cache between two products
LARGEST_NORM = 1e14  # of a row: sums of squares over 2^29 of them fit in the float32 of directions and factors

Chunk: TypeAlias = tuple[Any, ...]
Rows: TypeAlias = Examples | Chunk | Iterable[Chunk] | Callable[[], Iterable[Chunk]]
"""`Examples(x, y)` or `Examples(x, y, group)`; or one chunk `(x, y, ids)` or `(x, y, ids, group)`; or many of them from
something that can be iterated again and again, or from a function that opens it anew. x: shape (b, d), y and group: (b,) whole numbers; tensors
or numpy arrays."""


@dataclass(frozen=True, eq=False)
class Block:
    """Corrected rows.

    Args:
        x: shape (b, D), float64, or float32 where that holds the rows as they were given; with a last column of ones
            where there is a bias.
        y: shape (b,), int64.
        group: shape (b,), int64, -1 where unknown; or None.
    """

    x: Tensor
    y: Tensor
    group: Tensor | None

    @cached_property
    def single(self) -> Tensor:
        """The features in float32, for directions; where they were given in float64 no certified number is computed with it."""
        return self.x.float()

    @property
    def tiles(self) -> list[slice]:
        """The places of at most `TILE` rows each, in order."""
        return [slice(start, start + TILE) for start in range(0, len(self.y), TILE)]

    def cast(self, dtype: torch.dtype, place: slice = slice(None)) -> Tensor:
        """The features in `dtype`. Float64 is made anew where float32 is held: that is quicker than reading twice the bytes."""
        return self.single[place] if dtype == torch.float32 else self.x[place].to(dtype)

    @cached_property
    def norms(self) -> Tensor:
        """L2 norms of the rows, shape (b,), float64."""
        return torch.linalg.vector_norm(self.cast(torch.float64), dim=1)


class Blocks:
    """Iterate for the retained, corrected rows in blocks of `BLOCK`.

    Every pass checks that the rows are exactly those learned and not deleted; deleted ones may be absent or present.

    Args:
        rows: see `Rows`.
        corrections: which rows count, and how they changed.
        classes: labels lie below it.
        width: d, features of a row.
        bias: whether to append a column of ones.
        groups: number of groups, or 0 where no group is read.

    Raises (when iterated):
        TypeError, ValueError: types, shapes, labels, groups; unknown, repeated or missing ids.
        NonFinite: NaN or infinity in x.
    """

    def __init__(
        self, rows: Rows, corrections: Corrections, *, classes: int, width: int, bias: bool, groups: int
    ) -> None:
        self._rows, self._corrections = rows, corrections
        self._classes, self._width, self._bias, self._groups = classes, width, bias, groups
        self.in_memory = isinstance(rows, Examples)
        self._held = list(self._read()) if self.in_memory else None

    def __iter__(self) -> Iterator[Block]:
        return iter(self._held) if self._held is not None else self._read()

    def _read(self) -> Iterator[Block]:
        """Cut the corrected chunks into blocks of one size."""
        waiting: deque[Block] = deque()
        held = 0
        for part in self._corrected():
            waiting.append(part)
            held += len(part.y)
            while held >= BLOCK:
                yield _take(waiting, BLOCK)
                held -= BLOCK
        if held:
            yield _take(waiting, held)

    def _corrected(self) -> Iterator[Block]:
        known = self._corrections
        seen = np.zeros(known.learned.room, dtype=bool)
        for x, y, ids, group in _chunks(self._rows):
            x, y, group = self._checked(x, y, ids, group)
            names = digests(ids, known.key)
            places = known.learned.places(names)
            if bool((places < 0).any()):
                raise ValueError(f"rows hold the id {ids[int(places.argmin())]!r}, which this head never learned")
            kept = np.flatnonzero(~known.removed.found(names))
            places = places[kept]
            if bool(seen[places].any()) or len(np.unique(places)) < len(places):
                raise ValueError("rows hold an id twice")
            seen[places] = True
            if len(kept):
                yield self._changed(x, y, group, names, kept)
        if (found := int(np.count_nonzero(seen))) != known.retained:
            raise ValueError(f"rows lack {known.retained - found} of the {known.retained} rows that are retained")

    def _changed(self, x: Tensor, y: Tensor, group: Tensor | None, names: Bytes, kept: NDArray[np.intp]) -> Block:
        known = self._corrections
        where = torch.from_numpy(kept)
        given, x = x, torch.ones(len(kept), self._width + int(self._bias), dtype=x.dtype)
        x[:, : self._width] = given if len(kept) == len(given) else given[where]
        y = y[where].long()
        if known.columns:
            x[:, sorted(known.columns)] = 0.0
        if known.cells or known.labels:
            for row, k in enumerate(kept):
                name = names[k].tobytes()
                if name in known.cells:
                    x[row, sorted(known.cells[name])] = 0.0
                if name in known.labels:
                    y[row] = known.labels[name]
        return Block(x, y, None if group is None else group[where].long())

    def _checked(self, x: object, y: object, ids: list[str], group: object) -> tuple[Tensor, Tensor, Tensor | None]:
        x, y = narrow("x", x, 2).cpu(), wholes("y", y).cpu()
        if x.shape[1] != self._width:
            raise ValueError(f"x must have {self._width} features, not {x.shape[1]}")
        if len(x) != len(ids) or len(y) != len(ids):
            raise ValueError(f"x, y and ids must have one length, not {len(x)}, {len(y)} and {len(ids)}")
        _small(x)
        _within("y must hold labels", y, 0, self._classes)
        if not self._groups:
            return x, y, None
        if group is None:
            raise ValueError("the fairness penalty needs groups: Examples(x, y, group), or chunks (x, y, ids, group)")
        group = wholes("group", group).cpu()
        if len(group) != len(y):
            raise ValueError(f"group must have one entry for each row, {len(y)}, not {len(group)}")
        _within("group must hold whole numbers", group, -1, self._groups)
        return x, y, group


def ids_of(rows: Rows, *, key: bytes) -> tuple[PackedDigests, int]:
    """Digests of all ids, and the number of features d, from one pass.

    Raises:
        TypeError, ValueError: rows of the wrong type or shape, none at all, or an id twice.
    """
    found, width = list[Bytes](), 0
    for x, _, ids, _ in _chunks(rows):
        width = numbers("x", x, 2).shape[1]
        found.append(digests(ids, key))
    if not sum(map(len, found)) or not width:
        raise ValueError("rows must hold at least one row and one feature")
    learned = PackedDigests.of(np.concatenate(found))
    if learned.repeated:
        raise ValueError("rows hold an id twice")
    return learned, width


def _chunks(rows: Rows) -> Iterator[tuple[Any, Any, list[str], Any]]:
    if isinstance(rows, Examples):
        if len(rows.tensors) not in (2, 3):
            raise ValueError(f"rows must be Examples(x, y) or Examples(x, y, group), not {len(rows.tensors)} tensors")
        for tensor in rows.tensors:
            if len(tensor) != len(rows.ids):
                raise ValueError("rows must name every example")
        start = 0
        for parts in rows.chunks(BLOCK):
            ids = rows.ids[start : start + len(parts[0])]
            start += len(ids)
            yield parts[0], parts[1], ids, parts[2] if len(parts) > 2 else None
        return
    source: object = rows() if callable(rows) else [rows] if _is_chunk(rows) else rows
    if not isinstance(source, Iterable) or isinstance(source, (str, bytes, Tensor)):
        raise TypeError(f"rows must be Examples or chunks (x, y, ids), not {type(source).__name__}")
    if not callable(rows) and isinstance(source, Iterator):
        raise TypeError("rows can be read once only; pass a function that opens them anew, e.g. lambda: chunks(path)")
    for chunk in cast("Iterable[object]", source):
        if not isinstance(chunk, tuple) or len(cast("Chunk", chunk)) not in (3, 4):
            raise TypeError("a chunk of rows must be (x, y, ids) or (x, y, ids, group)")
        x, y, ids, *group = cast("Chunk", chunk)
        yield x, y, names_in(ids), group[0] if group else None


def _is_chunk(rows: object) -> bool:
    """Whether these are arrays of one chunk, and not chunks."""
    return isinstance(rows, tuple) and bool(rows) and isinstance(cast("Chunk", rows)[0], (Tensor, np.ndarray))


def _small(x: Tensor) -> None:
    """Refuse rows that are not finite or too long. Norms in the type of x, which is quicker, settle all but close cases."""
    if not len(x) or float(torch.linalg.vector_norm(x, dim=1).max()) < 0.99 * LARGEST_NORM:
        return
    if not bool(torch.isfinite(x).all()):
        raise NonFinite("x holds NaN or infinity")
    norm = float(torch.linalg.vector_norm(x.double(), dim=1).max())
    if not norm < LARGEST_NORM:
        raise ValueError(
            f"a row of x has norm {norm:g}: scale the features so that all norms lie below {LARGEST_NORM:g}, by a number "
            "chosen without the rows that may be forgotten"
        )


def _within(what: str, value: Tensor, least: int, above: int) -> None:
    wrong = (value.long() < least) | (value.long() >= above)
    if bool(wrong.any()):
        raise ValueError(f"{what} from {least} to {above - 1}, not {int(value[wrong][0])}")


def _take(waiting: deque[Block], size: int) -> Block:
    """The first `size` rows that wait, as one block of their own memory."""
    parts: list[Block] = []
    missing = size
    while missing:
        part = waiting.popleft()
        if len(part.y) > missing:
            rest = Block(part.x[missing:], part.y[missing:], None if part.group is None else part.group[missing:])
            waiting.appendleft(rest)
            part = Block(part.x[:missing], part.y[:missing], None if part.group is None else part.group[:missing])
        parts.append(part)
        missing -= len(part.y)
    if len(parts) == 1 and parts[0].x.untyped_storage().nbytes() == parts[0].x.nbytes:
        return parts[0]
    groups = [part.group for part in parts if part.group is not None]
    return Block(
        torch.cat([p.x for p in parts]), torch.cat([p.y for p in parts]), torch.cat(groups) if groups else None
    )  # fmt: skip
