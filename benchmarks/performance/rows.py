"""A row of the table of docs/performance.md, and how two things are timed beside one another."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Row", "medians"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a piece of work costs here, what a peer needs for the same in the same run, and the least that is possible.

    Args:
        work: what is done, with its size.
        unit: of `ours`, `peer` and `limit`, e.g. "ms".
        ours: what it took.
        peer: what the peer took in the same run; None where there is none.
        peer_is: who it is.
        limit: the least that is possible, measured in the same run; None where none is known.
        limit_is: what it is.
        before: on commit 8fb218f, in words.
        target: the most that `ours` may be, or, with `ratio`, that `ours / peer` may be.
        ratio: whether the target is a ratio to the peer.
        note: what a reader must know, e.g. why the target was not reached.
    """

    work: str
    unit: str
    ours: float
    peer: float | None = None
    peer_is: str = ""
    limit: float | None = None
    limit_is: str = ""
    before: str
    target: float
    ratio: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked."""
        if self.ratio and self.peer is None:
            raise ValueError(f"{self.work}: a target that is a ratio needs a peer")

    @property
    def judged(self) -> float:
        """What the target speaks of."""
        return self.ours / self.peer if self.ratio and self.peer is not None else self.ours

    @property
    def reached(self) -> bool:
        """Whether the target was."""
        return self.judged <= self.target

    def to_dict(self) -> dict[str, Any]:
        """For the results file, with what follows from the fields."""
        return asdict(self) | {"judged": self.judged, "reached": self.reached}


def medians(works: Mapping[str, Callable[[], object]], *, turns: int = 5) -> dict[str, float]:
    """Seconds that each piece of work takes, in turns with the others, after one turn that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if turn:
                taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}
