"""The transform of `boxmuller`, compiled by numba: the same bits, several times as fast, and threads do not wait for each other.

Imported where a long vector is to be filled; without numba that raises `ImportError`.
"""

from collections.abc import Callable
from math import copysign, sqrt
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from expunge._compile import compiled
from expunge.randomness.boxmuller import ANGLE, COS, DOWN, FEW, LN2, LOG, ONE, SIN, TOP, VALUE, Doubles, Reals, Words

__all__ = ["transform"]

_0, _1, _52, _63 = (np.uint64(i) for i in (0, 1, 52, 63))
_S0, _S1, _S2, _S3, _S4, _S5, _S6 = SIN
_C0, _C1, _C2, _C3, _C4, _C5, _C6, _C7 = COS
_L1, _L2, _L3, _L4, _L5, _L6, _L7 = LOG
_HIGH, _LOW = LN2
_AT_ONCE = 1 << 10


def transform(words: Words, target: Doubles, scale: float, keep: float, shift: Reals, pace: float) -> bool:
    """What `boxmuller.Transform` does in one call."""
    return bool(_apply(words.reshape(-1), target, scale, keep, shift, pace) < FEW)


def _bitcast(kind: Any) -> Callable[..., Any]:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], kind)

    return generate


def _to_bits(_context: Any, _value: Any) -> Any:
    return types.uint64(types.float64), _bitcast(ir.IntType(64))


def _to_double(_context: Any, _value: Any) -> Any:
    return types.float64(types.uint64), _bitcast(ir.DoubleType())


_bits_of: Any = intrinsic(_to_bits)
_of_bits: Any = intrinsic(_to_double)


def _make(words: Any, out: Any) -> Any:
    """`Transform` line by line, for words and numbers that lie flat; the least first word is returned."""
    least = VALUE
    for i in range(len(words) // 2):
        a = words[2 * i]
        b = words[2 * i + 1]
        whole = a & VALUE
        least = min(least, whole)
        bits = _bits_of(np.float64(whole) * 2.0**-63 + 2.0**-63)
        moved = bits - DOWN
        k = np.float64(moved >> _52) - 1023.0
        f = _of_bits(bits - (moved & TOP) + ONE) - 1.0
        s = f / (f + 2.0)
        z = s * s
        w = z * z
        p = w * (_L2 + w * (_L4 + w * _L6)) + z * (_L1 + w * (_L3 + w * (_L5 + w * _L7)))
        half = 0.5 * f * f
        r = sqrt(-(k * _HIGH - (half - (s * (half + p) + k * _LOW) - f)))
        r = 0.0 if whole < FEW else r
        turned = b << _1  # signed; vector instructions convert only what is not
        negative = _0 - (turned >> _63)
        v = copysign(np.float64((turned ^ negative) - negative), _of_bits(turned)) * ANGLE
        t = v * v
        sin = v * (_S0 + t * (_S1 + t * (_S2 + t * (_S3 + t * (_S4 + t * (_S5 + t * _S6))))))
        cos = _C0 + t * (_C1 + t * (_C2 + t * (_C3 + t * (_C4 + t * (_C5 + t * (_C6 + t * _C7))))))
        out[2 * i] = copysign((cos - sin) * r, _of_bits(a))
        out[2 * i + 1] = copysign((cos + sin) * r, _of_bits(b))
    return least


def _move(words: Any, target: Any, scale: Any, keep: Any, shift: Any, pace: Any) -> Any:
    """The rest of `Transform.__call__`, a few numbers at a time, which do not leave the core; the least first word is returned."""
    least = VALUE
    numbers = np.empty(_AT_ONCE)
    for start in range(0, len(target), _AT_ONCE):
        end = min(start + _AT_ONCE, len(target))
        least = min(least, _numbers(words[start:end], numbers))
        x = target[start:end]
        if len(shift):
            g = shift[start:end]
            for i in range(end - start):
                x[i] = x[i] * keep + np.float64(g[i]) * pace + numbers[i] * scale
        else:
            for i in range(end - start):
                x[i] += numbers[i] * scale
    return least


_numbers: Any = compiled("uint64(uint64[::1], float64[::1])", _make)
_apply: Any = compiled(
    [f"uint64(uint64[::1], float64[::1], float64, float64, {real}[::1], float64)" for real in ("float32", "float64")],
    _move,
)
