"""From the scores of one release, and coins, to the evidence of a joint audit."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from expunge.audit.evidence import JointGuesses
from expunge.audit.one_training import checked

__all__ = ["joint_guesses"]

_HEAVIEST = 16
_SURE = 0.99  # quantile of the ranks from which on all guesses weigh the same
_SHARES = {"ranks": 0.8, "distances": 0.2}  # of the chance of being wrong; published, so that trying both is paid for

Array = NDArray[np.float64]


def joint_guesses(scores: Array, members: NDArray[np.bool_], *, share: float = 1.0) -> JointGuesses:
    """Guess every candidate's coin from one release, "in" above the median score and "out" below, and weigh the guesses.

    Two sets of weights are tried, which share the chance of being wrong 4 to 1: normal scores of the ranks, best where
    every candidate leaves a little; and distances from the median, best where a few stand far out. Both depend on the
    scores alone, never on coins, so no candidate is spent on choosing.

    Args:
        scores: higher for "in"; finite; shape (candidates,), or (releases, candidates) where each release had coins of its
            own: then each is tested at its share, and the strongest is returned.
        members: the coins, of the same shape.
        share: of the chance of being wrong that these tests have together.

    Raises:
        ValueError: NaN, infinity, mismatched shapes, or fewer than 2 candidates.
    """
    s, m = checked(scores, members)
    if not np.isfinite(s).all():
        raise ValueError("scores must be finite")
    rows = [(np.atleast_1d(a), np.atleast_1d(b)) for a, b in zip(np.atleast_2d(s), np.atleast_2d(m), strict=True)]
    found = [
        _weighed(signed, own, share * part / len(rows))
        for row, own in rows
        for signed, part in ((_ranks(row), _SHARES["ranks"]), (_distances(row), _SHARES["distances"]))
    ]
    return min(found, key=lambda seen: seen.log_p)


def _ranks(scores: Array) -> Array:
    """Normal scores of the ranks, 1 where `_SURE` of all lie below; equal scores have one rank."""
    return np.clip(ndtri((rankdata(scores) - 0.5) / len(scores)) / ndtri(_SURE), -1, 1)


def _distances(scores: Array) -> Array:
    """Distances from the median over the largest."""
    d = scores / 2 - np.median(scores / 2)  # halved, so that no difference overflows
    return d / max(float(np.abs(d).max()), np.finfo(float).tiny)


def _weighed(signed: Array, members: NDArray[np.bool_], share: float) -> JointGuesses:
    """Weights are multiples of 1/16; what rounds to 0 is not guessed."""
    heavy = np.rint(_HEAVIEST * np.abs(signed)).astype(np.int64)
    right = (signed > 0) == members
    weights = [w for w in range(1, _HEAVIEST + 1) if (heavy == w).any()] or [1]
    return JointGuesses(
        candidates=len(signed), weights=tuple(weights), share=share,
        guesses=tuple(int((heavy == w).sum()) for w in weights),
        correct=tuple(int(right[heavy == w].sum()) for w in weights),
    )  # fmt: skip
