"""What a head has learned and forgotten since, as keyed digests."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from expunge.data import Request
from expunge.heads.packed import DIGEST, Bytes, PackedDigests

__all__ = ["Corrections", "digest", "digests"]

_SHOWN = 3  # ids in an error message


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Which rows were learned, and how D has become D' since. Holds keyed digests, no id.

    Args:
        key: of the digests, 32 random bytes.
        learned: digests of all rows ever learned.
        removed: of those deleted.
        labels: new labels of some.
        columns: features that are 0 in every row.
        cells: features that are 0 in some rows.
    """

    key: bytes
    learned: PackedDigests
    removed: PackedDigests = field(default_factory=PackedDigests)
    labels: Mapping[bytes, int] = field(default_factory=dict[bytes, int])
    columns: frozenset[int] = frozenset()
    cells: Mapping[bytes, frozenset[int]] = field(default_factory=dict[bytes, frozenset[int]])

    @property
    def retained(self) -> int:
        """Number of rows learned and not deleted."""
        return len(self.learned) - len(self.removed)

    def after(self, request: Request, *, classes: int, width: int) -> "Corrections":
        """These corrections and those of `request`; nothing is changed here.

        Raises:
            ValueError: an id is unknown or was forgotten already, a label or column is out of range, owners are
                named, or no row would be left.
        """
        if request.owners:
            raise ValueError("a head knows rows and no owners: name the rows, request.resolved(examples)")
        self._check(request, classes=classes, width=width)
        removed = self.removed.copy()
        removed.add(digests(list(request.removed), self.key))
        if len(removed) == len(self.learned):
            raise ValueError("the request leaves no row; there is nothing to train on")
        columns, cells = set(self.columns), dict(self.cells)
        for zeroed, names in request.zeroed:
            if names is None:
                columns |= set(zeroed)
            for name in names or ():
                known = digest(name, self.key)
                cells[known] = cells.get(known, frozenset()) | set(zeroed)
        new = {digest(name, self.key): label for name, label in request.relabelled}
        return replace(
            self, removed=removed, labels={**self.labels, **new}, columns=frozenset(columns), cells=cells
        )  # fmt: skip

    def _check(self, request: Request, *, classes: int, width: int) -> None:
        names = list(request.ids)
        known = digests(names, self.key)
        if unknown := [names[k] for k in np.flatnonzero(~self.learned.found(known))]:
            raise ValueError(f"unknown ids, never learned by this head: {_shown(unknown)}")
        if gone := [names[k] for k in np.flatnonzero(self.removed.found(known))]:
            raise ValueError(f"ids forgotten already: {_shown(gone)}")
        if high := [label for _, label in request.relabelled if label >= classes]:
            raise ValueError(f"new labels must lie below classes={classes}, not {high[0]}")
        if wide := [c for columns, _ in request.zeroed for c in columns if c >= width]:
            raise ValueError(f"columns must lie below the number of features, {width}, not {wide[0]}")


def digest(name: str, key: bytes) -> bytes:
    """A keyed digest of an id, 16 bytes."""
    return hashlib.blake2b(name.encode(), key=key, digest_size=DIGEST).digest()


def digests(names: Sequence[str], key: bytes) -> Bytes:
    """Those of many ids, shape (n, 16)."""
    keyed, found = hashlib.blake2b(key=key, digest_size=DIGEST), list[bytes]()
    for name in names:
        one = keyed.copy()  # quicker than one made anew
        one.update(name.encode())
        found.append(one.digest())
    return np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, DIGEST)


def _shown(names: Iterable[str]) -> str:
    listed = sorted(set(names))
    return ", ".join(map(repr, listed[:_SHOWN])) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
