"""From scores and coins to the evidence of a one-run audit."""

import numpy as np
from numpy.typing import NDArray

from expunge.audit.evidence import OneRun

__all__ = ["checked", "one_run"]

_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def one_run(
    scores: NDArray[np.float64],
    members: NDArray[np.bool_],
    *,
    practice: tuple[NDArray[np.float64], NDArray[np.bool_]] | None = None,
    delta: float,
    confidence: float,
    kind: type[OneRun] = OneRun,
) -> OneRun:
    """Guess "in" for the highest scores and "out" for the lowest, and count.

    Several independent runs with coins of their own are one run with more canaries: each coin still moves one
    (ε, δ)-close output only. So arrays of any shape are taken, (canaries,) or (runs, canaries).

    Args:
        scores: higher for "in".
        members: the coins, of the same shape.
        practice: scores and coins of other canaries, on which the shares to guess about are chosen; without it, all
            are guessed.
        delta: δ at which ε is to be bounded.
        confidence: of the bound.
        kind: `OneRunViaCertifier` where the guarantee compares with a certifier alone.

    Raises:
        ValueError: NaN, mismatched shapes, or fewer than 2 canaries.
    """
    s, m = _flat(scores, members)
    if practice is None:
        high = low = 0.5
    else:
        sp, mp = _flat(*practice)
        pairs = [(a, b) for a in (*_SHARES, 0.0) for b in (*_SHARES, 0.0) if a + b > 0]
        high, low = max(
            pairs, key=lambda pair: _scaled(_guess(sp, mp, *pair), len(s)).epsilon(delta=delta, confidence=confidence)
        )
    seen = _guess(s, m, high, low)
    return kind(canaries=seen.canaries, guesses=seen.guesses, correct=seen.correct)


def _guess(scores: NDArray[np.float64], members: NDArray[np.bool_], high: float, low: float) -> OneRun:
    """The share `high` of all guessed in, the share `low` out; at least one guess."""
    n = len(scores)
    order = np.argsort(scores, kind="stable")
    ins, outs = int(high * n), int(low * n)
    if ins + outs == 0:
        ins, outs = (1, 0) if high >= low else (0, 1)
    right = int(members[order[n - ins :]].sum()) + int((~members[order[:outs]]).sum())
    return OneRun(canaries=n, guesses=ins + outs, correct=right)


def _scaled(seen: OneRun, canaries: int) -> OneRun:
    """The same rate of right guesses among another number of canaries."""
    factor = canaries / seen.canaries
    guesses = max(int(seen.guesses * factor), 1)
    return OneRun(canaries=canaries, guesses=guesses, correct=int(guesses * seen.correct / seen.guesses))


def checked(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and coins of one shape, without NaN, of 2 canaries or more; raises `ValueError`."""
    s, m = np.asarray(scores, dtype=np.float64), np.asarray(members)
    if s.shape != m.shape:
        raise ValueError(f"scores have shape {s.shape}, members {m.shape}")
    if m.dtype != np.bool_:
        raise ValueError(f"members must be bool, not {m.dtype}")
    if s.size < 2:
        raise ValueError(f"scores must be of at least 2 canaries, not {s.size}")
    if np.isnan(s).any():
        raise ValueError(f"scores has NaN at index {int(np.flatnonzero(np.isnan(s.reshape(-1)))[0])}")
    return s, m


def _flat(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    s, m = checked(scores, members)
    return s.reshape(-1), m.reshape(-1)
