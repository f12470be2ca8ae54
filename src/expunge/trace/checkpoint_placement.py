"""Where checkpoints pay, and what a request is expected to cost: arithmetic on the law of the first use."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expunge import _validate

__all__ = ["best_checkpoints", "expected_shard_steps", "expected_steps", "first_uses"]

Floats = NDArray[np.float64]
_GRID = 512  # candidate positions; the search takes count * _GRID² additions


def first_uses(steps: Sequence[int], weights: Sequence[float]) -> Floats:
    """The law of the step at which one record is used first, shape (total steps,).

    A record that takes part from epoch e on is used first at a uniform step of epoch e.

    Args:
        steps: how many each epoch has.
        weights: for each epoch, how likely a request is to name a record that takes part from there on; e.g. how many
            such records there are.

    Raises:
        ValueError: other lengths, a negative weight, or none above 0.
    """
    if len(weights) != len(steps):
        raise ValueError(f"weights must hold one number for each of {len(steps)} epochs, not {len(weights)}")
    for weight in weights:
        _validate.non_negative(weights=weight)
    total = float(sum(weights))
    _validate.positive(**{"sum of weights": total})
    return np.concatenate([np.full(m, w / total / m) for m, w in zip(steps, weights, strict=True)])


def expected_steps(uses: Floats, checkpoints: Sequence[int], *, records: int = 1) -> float:
    """The expected number of steps to replay for one request.

    A replay begins at the last checkpoint at or before the earliest first use; the initialisation is one for nothing.

    Args:
        uses: the law of one record's first use, from `first_uses`.
        checkpoints: steps done when each was taken.
        records: how many the request names, drawn independently of each other.
    """
    earliest = _earliest(uses, records)
    taken = np.asarray(sorted({0, *checkpoints}))
    restored = taken[np.searchsorted(taken, np.arange(len(uses)), side="right") - 1]
    return float(earliest @ (len(uses) - restored))


def best_checkpoints(uses: Floats, count: int, *, records: int = 1) -> tuple[int, ...]:
    """The positions of at most `count` checkpoints that make `expected_steps` least.

    Found exactly by dynamic programming over the steps at which a first use can fall; where there are more than 512 of
    them, over 512 evenly spread ones and the first step of every stretch. No checkpoint lies where no first use can be.
    """
    _validate.whole(count=count, least=0)
    earliest = _earliest(uses, records)
    places = _candidates(earliest)
    count = min(count, len(places) - 1)
    mass = np.concatenate([[0.0], np.cumsum(earliest)])
    moment = np.concatenate([[0.0], np.cumsum(earliest * np.arange(len(earliest)))])
    ends = np.concatenate([places[1:], [len(earliest)]])
    # waste[a, b]: steps replayed in vain, on average, where places[a] serves all first uses before ends[b].
    waste = (moment[ends] - moment[places][:, None]) - places[:, None] * (mass[ends] - mass[places][:, None])
    waste[np.tril_indices(len(places), -1)] = np.inf
    best, choices = waste[0], list[NDArray[np.int64]]()
    for _ in range(count):
        # A further checkpoint at places[a] after the best use of the others up to there.
        options = np.vstack([np.full((1, len(places)), np.inf), best[:-1, None] + waste[1:]])
        choices.append(options.argmin(axis=0))
        best = options.min(axis=0)
    found, end = list[int](), len(places) - 1
    for choice in reversed(choices):
        start = int(choice[end])
        found.append(int(places[start]))
        end = start - 1
    return tuple(reversed(found))


def expected_shard_steps(stage_steps: Sequence[int], *, shards: int, records: int) -> float:
    """The expected number of steps to replay in all shards together when `records` records are forgotten at once.

    Each record falls into one of shards * slices equal cells, independently of all others. A shard's stage j is replayed
    if one of its slices 0 to j is hit, so the sum over stages is exact:
    `shards * sum_j stage_steps[j] * (1 - (1 - (j + 1) / (shards * slices)) ** records)`.

    Args:
        stage_steps: steps of each stage of one shard; stage j trains on slices 0 to j.
        shards: how many.
        records: how many the request names.
    """
    _validate.whole(shards=shards, records=records)
    if not stage_steps:
        raise ValueError("stage_steps must hold one number for each slice, at least one")
    cells = shards * len(stage_steps)
    return shards * sum(m * (1 - (1 - (j + 1) / cells) ** records) for j, m in enumerate(stage_steps))


def _earliest(uses: Floats, records: int) -> Floats:
    """The law of the earliest of several independent first uses."""
    _validate.whole(records=records)
    later = np.clip(np.concatenate([[1.0], 1.0 - np.cumsum(uses)]), 0.0, 1.0)
    later[-1] = 0.0
    return np.asarray(later[:-1] ** records - later[1:] ** records, dtype=np.float64)


def _candidates(earliest: Floats) -> NDArray[np.int64]:
    """Step 0, and steps at which a first use can fall, ascending."""
    support = np.flatnonzero(earliest > 0)
    starts = support[np.diff(support, prepend=-2) > 1]
    spread = support if len(support) <= _GRID else support[np.linspace(0, len(support) - 1, _GRID).astype(np.int64)]
    return np.unique(np.concatenate([[0], starts, spread]))
