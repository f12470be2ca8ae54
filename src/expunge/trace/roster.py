"""Who takes part in a trace and who was forgotten, in packed arrays of keyed tags: 36 bytes a record."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.errors import StateError
from expunge.trace.schedule import Tags

__all__ = ["Roster"]

_MAGIC = b"expunge.roster/1"
_COUNTS = np.dtype("<u8")
_EPOCHS = np.dtype("<u4")
_RECORD, _TAG = 36, 16  # bytes: tag, digest and epoch of one who takes part; tag of one who was forgotten

_NOBODY: Tags = np.zeros(0, dtype="S16")


@dataclass(frozen=True, kw_only=True, eq=False)
class Roster:
    """Who takes part, by keyed tags of the names; made by `Roster.of` or `from_bytes`.

    Args:
        tags: of those who take part, ascending and distinct.
        digests: of each record's content.
        first_epochs: from which each takes part.
        forgotten: tags of those forgotten before, ascending. Their content's digests are gone.
    """

    tags: Tags
    digests: Tags
    first_epochs: NDArray[np.uint32]
    forgotten: Tags

    @classmethod
    def of(cls, tags: Tags, digests: Tags, first_epochs: NDArray[np.integer], forgotten: Tags = _NOBODY) -> "Roster":
        """Records in any order."""
        order = np.argsort(tags)
        return cls._checked(tags[order], digests[order], first_epochs[order].astype(_EPOCHS), np.sort(forgotten))

    @classmethod
    def _checked(cls, tags: Tags, digests: Tags, first_epochs: NDArray[np.uint32], forgotten: Tags) -> "Roster":
        """Raise `StateError` where two have one tag: chance makes such a pair among 10^9 records once in 10^20."""
        if not (_ascending(tags) and _ascending(forgotten)):
            raise StateError(
                "two records of the trace have one tag, or they are out of order; use another key, or distinct names"
            )
        return cls(tags=tags, digests=digests, first_epochs=first_epochs, forgotten=forgotten)

    def __len__(self) -> int:
        """How many take part."""
        return len(self.tags)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Roster) and self.to_bytes() == other.to_bytes()

    __hash__ = None  # pyright: ignore[reportAssignmentType, reportUnannotatedClassAttribute]

    def find(self, tags: Tags) -> NDArray[np.int64]:
        """Where each of the tags stands among those who take part; -1 for one who does not."""
        return _find(self.tags, tags)

    def knows_as_forgotten(self, tags: Tags) -> NDArray[np.bool_]:
        """Of each tag, whether its record was forgotten before."""
        return _find(self.forgotten, tags) >= 0

    def without(self, tags: Tags) -> "Roster":
        """The roster once these have been forgotten."""
        stay = np.ones(len(self), dtype=np.bool_)
        stay[self.find(tags)] = False
        gone = np.sort(np.concatenate([self.forgotten, tags]))
        return self._checked(self.tags[stay], self.digests[stay], self.first_epochs[stay], gone)

    def to_bytes(self) -> bytes:
        """Magic, two counts, then columns: tags, digests, epochs, tags of the forgotten."""
        counts = np.asarray([len(self), len(self.forgotten)], dtype=_COUNTS)
        columns = (counts, self.tags, self.digests, self.first_epochs.astype(_EPOCHS), self.forgotten)
        return _MAGIC + b"".join(column.tobytes() for column in columns)

    @classmethod
    def from_bytes(cls, content: bytes) -> "Roster":
        """The roster of `to_bytes`, or in JSON as an earlier version wrote it; its digest was checked.

        Raises:
            StateError: it is neither.
        """
        if content.startswith(b"{"):
            return _from_json(json.loads(content))
        head = len(_MAGIC) + 2 * _COUNTS.itemsize
        if not content.startswith(_MAGIC) or len(content) < head:
            raise StateError("the trace's roster has another format; this version cannot read it")
        present, forgotten = (int(n) for n in np.frombuffer(content, _COUNTS, 2, offset=len(_MAGIC)))
        if len(content) != head + _RECORD * present + _TAG * forgotten:
            raise StateError("the trace's roster holds fewer or more records than it says")
        ends = [head + _TAG * present, head + 2 * _TAG * present, head + _RECORD * present]
        parts = (content[a:b] for a, b in zip([head, *ends], [*ends, len(content)], strict=True))
        forms = ("S16", "S16", _EPOCHS, "S16")
        return cls._checked(*(np.frombuffer(part, form) for part, form in zip(parts, forms, strict=True)))


def _from_json(plain: dict[str, Any]) -> Roster:
    """The roster of schema expunge.trace/2: tag -> (digest, first epoch), all in hexadecimal digits."""
    present = plain["present"]
    digests = _packed([digest for digest, _ in present.values()])
    epochs = np.asarray([epoch for _, epoch in present.values()], dtype=_EPOCHS)
    return Roster.of(_packed(list(present)), digests, epochs, _packed(plain["forgotten"]))


def _packed(digits: list[str]) -> Tags:
    return np.frombuffer(bytes.fromhex("".join(digits)), dtype="S16")


def _ascending(tags: Tags) -> bool:
    return bool((tags[1:] > tags[:-1]).all())


def _find(among: Tags, tags: Tags) -> NDArray[np.int64]:
    if not len(among):
        return np.full(len(tags), -1, dtype=np.int64)
    places = np.minimum(np.searchsorted(among, tags), len(among) - 1)
    return np.where(among[places] == tags, places, -1)
