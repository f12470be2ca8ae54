"""Limits on seconds that hold on slower machines too."""

import time
from functools import cache

__all__ = ["within"]

_LOOP = 1_000_000
_TOOK = 0.04  # seconds, on the machine on which the limits were set


def within(seconds: float) -> float:
    """A limit in processor seconds of the machine that it was set on, in those of this one; never less."""
    return seconds * max(1.0, _slower())


@cache
def _slower() -> float:
    """How many times as long a plain loop takes here, the best of three."""

    def once() -> float:
        begun = time.process_time()
        total = 0
        for number in range(_LOOP):
            total += number
        return time.process_time() - begun

    return min(once() for _ in range(3)) / _TOOK
