"""Digests of many rows in packed arrays: 33 bytes for an id with its content, 17 for an id alone, no Python object a row."""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIGEST", "Bytes", "PackedDigests"]

DIGEST = 16  # bytes: among 10^9 rows two collide with odds below 10^-20

_HALVES = struct.Struct(">QQ")
_HALF = 8  # bytes of a digest that are searched as one number
_MANY = 1000  # digests looked up at once
_WAITING = 64  # additions that may wait for the next look
_LARGER = 8  # how many times larger each part is than the next: more parts are slow to search, fewer to add to

Bytes = NDArray[np.uint8]
_Numbers = NDArray[np.uint64]


class PackedDigests:
    """A set of digests, each with `value` bytes beside it.

    They lie sorted in a few parts, of which each is at least eight times as large as the next, so that adding a row copies
    few others. What is removed is marked, and dropped once it is an eighth of its part.

    Args:
        value: bytes kept beside each digest.
    """

    def __init__(self, value: int = 0) -> None:
        self._value = value
        self._sorted: list[_Part] = []
        self._waiting: list[Bytes] = []  # added since anything was looked up

    @property
    def _parts(self) -> "list[_Part]":
        if self._waiting:
            self._sorted.append(_Part.of(np.concatenate(self._waiting)))
            self._waiting = []
            self._settle()
        return self._sorted

    @classmethod
    def of(cls, records: Bytes, *, value: int = 0) -> "PackedDigests":
        """Of records of shape (n, 16 + value), in any order, no digest twice."""
        made = cls(value)
        made.add(records)
        return made

    def __len__(self) -> int:
        """Digests held."""
        return sum(part.held for part in self._parts)

    def __eq__(self, other: object) -> bool:
        """Whether both hold the same."""
        return isinstance(other, PackedDigests) and np.array_equal(self.records(), other.records())

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __contains__(self, name: bytes) -> bool:
        """Whether this digest is held."""
        return bool(self.found(np.frombuffer(name, dtype=np.uint8)[None])[0])

    def copy(self) -> "PackedDigests":
        """A set of its own."""
        made = PackedDigests(self._value)
        made._sorted = [_Part(part.first, part.second, part.value, part.gone.copy()) for part in self._parts]
        return made

    def places(self, names: Bytes) -> NDArray[np.intp]:
        """Where each digest, of shape (n, 16), lies: a number of its own below `room`; -1 where it is not held."""
        places = np.full(len(names), -1, dtype=np.intp)
        before = 0
        for part, at in self._looked_up(names):
            places = np.where(at >= 0, at + before, places)
            before += len(part.first)
        return places

    @property
    def room(self) -> int:
        """A bound on `places`: digests held, and those removed that still have a place."""
        return sum(len(part.first) for part in self._parts)

    def found(self, names: Bytes) -> NDArray[np.bool_]:
        """Whether each digest, of shape (n, 16), is held."""
        return self.places(names) >= 0

    def holds(self, record: Bytes) -> bool:
        """Whether a digest is held with these bytes beside it, shape (16 + value,): `values` takes longer for a single one."""
        one = _one(record)
        for part in self._parts:
            if (at := part.place(*one)) >= 0:
                return part.value[at].tobytes() == record[DIGEST:].tobytes()
        return False

    def values(self, names: Bytes) -> Bytes:
        """The bytes beside each digest, shape (n, value); zeros where it is not held."""
        values = np.zeros((len(names), self._value), dtype=np.uint8)
        for part, at in self._looked_up(names):
            there = at >= 0
            values[there] = part.value[at[there]]
        return values

    @property
    def repeated(self) -> bool:
        """Whether a digest was added twice, which is a mistake; found within one `add`."""
        return any(part.repeated for part in self._parts)

    def add(self, records: Bytes) -> None:
        """Hold records of shape (n, 16 + value), none of which is held."""
        if not len(records):
            return
        self._waiting.append(records.copy())
        if len(self._waiting) == _WAITING or len(records) > _MANY:
            _ = self._parts

    def _settle(self) -> None:
        parts = self._sorted
        while len(parts) > 1 and len(parts[-2].first) < _LARGER * len(parts[-1].first):
            last = [parts.pop().records(), parts.pop().records()]
            parts.append(_Part.of(np.concatenate(last)))

    def remove(self, names: Bytes) -> None:
        """Hold these digests, of shape (n, 16), no longer; those that are not held are passed over."""
        if len(names) == 1:
            one = _one(names[0])
            found = [(part, at, 1) for part in self._parts if (at := part.place(*one)) >= 0]
        else:
            found = [(part, at[at >= 0], int(np.count_nonzero(at >= 0))) for part, at in self._looked_up(names)]
        for part, at, count in found:
            if part.remove(at, count) * _LARGER > len(part.first):
                self._parts[self._parts.index(part)] = _Part.of(part.records())
        self._sorted = [part for part in self._parts if part.held]

    def records(self) -> Bytes:
        """All that is held, shape (n, 16 + value), sorted: a function of the set alone."""
        parts = [part.records() for part in self._parts]
        if not parts:
            return np.zeros((0, DIGEST + self._value), dtype=np.uint8)
        return parts[0] if len(parts) == 1 else _Part.of(np.concatenate(parts)).records()

    def _looked_up(self, names: Bytes) -> Iterator[tuple["_Part", NDArray[np.intp]]]:
        """Each part, and the row of it in which each digest lies, -1 for none."""
        first, second = _halves(names)
        order = np.argsort(first) if len(first) > _MANY else None  # in order they are found in one sweep
        for part in self._parts:
            if order is None:
                yield part, part.places(first, second)
            else:
                at = np.empty(len(first), dtype=np.intp)
                at[order] = part.places(first[order], second[order])
                yield part, at


