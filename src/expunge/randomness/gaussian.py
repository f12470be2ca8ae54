"""Standard normal numbers from the words of a stream, the same bits however the vector is split.

Coordinates 2k and 2k + 1 are one pair, made of block k of the stream: two words of 64 bits, which `boxmuller` transforms.
Where the first word without its sign is below 2^43, one pair in 2^20, 64 more bits are read for its uniform number, so that
tail and resolution there are those of 127 bits: the largest number is 13.27.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np

from expunge._compile import LONG
from expunge.randomness import stream
from expunge.randomness.boxmuller import FEW, VALUE, Doubles, Reals, Transform, Words

__all__ = ["Move", "add", "each_slice", "normals"]

_PAIRS = 1 << 16  # at a time: with fewer, calls cost more than they compute; with more, buffers leave the cache
_MORE = 1 << 64  # where the blocks begin that are read beside first words below `FEW`
_NONE = np.empty(0)
_SAMPLE = 4096  # pairs

_log = logging.getLogger("expunge")

Visit = Callable[[int, int, Doubles], object]


def normals(key: bytes, start: int, stop: int) -> Doubles:
    """Numbers start, ..., stop - 1 under `key`, shape (stop - start,), float64."""
    found = np.zeros(stop - start)
    add(key, start, found, 1.0)
    return found


@dataclass(frozen=True)
class Move:
    """What a vector x goes through before noise is added: keep x + pace shift.

    Args:
        keep: of x.
        pace: of the shift.
        shift: (begin, end) -> its coordinates begin, ..., end - 1, float32 or float64; from several threads at a time.
    """

    keep: float
    pace: float
    shift: Callable[[int, int], Reals]


def add(key: bytes, start: int, target: Doubles, scale: float, *, move: Move | None = None, threads: int = 1) -> None:
    """Add `scale` times the numbers start, start + 1, ... to `target`, shape (n,), in place.

    Args:
        key: 32 bytes; one key makes one vector.
        start: the first coordinate; the last is below 2^64.
        target: contiguous.
        scale: of the numbers.
        move: what happens to the target before, in the same pass over the memory; it counts coordinates as `start` does.
        threads: how many; the bits do not depend on it.
    """

    def work(desk: _Desk, begin: int, end: int) -> None:
        desk.add(key, begin, end, target[begin - start : end - start], scale, move)

    _share(start, start + len(target), threads, work)


def each_slice(key: bytes, start: int, stop: int, visit: Visit, *, threads: int = 1) -> None:
    """Call `visit(begin, end, numbers)` for slices that together are start, ..., stop - 1.

    Args:
        key: 32 bytes; one key makes one vector.
        start: the first coordinate.
        stop: the coordinate after the last, below 2^64.
        visit: takes numbers begin, ..., end - 1, which it may change; from several threads at a time where there are several.
        threads: how many; the numbers do not depend on it.
    """

    def work(desk: _Desk, begin: int, end: int) -> None:
        numbers = np.zeros(end - begin)
        desk.add(key, begin, end, numbers, 1.0, None)
        visit(begin, end, numbers)

    _share(start, stop, threads, work)


def _share(start: int, stop: int, threads: int, work: "Callable[[_Desk, int, int], None]") -> None:
    """Have every slice worked at once, on as many threads as there are."""
    spans = list(_spans(start, stop))
    threads = max(min(threads, len(spans)), 1)

    def of_a_thread(first: int) -> None:
        own = spans[first::threads]
        desk = _Desk(max((_pairs(*span) for span in own), default=0), long=stop - start >= LONG)
        for span in own:
            work(desk, *span)

    if threads == 1:
        of_a_thread(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(of_a_thread, range(threads)):
            pass


def _spans(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Slices cut where the whole vector is: at multiples of 2 _PAIRS."""
    step = 2 * _PAIRS
    while start < stop:
        end = min(stop, start - start % step + step)
        yield start, end
        start = end


def _pairs(start: int, stop: int) -> int:
    """Pairs that a slice touches."""
    return -(-stop // 2) - start // 2


class _Desk:
    """The buffers of one thread, for up to `most` pairs at a time."""

    def __init__(self, most: int, *, long: bool) -> None:
        self._zeros = memoryview(bytes(16 * most))
        self._raw = bytearray(16 * most + 15)
        self._words = np.frombuffer(self._raw, dtype="<u8", count=2 * most).reshape(most, 2)
        self._transform = (_compiled() if long else None) or Transform(most)

    def add(self, key: bytes, start: int, stop: int, target: Doubles, scale: float, move: Move | None) -> None:
        """Move the target, and add `scale` times the numbers start, ..., stop - 1."""
        first, pairs = start // 2, _pairs(start, stop)
        shift = move.shift(start, stop) if move else _NONE
        keep, pace = (move.keep, move.pace) if move else (1.0, 0.0)
        if (start, stop) != (2 * first, 2 * (first + pairs)):  # half a pair at an end
            whole = np.zeros(2 * pairs)
            self.add(key, 2 * first, 2 * (first + pairs), whole, scale, None)
            if move:
                target *= keep
                target += shift.astype(np.float64) * pace
            target += whole[start - 2 * first : stop - 2 * first]
            return
        stream.fill(key, first, pairs, self._raw, self._zeros)
        words = self._words[:pairs]
        if self._transform(words, target, scale, keep, shift, pace):
            _read_more(key, first, words, target.reshape(pairs, 2), scale)


@cache
def _compiled() -> Callable[[Words, Doubles, float, float, Reals, float], bool] | None:
    """The transform as machine code; None where numba is not there, or its code does not give the bits of numpy's here."""
    if sys.byteorder != "little":
        return None
    try:
        from expunge.randomness.compiled import transform
    except ImportError:
        return None
    if not _same_bits(transform):
        _log.warning("code compiled by numba does not compute noise as numpy does on this machine, and is not used")
        return None
    return transform


def _same_bits(transform: Callable[[Words, Doubles, float, float, Reals, float], bool]) -> bool:
    """Whether compiled code agrees with `Transform` on a sample of public words, with a step and without."""
    words = stream.words(bytes(32), 0, 2 * _SAMPLE).reshape(-1, 2)
    words[0] = 1  # of those for which more bits are read
    line = np.linspace(-1.0, 1.0, 2 * _SAMPLE)
    for shift in (_NONE, line.astype(np.float32), line):
        one, other = line.copy(), line.copy()
        few = transform(words, one, 0.3, 0.9, shift, -0.7), Transform(_SAMPLE)(words, other, 0.3, 0.9, shift, -0.7)
        if few != (True, True) or not np.array_equal(one.view(np.uint64), other.view(np.uint64)):
            return False
    return True


def _read_more(key: bytes, first: int, words: Words, rows: Doubles, scale: float) -> None:
    """Add the numbers of the pairs whose first word is below `FEW`: their u has 64 bits more."""
    low = words[:, 0] & VALUE
    few = np.flatnonzero(low < FEW)
    u = np.empty(len(few))
    for i, k in enumerate(few.tolist()):
        block = _MORE + first + k
        more = int(stream.words(key, 2 * block, 2 * block + 1)[0])
        u[i] = (int(low[k]) + (more + 1) * 2.0**-64) * 2.0**-63
    found = np.empty((len(few), 2))
    Transform(len(few)).of_uniform(u, words[few], found)
    rows[few] += found * scale
