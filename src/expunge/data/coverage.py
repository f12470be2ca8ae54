"""Whether the retained data still hold a row that is to be forgotten.

No theorem sees it: a mechanism that is fed the forgotten rows as retained ones proves, about the wrong data, what it always
proves. So it is looked up before the run, and the record says how (`expunge.certificate.record.COVERAGES`).

Ids decide where both sets have them. Without ids a row is known by its inputs alone, so that a forgotten picture under a
new label is found; where fields have names, inputs are compared with the inputs of the same names; real numbers are compared in float32, or in the coarser type that one of the sets has, whole numbers
exactly. Without a mask all rows must be of one length. A row that was changed in
any other number, augmented or rescaled, is another row: this check cannot see it.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from expunge.certificate.record import UNCHECKED
from expunge.data.content import Row, is_label, precision_of, rows_of
from expunge.data.examples import Examples, as_examples
from expunge.data.ids import ids_in
from expunge.errors import StillRetained
from expunge.randomness.secret import entropy

__all__ = ["check_disjoint", "coverage_of", "rows_held"]

_log = logging.getLogger("expunge")
_SHOWN = 3
_Names: TypeAlias = tuple[str | None, ...]


def coverage_of(retain: Any, forget: Any) -> str:
    """How it was checked that `retain` holds none of `forget`, see `check_disjoint`; "unchecked" without a forget set."""
    return UNCHECKED if forget is None else check_disjoint(retain, forget)


def check_disjoint(retain: Any, forget: Any) -> str:
    """Check that the retained data hold none of the forgotten rows; returns how that was checked.

    Args:
        retain: `Examples`, tensors, or a loader of batches, which is read once from end to end.
        forget: likewise; or ids of rows, where `retain` has names.

    Returns:
        "ids and content"; "ids", where rows with other names have the same content, or none is at hand; "content".

    Raises:
        StillRetained: a forgotten row is retained.
        TypeError, ValueError: no rows, or rows that cannot be compared.
    """
    ids, kept = ids_in(forget), as_examples(retain)
    if ids is not None:
        if kept is None or not kept.named:
            raise TypeError(
                "forget holds ids, and retain has no names: give Examples(..., ids=...), or the rows to forget"
            )
        _refuse_names(kept, ids)
        return "ids"
    gone = as_examples(forget)
    if kept is None or gone is None or not (kept.named and gone.named):
        seen = _shared(retain, forget)
        if seen.comparable is False:
            raise ValueError(f"retain and forget cannot be compared: {seen.why}; give Examples(..., ids=...) for both")
        if seen.where:
            raise StillRetained(_words(seen, kept))
        return "content"
    _refuse_names(kept, gone.ids)
    seen = _shared(kept, gone)
    if not seen.comparable:
        return "ids"
    if seen.twins_by_mistake:
        raise StillRetained(
            f"{_words(seen, kept)} They have other ids there, and each occurs there once: these are two names for the same rows"
        )
    if seen.where:
        _log.warning(
            "%d retained rows have the content of forgotten ones and other ids: taken for other rows, as ids say",
            seen.hits,
        )
    return "ids" if seen.where else "ids and content"


def rows_held(tensors: Iterable[Tensor], forget: Any) -> int:
    """Count the rows in tensors that hold the same numbers as an input of a forgotten row.

    A tensor is looked at where it has the size of such an input, or its last axes have. Rows of one
    number, or of the same number throughout, tell nothing and are not counted.

    Args:
        tensors: of any kind.
        forget: `Examples`, tensors, or a loader of batches.
    """
    fields = [field for field in _inputs_of(forget) if bool((field != field[:, :1]).any())]
    known: dict[torch.dtype, set[bytes]] = {}
    found = 0
    for tensor in tensors:
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or not tensor.numel():
            continue
        for width in {field.shape[1] for field in fields}:
            if tensor.numel() != width and not _ends_in(tensor, width):
                continue
            precision = precision_of((tensor,), *((field,) for field in fields))
            if precision not in known:
                known[precision] = {name for field in fields for name in _named(field, precision)}
            rows = tensor.detach().reshape(-1, width)
            found += sum(name in known[precision] for name in _named(rows, precision))
    return found


def _ends_in(tensor: Tensor, width: int) -> bool:
    """Whether the last axes of a tensor, not all of them, hold as many numbers: rows, batches of rows."""
    size = 1
    for axis in reversed(tensor.shape[1:]):
        size *= axis
        if size == width:
            return True
    return False


def _inputs_of(forget: Any) -> Iterator[Tensor]:
    """Every field of a forgotten row that a model may be given and that holds more than one number, shape (n, width)."""
    examples = as_examples(forget)
    for batch in forget if examples is None else [examples.batch(slice(None))]:
        parts = (
            batch.items()
            if isinstance(batch, dict)
            else enumerate(batch if isinstance(batch, tuple | list) else [batch])
        )
        for name, part in cast("Iterable[tuple[Any, Any]]", parts):
            values = torch.as_tensor(part) if isinstance(part, np.ndarray) else part
            if isinstance(values, Tensor) and values.dim() > 1 and not is_label(str(name)):
                field = values.detach().reshape(len(values), -1)
                if field.shape[1] > 1:
                    yield field


def _named(rows: Tensor, precision: torch.dtype) -> Iterator[bytes]:
    """The content of each row that is not one number throughout."""
    kept = rows[(rows != rows[:, :1]).any(1)]
    if len(kept):
        yield from (row.inputs for row in rows_of((kept,), precision=precision, label="rows"))


class _Seen:
    """The forgotten rows, and those of them that were met among the retained ones."""

    def __init__(self, forgotten: Iterator[Row]) -> None:
        self._key = entropy(32)
        self.times = Counter[bytes]()
        self._widths, self._others = set[int | None](), set[int | None]()
        self._fields, self._other_fields = set[_Names](), set[_Names]()
        self.asked = 0
        for row in forgotten:
            self.times[self._digest(row)] = 0
            self._widths.add(row.width)
            self._fields.add(row.names)
            self.asked += 1
        self.where: list[int] = []
        self.rows = self.hits = 0
        if not self.asked:
            raise ValueError("forget gave no row: the forget set is empty")

    def look(self, retained: Iterator[Row]) -> None:
        for row in retained:
            name = self._digest(row)
            self._others.add(row.width)
            self._other_fields.add(row.names)
            if name in self.times:
                self.times[name] += 1
                self.hits += 1
                if len(self.where) < _SHOWN:
                    self.where.append(self.rows)
            self.rows += 1
        if not self.rows:
            raise ValueError("retain gave no row: the retain set is empty, or the iterator cannot be iterated again")

    @property
    def comparable(self) -> bool:
        """Whether equal rows would have equal bytes, see `why`."""
        return not self.why

    @property
    def why(self) -> str:
        """Why an equal row could be overlooked: other fields, or other lengths; "" where it could not."""
        if not _same_fields(self._fields | self._other_fields):
            return (
                f"rows to forget have the inputs {_shown_fields(self._fields)}, retained ones "
                f"{_shown_fields(self._other_fields)}, and inputs are compared by their names"
            )
        if len(self._widths | self._others) == 1:
            return ""
        return (
            f"rows to forget have {_listed(self._widths)} numbers, retained ones {_listed(self._others)}, so that padding could "
            "hide one (an attention_mask in every batch says what counts)"
        )

    @property
    def twins_by_mistake(self) -> bool:
        """Most forgotten rows are retained, each once: where equal rows are common they come more than once."""
        shared = sum(1 for times in self.times.values() if times)
        return shared > 1 and 2 * shared > len(self.times) and self.hits == shared

    def _digest(self, row: Row) -> bytes:
        return hashlib.blake2b(row.inputs, key=self._key, digest_size=16).digest()


def _shared(retain: Any, forget: Any) -> _Seen:
    precision = precision_of(retain, forget)
    seen = _Seen(rows_of(forget, precision=precision, label="rows to forget"))
    seen.look(rows_of(retain, precision=precision, label="retained rows"))
    return seen


def _refuse_names(kept: Examples, ids: Iterable[str]) -> None:
    gone = set(ids)
    shared = [name for name in kept.ids if name in gone]
    if shared:
        more = f" and {len(shared) - _SHOWN} more" if len(shared) > _SHOWN else ""
        raise StillRetained(
            f"retain holds {len(shared)} of the {len(gone)} rows to forget, by their ids: "
            f"{', '.join(map(repr, shared[:_SHOWN]))}{more}. Take them out of retain"
        )


def _words(seen: _Seen, kept: Examples | None) -> str:
    names = [repr(kept.ids[row]) if kept is not None and kept.named else f"row {row}" for row in seen.where]
    more = f" and {seen.hits - _SHOWN} more" if seen.hits > _SHOWN else ""
    return (
        f"retain holds {seen.hits} rows with the content of rows to forget: {', '.join(names)}{more}. Take them out of "
        "retain; if they are other rows that happen to be equal, tell them apart: Examples(..., ids=...) for both sets."
    )


def _same_fields(found: set[_Names]) -> bool:
    """Whether inputs lie in one order: under the same names, or one input alone, which needs none."""
    if len(found) == 1:
        return True
    return all(len(names) == 1 for names in found) and len({names for names in found if names != (None,)}) == 1


def _shown_fields(found: set[_Names]) -> str:
    return ", or ".join(sorted(str([name or "(by position)" for name in names]) for names in found))


def _listed(widths: set[int | None]) -> str:
    return ", ".join(sorted("any number of" if w is None else str(w) for w in widths))