class _Part:
    """Records sorted by digest, which is two numbers here; the value of each, and which are removed."""

    def __init__(self, first: _Numbers, second: _Numbers, value: Bytes, gone: NDArray[np.bool_]) -> None:
        self.first, self.second, self.value, self.gone = first, second, value, gone
        self.held = len(first) - int(np.count_nonzero(gone))

    @classmethod
    def of(cls, records: Bytes) -> "_Part":
        """Of records of shape (n, 16 + value), in any order."""
        first, second = _halves(records)
        if len(first) == 1:
            return cls(first, second, records[:, DIGEST:].copy(), np.zeros(1, dtype=bool))
        order = np.argsort(first, kind="stable")
        if bool((np.diff(first[order]) == 0).any()):  # among digests of different ids: hardly ever
            order = np.lexsort((second, first))
        return cls(first[order], second[order], records[order, DIGEST:], np.zeros(len(order), dtype=bool))

    @property
    def repeated(self) -> bool:
        """Whether a digest is held twice."""
        return bool(((np.diff(self.first) == 0) & (np.diff(self.second) == 0)).any())

    def place(self, first: int, second: int) -> int:
        """Row of one digest, -1 where there is none: `places` takes many times as long for it."""
        at, held = int(self.first.searchsorted(np.uint64(first))), len(self.first)
        while at < held and int(self.first[at]) == first:
            if int(self.second[at]) == second:
                return -1 if self.gone[at] else at
            at += 1
        return -1

    def places(self, first: _Numbers, second: _Numbers) -> NDArray[np.intp]:
        """Row of each digest, -1 where there is none."""
        at = np.searchsorted(self.first, first)
        np.minimum(at, len(self.first) - 1, out=at)
        near = self.first[at] == first
        if not near.any():
            return np.full(len(at), -1)
        same = near & (self.second[at] == second)
        while bool((near != same).any()):  # the first half is that of another digest: look at the next
            wrong = np.flatnonzero(near & ~same)
            wrong = wrong[at[wrong] + 1 < len(self.first)]
            wrong = wrong[self.first[at[wrong] + 1] == first[wrong]]
            at[wrong] += 1
            near[:] = same
            near[wrong] = True
            same[wrong] = self.second[at[wrong]] == second[wrong]
        return np.where(same & ~self.gone[at], at, -1)

    def remove(self, at: NDArray[np.intp] | int, count: int) -> int:
        """Mark these rows, `count` of them; how many are marked now."""
        self.gone[at] = True
        self.held -= count
        return len(self.first) - self.held

    def records(self) -> Bytes:
        """What is held, sorted."""
        kept = ~self.gone
        halves = (half[kept].astype(">u8").view(np.uint8).reshape(-1, _HALF) for half in (self.first, self.second))
        return np.concatenate([*halves, self.value[kept]], axis=1)


def _one(record: Bytes) -> tuple[int, int]:
    """`_halves` of a single digest, shape (16,) or more."""
    return _HALVES.unpack(record[:DIGEST].tobytes())


def _halves(names: Bytes) -> tuple[_Numbers, _Numbers]:
    """Both halves of digests, the first 16 of each row's bytes, as numbers of the same order."""
    numbers = np.ascontiguousarray(names[:, :DIGEST]).view(">u8")
    return numbers[:, 0].astype(np.uint64), numbers[:, 1].astype(np.uint64)
