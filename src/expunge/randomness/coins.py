"""Biased coins from the words of a stream: coin i lands heads with one probability, independently of the others."""

import numpy as np
from numpy.typing import NDArray

from expunge.randomness import stream

__all__ = ["heads"]


def heads(key: bytes, count: int, probability: float) -> NDArray[np.int64]:
    """The positions below `count` whose coins land heads, in order.

    Coin i lands heads where word i is below floor(2^64 probability): with a probability at most the one asked for, and
    less than 2^-64 below it. A smaller sampling rate leaks no more.

    Args:
        key: 32 bytes; one key makes one row of coins.
        count: how many coins.
        probability: in [0, 1].
    """
    if probability >= 1:
        return np.arange(count)
    threshold = np.uint64(int(probability * 2.0**64))  # the product is exact, and int() rounds down
    return np.flatnonzero(stream.words(key, 0, count) < threshold)
