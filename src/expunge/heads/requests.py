"""What is to be forgotten: rows, labels, features. "D becomes D'" in every case.

Source of the three kinds: Warnecke et al. 2023, arXiv 2108.11577.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any, cast

from expunge.data.arrays import names_in

__all__ = ["Corrections", "Forget"]

_SHOWN = 3  # ids in an error message


@dataclass(frozen=True, kw_only=True)
class Forget:
    """One request, or several joined by `|`; the order in which they are joined does not matter.

    Make one with `Forget.rows`, `Forget.labels` or `Forget.features`.

    Args:
        removed: ids of rows to delete.
        relabelled: (id, new label), sorted by id.
        zeroed: (columns, ids) whose cells become 0; None for ids means every row.

    >>> Forget.rows(["a"]) | Forget.labels(["b"], 1) == Forget.labels(["b"], 1) | Forget.rows(["a"])
    True
    """

    removed: frozenset[str] = frozenset()
    relabelled: tuple[tuple[str, int], ...] = ()
    zeroed: frozenset[tuple[tuple[int, ...], frozenset[str] | None]] = frozenset()

    @classmethod
    def rows(cls, ids: Iterable[str]) -> "Forget":
        """Delete rows.

        Raises:
            TypeError, ValueError: no id, one that is no text, or one named twice.
        """
        return cls(removed=frozenset(_names(ids)))

    @classmethod
    def labels(cls, ids: Iterable[str], new: Any) -> "Forget":
        """Replace the labels of rows by `new`: one label for all, or a sequence, array or tensor of one for each id.

        Raises:
            TypeError, ValueError: as for `rows`; or a number of labels that is not that of the ids.
        """
        names, labels = _names(ids), _plain(new)
        labels = labels if isinstance(labels, list) else [labels] * len(names)
        if len(labels) != len(names):
            raise ValueError(f"new must be one label, or one for each id: {len(labels)} labels for {len(names)} ids")
        for label in labels:
            if isinstance(label, bool) or not isinstance(label, Integral) or label < 0:
                raise ValueError(f"new must hold whole numbers, 0 or above, not {label!r}")
        return cls(relabelled=tuple(sorted(zip(names, map(int, labels), strict=True))))

    @classmethod
    def features(cls, columns: Any, ids: Iterable[str] | None = None) -> "Forget":
        """Set features to 0, one column or several, in the rows named or in all of them.

        Raises:
            TypeError, ValueError: as for `rows`; or no column, or one below 0.
        """
        asked = _plain(columns)
        wanted = sorted({_column(column) for column in (asked if isinstance(asked, list) else [asked])})
        if not wanted:
            raise ValueError("columns must name at least one feature")
        return cls(zeroed=frozenset({(tuple(wanted), None if ids is None else frozenset(_names(ids)))}))

    def __or__(self, other: "Forget") -> "Forget":
        """Both requests.

        Raises:
            ValueError: they contradict each other: two labels for a row, or a label for a row to be deleted.
        """
        if not isinstance(other, Forget):
            return NotImplemented
        joint = Forget(
            removed=self.removed | other.removed,
            relabelled=tuple(sorted({*self.relabelled, *other.relabelled})),
            zeroed=self.zeroed | other.zeroed,
        )
        names = [name for name, _ in joint.relabelled]
        if len(set(names)) < len(names):
            raise ValueError(f"two labels are asked for {_shown(n for n in names if names.count(n) > 1)}")
        if both := joint.removed & set(names):
            raise ValueError(f"deletion and a new label are asked for {_shown(both)}")
        return joint


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
    learned: frozenset[bytes]
    removed: frozenset[bytes] = frozenset()
    labels: Mapping[bytes, int] = field(default_factory=dict[bytes, int])
    columns: frozenset[int] = frozenset()
    cells: Mapping[bytes, frozenset[int]] = field(default_factory=dict[bytes, frozenset[int]])

    @property
    def retained(self) -> int:
        """Number of rows learned and not deleted."""
        return len(self.learned) - len(self.removed)

    def after(self, request: Forget, *, classes: int, width: int) -> "Corrections":
        """These corrections and those of `request`; nothing is changed here.

        Raises:
            ValueError: an id is unknown or was forgotten already, a label or column is out of range, nothing is asked
                for, or no row would be left.
        """
        if not (request.removed or request.relabelled or request.zeroed):
            raise ValueError("the request asks for nothing")
        self._check(request, classes=classes, width=width)
        removed = self.removed | {digest(name, self.key) for name in request.removed}
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

    def _check(self, request: Forget, *, classes: int, width: int) -> None:
        names = {
            *request.removed,
            *(n for n, _ in request.relabelled),
            *(n for _, ids in request.zeroed for n in ids or ()),
        }
        digests = {name: digest(name, self.key) for name in names}
        if unknown := [name for name, d in digests.items() if d not in self.learned]:
            raise ValueError(f"unknown ids, never learned by this head: {_shown(unknown)}")
        if gone := [name for name, d in digests.items() if d in self.removed]:
            raise ValueError(f"ids forgotten already: {_shown(gone)}")
        if high := [label for _, label in request.relabelled if label >= classes]:
            raise ValueError(f"new labels must lie below classes={classes}, not {high[0]}")
        if wide := [c for columns, _ in request.zeroed for c in columns if c >= width]:
            raise ValueError(f"columns must lie below the number of features, {width}, not {wide[0]}")


def digest(name: str, key: bytes) -> bytes:
    """A keyed digest of an id, 16 bytes."""
    return hashlib.blake2b(name.encode(), key=key, digest_size=16).digest()


def _names(ids: Iterable[str]) -> list[str]:
    names = names_in(_plain(ids))
    if not names:
        raise ValueError("ids must name at least one row")
    if len(set(names)) < len(names):
        raise ValueError("ids: a row is named twice")
    return names


def _plain(values: Any) -> Any:
    """Numpy's and torch's own numbers and texts, and any other collection, as a list of Python's; one number as it is."""
    found = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes)):
        return found
    return [value.tolist() if hasattr(value, "tolist") else value for value in cast("Iterable[Any]", found)]


def _column(column: object) -> int:
    if isinstance(column, bool) or not isinstance(column, Integral):
        raise TypeError(f"columns must be whole numbers, not {column!r}")
    if column < 0:
        raise ValueError(f"columns must be 0 or above, not {column}")
    return int(column)


def _shown(names: Iterable[str]) -> str:
    listed = sorted(set(names))
    return ", ".join(map(repr, listed[:_SHOWN])) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
