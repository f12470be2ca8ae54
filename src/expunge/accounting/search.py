"""The one search of the accounting room: where a monotone condition begins to hold."""

from collections.abc import Callable
from math import inf, sqrt

__all__ = ["smallest", "smallest_whole"]

_LEAST, _MOST = 1e-300, 1e300


def smallest(passes: Callable[[float], bool], *, start: float = 1.0, tolerance: float = 1e-13) -> float:
    """The smallest x > 0 with `passes(x)`, to a relative tolerance, always on the passing side.

    `passes` must be monotone: false below some threshold, true above. Returns `inf` where nothing up to 1e300 passes.
    """
    low, high, factor = _LEAST, start, 2.0
    if passes(high):
        while high > _LEAST and passes(high / factor):
            high, factor = max(high / factor, _LEAST), min(factor * factor, 1e16)
        low = high / factor
    else:
        while not passes(high):
            if high >= _MOST:
                return inf
            low, high, factor = high, min(high * factor, _MOST), min(factor * factor, 1e16)
    while high - low > tolerance * high:
        # Geometric halving while far apart, arithmetic once close: both keep `high` passing.
        middle = sqrt(low) * sqrt(high) if high > 2 * low else low + (high - low) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def smallest_whole(passes: Callable[[int], bool], *, limit: int) -> int | None:
    """The smallest whole number in 1..limit with `passes(n)` for a monotone `passes`, or None."""
    low, high = 0, 1
    while not passes(high):
        if high >= limit:
            return None
        low, high = high, min(2 * high, limit)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high
