"""Records that are withdrawn from shards: not served any more, and not forgotten yet."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from expunge.trace.roster import Roster
from expunge.trace.schedule import Tags, hex_of
from expunge.trace.store import read_sealed, write_sealed

__all__ = ["Withdrawn"]

_FILE = "withdrawn.json"


class Withdrawn:
    """The tags of withdrawn records, in a sealed file beside the shards. Whoever is forgotten is withdrawn no longer.

    Args:
        folder: of the shards.
        key: theirs.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        self._path, self._key = folder / _FILE, key

    def add(self, shard: int, tags: Tags) -> None:
        """Withdraw records of a shard, by their tags there."""
        held = self._held()
        held[str(shard)] = sorted({*held.get(str(shard), []), *hex_of(tags)})
        write_sealed(self._path, {"tags": held}, self._key)

    def stages(self, rosters: Mapping[int, Roster], epochs_per_slice: int) -> dict[int, int]:
        """Shard -> how many of its slices still serve, of shards where something is withdrawn; 0 where none does.

        Args:
            rosters: who takes part, of every shard.
            epochs_per_slice: of the plan.
        """
        found: dict[int, int] = {}
        for shard, digits in self._held().items():
            roster = rosters[int(shard)]
            places = roster.find(np.frombuffer(bytes.fromhex("".join(digits)), dtype="S16"))
            present = places[places >= 0]
            if len(present):
                found[int(shard)] = int(roster.first_epochs[present].min()) // epochs_per_slice
        return found

    @property
    def shards(self) -> Iterable[int]:
        """In which something was ever withdrawn."""
        return [int(shard) for shard in self._held()]

    def _held(self) -> dict[str, list[str]]:
        return read_sealed(self._path, self._key)["tags"] if self._path.exists() else {}
