"""The transform of Box and Muller (1958): from pairs of words of 64 bits to pairs of standard normal numbers.

With the sign bits of a and b for two fair signs s, s' and their other 63 bits read as numbers below 2^63,

    u = (a + 1) 2^-63,    v = 2^-62 b, less 2 from 1 on,    r = sqrt(-ln u),    t = v π/4,
    n_2k = s r (cos t - sin t) = s R cos(t + π/4),    n_2k+1 = s' r (cos t + sin t) = s' R sin(t + π/4),

with R = sqrt(-2 ln u): the angle in one quarter, and signs for the other three. All arithmetic is in float64, in additions,
multiplications, divisions and square roots alone, which IEEE 754 rounds alike everywhere: the same words give the same bits
on any machine, and in the compiled copy of these lines (`compiled`). docs/randomness.md says what rounding leaves.
"""

from math import pi

import numpy as np
from numpy.typing import NDArray

__all__ = ["ANGLE", "COS", "DOWN", "FEW", "LN2", "LOG", "ONE", "SIN", "TOP", "VALUE", "Transform"]

Doubles = NDArray[np.float64]
Words = NDArray[np.uint64]
Reals = NDArray[np.float32] | NDArray[np.float64]

# fdlibm's kernels (Sun Microsystems, 1993). Sine and cosine on [-π/4, π/4]: errors below 2^-57 and 2^-58.
SIN = (
    1.0, -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04,
    2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10,
)  # fmt: skip
COS = (
    1.0, -0.5, 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05,
    -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11,
)  # fmt: skip
# The logarithm of 1 + f from sqrt(1/2) to sqrt(2) is f - f²/2 + s (f²/2 + z P(z)), s = f/(2 + f), z = s²: below one unit
# in the last place.
LOG = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
LN2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)  # its leading 33 bits, and the rest
ANGLE = 2.0**-63 * (pi / 4)
TOP = np.uint64(0xFFF0000000000000)  # sign and exponent of a double
ONE = np.uint64(0x3FF0000000000000)  # the bits of 1.0
DOWN = np.uint64(2**64 - 0x3FF0000000000000 + 0x3FE6A09E667F3BCD)  # from them to the bits of sqrt(1/2)
VALUE = np.uint64(2**63 - 1)  # of a word, without its sign bit
FEW = np.uint64(1 << 43)  # a first word below it is too coarse for the tail
_1, _52 = np.uint64(1), np.uint64(52)


class Transform:
    """Moves vectors by numbers that it makes of words, for up to `most` pairs at a time, in buffers of its own."""

    def __init__(self, most: int) -> None:
        self._rows = np.empty((6, most))
        self._whole = np.empty(most, np.uint64)
        self._out = np.empty((most, 2))

    def __call__(self, words: Words, target: Doubles, scale: float, keep: float, shift: Reals, pace: float) -> bool:
        """Set `target` to keep * target + pace * shift + scale * numbers, rounded after each of the five operations.

        Args:
            words: shape (n, 2).
            target: shape (2n,).
            scale: of the numbers.
            keep: of the target.
            shift: shape (2n,), or (0,): then keep is not read.
            pace: of the shift.

        Returns:
            Whether there are pairs whose first word, without its sign, is below `FEW`: for these, 0 was added as number.
        """
        out = self._out[: len(words)]
        whole, u = self._whole[: len(words)], self._rows[0, : len(words)]
        np.bitwise_and(words[:, 0], VALUE, out=whole)
        few = np.flatnonzero(whole < FEW) if whole.min() < FEW else None
        np.multiply(whole.view(np.int64), 2.0**-63, out=u)
        np.add(u, 2.0**-63, out=u)
        self.of_uniform(u, words, out)
        if few is not None:
            out[few] = 0
        if len(shift):
            target *= keep
            target += shift.astype(np.float64) * pace
        np.multiply(out, scale, out=out)
        target += out.reshape(-1)
        return few is not None

    def of_uniform(self, u: Doubles, words: Words, out: Doubles) -> None:
        """Fill `out` of shape (n, 2) with numbers whose u, shape (n,), is given, and overwritten; the rest is the words'."""
        a, b = words[:, 0], words[:, 1]
        v, t, sin, cos = self._rows[1:5, : len(u)]
        whole = self._whole[: len(u)]
        self._log(u)
        np.negative(u, out=u)
        r = np.sqrt(u, out=u)
        np.left_shift(b, _1, out=whole)
        np.multiply(whole.view(np.int64), ANGLE, out=v)
        np.multiply(v, v, out=t)
        np.multiply(_horner(t, SIN, sin), v, out=sin)
        _horner(t, COS, cos)
        np.subtract(cos, sin, out=t)
        np.add(cos, sin, out=cos)
        np.multiply(t, r, out=t)
        np.multiply(cos, r, out=cos)
        np.copysign(t, a.view("<f8"), out=out[:, 0])
        np.copysign(cos, b.view("<f8"), out=out[:, 1])

    def _log(self, u: Doubles) -> None:
        """Set u to its natural logarithm; every line is a pass over one buffer."""
        f, z, w, p, q = self._rows[1:, : len(u)]
        bits, whole = u.view(np.uint64), self._whole[: len(u)]
        np.subtract(bits, DOWN, out=whole)  # u = 2^k (1 + f), 1 + f from sqrt(1/2): k is on top, + 1023
        np.bitwise_and(whole, TOP, out=p.view(np.uint64))
        np.right_shift(whole, _52, out=whole)
        np.subtract(bits, p.view(np.uint64), out=bits)
        np.add(bits, ONE, out=bits)
        np.subtract(u, 1.0, out=f)
        np.add(f, 2.0, out=p)
        s = np.divide(f, p, out=u)
        np.multiply(s, s, out=z)
        np.multiply(z, z, out=w)
        np.multiply(_horner(w, LOG[1::2], p), w, out=p)
        np.multiply(_horner(w, LOG[::2], q), z, out=q)
        np.add(p, q, out=p)
        np.multiply(f, 0.5, out=z)
        half = np.multiply(z, f, out=z)
        np.add(p, half, out=p)
        np.multiply(p, s, out=p)
        k = np.subtract(whole.view(np.int64), 1023, out=w)
        np.multiply(k, LN2[1], out=u)
        np.add(p, u, out=p)
        np.subtract(half, p, out=p)
        np.subtract(p, f, out=p)
        np.multiply(k, LN2[0], out=u)
        np.subtract(u, p, out=u)


def _horner(t: Doubles, coefficients: tuple[float, ...], out: Doubles) -> Doubles:
    """Σ c_k t^k, lowest first."""
    np.multiply(t, coefficients[-1], out=out)
    for c in coefficients[-2:0:-1]:
        np.add(out, c, out=out)
        np.multiply(out, t, out=out)
    return np.add(out, coefficients[0], out=out)
