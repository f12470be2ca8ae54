"""The one search of the accounting room: where a monotone condition begins to hold."""

from collections.abc import Callable
from math import inf, isnan
from typing import Any, cast

__all__ = ["smallest", "smallest_whole"]

_LEAST, _MOST = 1e-300, 1e300
_CEILING = 1e6  # of what brentq sees: an infinite excess tells it no more


def smallest(excess: Callable[[float], float], *, start: float = 1.0, tolerance: float = 1e-13) -> float:
    """The smallest x > 0 with `excess(x) <= 0`, to a relative tolerance, always on the passing side.

    `excess` must change its sign once, from above to below. Smooth, it costs about ten evaluations. Returns `inf` where
    nothing up to 1e300 passes.
    """
    bracket = _bracket(excess, start)
    if bracket is None:
        return inf
    low, high = bracket
    from scipy.optimize import brentq  # late: it takes longer to import than all of expunge

    def bounded(x: float) -> float:
        value = excess(x)
        return _CEILING if isnan(value) else min(max(value, -_CEILING), _CEILING)

    if low > 0:
        root: float = cast("Any", brentq)(bounded, low, high, xtol=1e-305, rtol=max(tolerance / 4, 1e-15))
        nudge = tolerance / 2
        while root < high and not excess(root) <= 0:
            root, nudge = root * (1 + nudge), 2 * nudge
        high = min(root, high)
    return high


def _bracket(excess: Callable[[float], float], start: float) -> tuple[float, float] | None:
    """Low that fails and high that passes, at most a few squarings apart; low = 0 where 1e-300 passes."""
    low, high, factor = 0.0, start, 2.0
    if excess(high) <= 0:
        while high > _LEAST:
            low = max(high / factor, _LEAST)
            if not excess(low) <= 0:
                return low, high
            high, factor = low, min(factor * factor, 1e16)
        return 0.0, high
    while not excess(high) <= 0:
        if high >= _MOST:
            return None
        low, high, factor = high, min(high * factor, _MOST), min(factor * factor, 1e16)
    return low, high


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
