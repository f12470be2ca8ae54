"""What a person asks to be forgotten: rows, labels, features, or all rows of an owner. "D becomes D'" in every case.

Source of the first three kinds: Warnecke et al. 2023, arXiv 2108.11577.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, cast

from expunge import _validate
from expunge.certificate.commitments import texts
from expunge.data.examples import Examples

__all__ = ["Request"]

_SHOWN = 3  # names in an error message


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be forgotten: one request, or several joined by `|`, in any order.

    Make one with `Request.rows`, `Request.labels`, `Request.features` or `Request.groups`.

    Args:
        removed: ids of rows to delete.
        relabelled: (id, new label), sorted by id.
        zeroed: (columns, ids) whose cells become 0; None for ids means every row.
        owners: whose rows are to be deleted, all of them, see `Examples(groups=)`.

    Raises:
        ValueError: the request asks for nothing, or contradicts itself: two labels for a row, or a label for a row that is
            to be deleted.

    >>> Request.rows(["a"]) | Request.labels(["b"], 1) == Request.labels(["b"], 1) | Request.rows(["a"])
    True
    """

    removed: frozenset[str] = frozenset()
    relabelled: tuple[tuple[str, int], ...] = ()
    zeroed: frozenset[tuple[tuple[int, ...], frozenset[str] | None]] = frozenset()
    owners: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.kinds:
            raise ValueError("the request asks for nothing")
        names = [name for name, _ in self.relabelled]
        if len(set(names)) < len(names):
            raise ValueError(f"two labels are asked for {_shown(n for n in names if names.count(n) > 1)}")
        if both := self.removed & set(names):
            raise ValueError(f"deletion and a new label are asked for {_shown(both)}")

    @classmethod
    def rows(cls, ids: Iterable[str | int]) -> "Request":
        """Ask for rows to be deleted.

        Args:
            ids: of the rows, as in `Examples(ids=)`: whole numbers become their decimal digits.

        Raises:
            TypeError, ValueError: no id, one that is neither text nor whole number, or one that is given twice.
        """
        return cls(removed=frozenset(texts(_plain(ids))))

    @classmethod
    def labels(cls, ids: Iterable[str | int], new: Any) -> "Request":
        """Ask for labels to be replaced by `new`: one label for all rows, or a sequence, array or tensor of one for each.

        Raises:
            TypeError, ValueError: as for `rows`; or a number of labels that is not that of the ids.
        """
        names, labels = texts(_plain(ids)), _plain(new)
        labels = labels if isinstance(labels, list) else [labels] * len(names)
        if len(labels) != len(names):
            raise ValueError(f"new must be one label, or one for each id: {len(labels)} labels for {len(names)} ids")
        for label in labels:
            if isinstance(label, bool) or not isinstance(label, Integral) or label < 0:
                raise ValueError(f"new must hold whole numbers, 0 or above, not {_validate.shown(label)}")
        return cls(relabelled=tuple(sorted(zip(names, map(int, labels), strict=True))))

    @classmethod
    def features(cls, columns: Any, ids: Iterable[str | int] | None = None) -> "Request":
        """Ask for features to become 0: one column or several, in the rows named or in all of them.

        Raises:
            TypeError, ValueError: as for `rows`; or no column, or one below 0.
        """
        asked = _plain(columns)
        wanted = sorted({_column(column) for column in (asked if isinstance(asked, list) else [asked])})
        if not wanted:
            raise ValueError("columns must name at least one feature")
        return cls(zeroed=frozenset({(tuple(wanted), None if ids is None else frozenset(texts(_plain(ids))))}))

    @classmethod
    def groups(cls, owners: Iterable[str | int]) -> "Request":
        """Ask for every row of these owners to be deleted, as `Examples(groups=)` names them.

        Raises:
            TypeError, ValueError: as for `rows`, of owners.
        """
        return cls(owners=frozenset(texts(_plain(owners), name="owners")))

    def __or__(self, other: "Request") -> "Request":
        """Join two requests.

        Raises:
            ValueError: they contradict each other, see `Request`.
        """
        if not isinstance(other, Request):
            return NotImplemented
        return Request(
            removed=self.removed | other.removed,
            relabelled=tuple(sorted({*self.relabelled, *other.relabelled})),
            zeroed=self.zeroed | other.zeroed,
            owners=self.owners | other.owners,
        )

    @property
    def kinds(self) -> frozenset[str]:
        """What is asked for: some of "rows", "labels", "features", "groups"."""
        asked = {"rows": self.removed, "labels": self.relabelled, "features": self.zeroed, "groups": self.owners}
        return frozenset(kind for kind, what in asked.items() if what)

    @property
    def ids(self) -> frozenset[str]:
        """Every row that the request names itself; rows of owners are found by `positions`."""
        some = (name for _, ids in self.zeroed for name in ids or ())
        return self.removed.union((name for name, _ in self.relabelled), some)

    def resolved(self, examples: Examples) -> "Request":
        """The same request with the owners' rows named one by one.

        Raises:
            ValueError: an id or owner is not among the examples, the examples have no ids or no groups, or a row of an
                owner is to be both deleted and relabelled.
        """
        rows = self.positions(examples)
        if not self.owners:
            return self
        if not examples.named:
            raise ValueError("the rows of owners can be named only where the data have ids: Examples(..., ids=...)")
        return replace(self, removed=frozenset(examples.ids[row] for row in rows), owners=frozenset())

    def positions(self, examples: Examples) -> list[int]:
        """Positions among the examples of the rows to delete, in ascending order; none for labels and features alone.

        Raises:
            ValueError: as for `resolved`.
        """
        self._check_ids(examples)
        owned = set(self._owned(examples)) if self.owners else set[int]()
        relabelled = {name for name, _ in self.relabelled}
        if both := [examples.ids[row] for row in owned if examples.ids[row] in relabelled]:
            raise ValueError(f"deletion (as rows of an owner) and a new label are asked for {_shown(both)}")
        return [row for row, name in enumerate(examples.ids) if row in owned or name in self.removed]

    def _check_ids(self, examples: Examples) -> None:
        if not self.ids:
            return
        if not examples.named:
            raise ValueError("the request names rows by ids, and the data have none: Examples(..., ids=...)")
        if unknown := self.ids.difference(examples.ids):
            raise ValueError(f"unknown ids, not among the data: {_shown(unknown)}")

    def _owned(self, examples: Examples) -> list[int]:
        if examples.groups is None:
            raise ValueError("the request names owners, and the data have none: Examples(..., groups=...)")
        if unknown := self.owners.difference(examples.groups):
            raise ValueError(f"unknown owners, not among the groups of the data: {_shown(unknown)}")
        return [row for row, owner in enumerate(examples.groups) if owner in self.owners]


def _plain(values: Any) -> Any:
    """Numpy's and torch's own numbers and texts, and any other collection, as a list of Python's; one number as it is."""
    found = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(found, Iterable) or isinstance(found, (str, bytes)):
        return found
    return [value.tolist() if hasattr(value, "tolist") else value for value in cast("Iterable[Any]", found)]


def _column(column: object) -> int:
    if isinstance(column, bool) or not isinstance(column, Integral):
        raise TypeError(f"columns must be whole numbers, not {_validate.shown(column)}")
    if column < 0:
        raise ValueError(f"columns must be 0 or above, not {column}")
    return int(column)


def _shown(names: Iterable[str]) -> str:
    listed = sorted(set(names))
    return ", ".join(map(repr, listed[:_SHOWN])) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")
