"""Standard normal numbers from the words of a stream, the same bits however the vector is split.

Coordinates 2k and 2k + 1 are one pair, made of block k of the stream: two words a, b of 64 bits. With the sign bits of a
and b for two fair signs s, s' and their other 63 bits read as numbers below 2^63,

    u = (a + 1) 2^-63,    v = 2^-62 b, less 2 from 1 on,    r = sqrt(-ln u),    t = v π/4,
    n_2k = s r (cos t - sin t) = s R cos(t + π/4),    n_2k+1 = s' r (cos t + sin t) = s' R sin(t + π/4),

with R = sqrt(-2 ln u): the transform of Box and Muller (1958), its angle in one quarter and signs for the other three. Where a
is below 2^43, one pair in 2^20, 64 more bits are read for u, so that tail and resolution there are those of 127 bits: the
largest number is 13.27. All arithmetic is in float64: see docs/randomness.md for what it leaves.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from math import pi

import numpy as np
from numpy.typing import NDArray

from expunge.randomness import stream

__all__ = ["each_slice", "normals"]

_PAIRS = 1 << 15  # at a time: with fewer, calls cost more than they compute; with more, buffers leave the cache
_WHOLE = 32  # pairs are computed in multiples of it: vector instructions then leave no remainder to other code
_FEW = np.uint64(1 << 43)  # a below it: read more bits
_MORE = 1 << 64  # where the blocks with these bits begin
_63_BITS = np.uint64(2**63 - 1)
_ONE = np.uint64(1)
_NONE = np.empty(0, np.int64)
# sin and cos on [-π/4, π/4]: coefficients of fdlibm's kernels (Sun Microsystems, 1993), errors below 2^-57 and 2^-58.
_SIN = (
    1.0, -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
    2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10,
)  # fmt: skip
_COS = (
    1.0, -0.5, 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
    -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11,
)  # fmt: skip
_QUARTER = pi / 4

Visit = Callable[[int, int, NDArray[np.float64]], object]


def normals(key: bytes, start: int, stop: int) -> NDArray[np.float64]:
    """Numbers start, ..., stop - 1 under `key`, shape (stop - start,), float64."""
    found = np.empty(stop - start)

    def keep(begin: int, end: int, part: NDArray[np.float64]) -> None:
        found[begin - start : end - start] = part

    each_slice(key, start, stop, keep)
    return found


def each_slice(key: bytes, start: int, stop: int, visit: Visit, *, threads: int = 1) -> None:
    """Call `visit(begin, end, numbers)` for slices that together are start, ..., stop - 1.

    Args:
        key: 32 bytes; one key makes one vector.
        start: the first coordinate.
        stop: the coordinate after the last, below 2^64.
        visit: takes numbers begin, ..., end - 1, which it may change, and which are overwritten afterwards; from several
            threads at a time where there are several.
        threads: how many; the numbers do not depend on it.
    """
    spans = list(_spans(start, stop))
    threads = max(min(threads, len(spans)), 1)

    def work(first: int) -> None:
        own = spans[first::threads]
        desk = _Desk(max((_pairs(*span) for span in own), default=0))
        for span in own:
            desk.serve(key, *span, visit)

    if threads == 1:
        work(0)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(threads)):
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

    def __init__(self, most: int) -> None:
        room = -(-most // _WHOLE) * _WHOLE
        self._zeros = memoryview(bytes(16 * room))
        self._raw = bytearray(16 * room + 15)
        self._words = np.frombuffer(self._raw, dtype="<u8", count=2 * room).reshape(room, 2)
        self._whole = np.empty(room, np.uint64)
        self._rows = np.empty((5, room))
        self._out = np.empty((room, 2))

    def serve(self, key: bytes, start: int, stop: int, visit: Visit) -> None:
        first = start // 2
        self._draw(key, first, -(-_pairs(start, stop) // _WHOLE) * _WHOLE)
        visit(start, stop, self._out.reshape(-1)[start - 2 * first : stop - 2 * first])

    def _draw(self, key: bytes, first: int, pairs: int) -> None:
        """Fill the first rows of `_out`. Every line is a pass over one buffer."""
        stream.fill(key, first, pairs, self._raw, self._zeros)
        a, b = self._words[:pairs, 0], self._words[:pairs, 1]
        r, v, t, sin, cos = self._rows[:, :pairs]
        whole = self._whole[:pairs]
        np.bitwise_and(a, _63_BITS, out=whole)
        few = np.flatnonzero(whole < _FEW) if whole.min() < _FEW else _NONE
        least = whole[few]
        np.multiply(whole.view(np.int64), 2.0**-63, out=r)
        np.add(r, 2.0**-63, out=r)
        for k, value in zip(few.tolist(), least.tolist(), strict=True):
            more = int(stream.words(key, 2 * (_MORE + first + k), 2 * (_MORE + first + k) + 1)[0])
            r[k] = (value + (more + 1) * 2.0**-64) * 2.0**-63
        np.log(r, out=r)
        np.negative(r, out=r)
        np.sqrt(r, out=r)
        np.left_shift(b, _ONE, out=whole)
        np.multiply(whole.view(np.int64), 2.0**-63 * _QUARTER, out=v)
        np.multiply(v, v, out=t)
        np.multiply(_horner(t, _SIN, sin), v, out=sin)
        _horner(t, _COS, cos)
        np.subtract(cos, sin, out=t)
        np.add(cos, sin, out=cos)
        np.multiply(t, r, out=t)
        np.multiply(cos, r, out=cos)
        np.copysign(t, a.view("<f8"), out=self._out[:pairs, 0])
        np.copysign(cos, b.view("<f8"), out=self._out[:pairs, 1])


def _horner(t: NDArray[np.float64], coefficients: tuple[float, ...], out: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ c_k t^k, lowest first."""
    np.multiply(t, coefficients[-1], out=out)
    for c in coefficients[-2:0:-1]:
        np.add(out, c, out=out)
        np.multiply(out, t, out=out)
    return np.add(out, coefficients[0], out=out)
