"""A dominating pair from a profile: the discrete pair whose own profile is the chord of the given one.

"Connect the dots" (Doroshenko et al. 2022, arXiv 2207.04380): the true profile is convex in e^ε, so it lies below the chord
through upper bounds on a grid of ε, and the pair dominates. As a guarantee holds in both directions the pair is symmetric, and
half the grid suffices. Derived in docs/accounting.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from expunge.accounting.losses import Losses, Pair, losses_from
from expunge.accounting.search import smallest

__all__ = ["Chords", "Profile"]

Profile = Callable[[float], float]  # log δ of ε ≥ 0; hashable
_POINTS = 1000  # of a profile, at most
_NEAREST, _FURTHEST = 1e-9, 600.0  # lengths of a profile: floats tell its points apart, and e^ε is a float
_SLACK = 1e-9  # relative, more than differences between neighbours of a thousand points can lose


@dataclass(frozen=True)
class Chords:
    """Source of the pairs of one profile.

    Args:
        profile: log δ of ε ≥ 0.
        low: log δ where the profile ends; what lies beyond counts as a certain loss.
    """

    profile: Profile
    low: float

    def spacing(self, _times: int = 1, /) -> float:
        """A thousandth of the profile's length, rounded up to a quarter of an octave."""
        return 2.0 ** (ceil(4 * log2(_end(self) / _POINTS)) / 4)

    def finest(self) -> float:
        """Any: the number of points does not grow."""
        return 0.0

    def pair(self, spacing: float, /) -> Pair:
        """The pair whose masses lie at multiples of `spacing`, about a thousand of either sign at most."""
        return _pair(self, spacing)


@lru_cache(maxsize=256)
def _end(source: Chords) -> float:
    """The ε at which a profile has fallen to `low`, between 1e-9 and 600."""
    found = smallest(lambda e: source.profile(e) - source.low, tolerance=1e-2)
    return min(max(found, _NEAREST), _FURTHEST)


def _pair(source: Chords, spacing: float) -> Pair:
    # A power of two cells between neighbouring points, so that a grid twice as coarse asks for the same points.
    apart = 2 ** max(0, round(log2(source.spacing() / spacing)))
    losses, certain = _points(source, spacing * apart)
    side = Losses(spacing, losses.index * apart, losses.log_mass)
    return Pair(present=side, absent=side, lost=certain, slack=0.0)


@lru_cache(maxsize=64)
def _points(source: Chords, step: float) -> tuple[Losses, float]:
    points = max(2, ceil(_end(source) / step))
    delta = np.exp([source.profile(step * i) for i in range(points + 1)])
    return _symmetric(step, delta)


def _symmetric(step: float, delta: NDArray[np.float64]) -> tuple[Losses, float]:
    """The losses of the symmetric pair with profile `delta` at ε = 0, step, 2 step, ..., and its certain loss.

    Rounding up may leave the pair with a total mass above 1; mass added to both measures only raises their profile.
    """
    places = step * np.arange(len(delta))
    slopes, certain = _chords(np.expm1(places), delta)  # α - 1, of which no digit is lost near α = 1
    q = slopes - np.append(slopes[1:], 0.0)  # mass under Q at step, 2 step, ...
    q, certain = np.maximum(q, 0.0) * (1 + _SLACK), min(certain * (1 + _SLACK), 1.0)
    p = q * np.exp(places[1:])
    at_zero = max(1 - certain - float(p.sum()) - float(q.sum()), 1e-300)
    return losses_from(step, np.arange(-len(q), len(q) + 1), np.concatenate([q[::-1], [at_zero], p])), certain


def _chords(alpha: NDArray[np.float64], delta: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """-slope of each chord of the greatest convex minorant of the points, and the value at its right end.

    The true profile is convex and below the points, so it is below their convex minorant too.
    """
    kept = [0]
    for i in range(1, len(alpha)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (delta[b] - delta[a]) * (alpha[i] - alpha[a]) < (delta[i] - delta[a]) * (alpha[b] - alpha[a]):
                break
            kept.pop()
        kept.append(i)
    slopes = -np.diff(delta[kept]) / np.diff(alpha[kept])
    return np.repeat(np.maximum(slopes, 0.0), np.diff(kept)), float(delta[-1])
