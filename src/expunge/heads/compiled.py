"""One row's change of an exact head in one call, compiled by numba: each large matrix is passed over as seldom as can be.

Imported where single rows follow one another; without numba that raises `ImportError`. Sums run over rows of matrices, so
that vector units work on many at a time and nothing needs to be reordered: the bits are the same on any processor.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import numpy as np

from expunge._compile import compiled
from expunge.heads.statistics import LARGEST_SUM, LARGEST_WHOLE

__all__ = ["step"]

_MATRIX, _WHOLES, _VECTOR = "float64[:, ::1]", "int64[:, ::1]", "float64[::1]"


def _loops(result: str, *arguments: str) -> Callable[[Callable[..., Any]], Any]:
    return partial(compiled, f"{result}({', '.join(arguments)})")


@_loops("void", _MATRIX, _VECTOR, _VECTOR)
def _multiply(matrix: Any, x: Any, out: Any) -> Any:
    """`out` = `matrix` x of a symmetric matrix, four of whose rows are read at a time."""
    d = len(x)
    for j in range(d):
        out[j] = 0.0
    fours = d - d % 4
    for i in range(0, fours, 4):
        a, b, c, e = matrix[i], matrix[i + 1], matrix[i + 2], matrix[i + 3]
        s, t, u, v = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(d):
            out[j] = (((out[j] + a[j] * s) + b[j] * t) + c[j] * u) + e[j] * v
    for i in range(fours, d):
        a, s = matrix[i], x[i]
        for j in range(d):
            out[j] += a[j] * s


@_loops("void", _MATRIX, _VECTOR, "float64")
def _add(matrix: Any, x: Any, sign: Any) -> Any:
    """`matrix` += sign x xᵀ."""
    for i in range(len(x)):
        a, s = matrix[i], sign * x[i]
        for j in range(len(x)):
            a[j] += s * x[j]


@_loops("void", _MATRIX, _VECTOR, "float64", _VECTOR, _VECTOR)
def _add_and_multiply(matrix: Any, x: Any, sign: Any, v: Any, out: Any) -> Any:
    """`_add`, and `out` = `matrix` v of what it is then: two rows are changed, and used while they are near.

    Each row is changed in a loop of its own: two might overlap, as far as the compiler knows, and would go number by number.
    """
    d = len(x)
    for j in range(d):
        out[j] = 0.0
    twos = d - d % 2
    for i in range(0, twos, 2):
        a, b = matrix[i], matrix[i + 1]
        s, t, m, n = sign * x[i], sign * x[i + 1], v[i], v[i + 1]
        for j in range(d):
            a[j] += s * x[j]
        for j in range(d):
            b[j] += t * x[j]
        for j in range(d):
            out[j] = (out[j] + a[j] * m) + b[j] * n
    for i in range(twos, d):
        a, s, m = matrix[i], sign * x[i], v[i]
        for j in range(d):
            a[j] += s * x[j]
        for j in range(d):
            out[j] += a[j] * m


@_loops("float64", _VECTOR)
def _norm(x: Any) -> Any:
    total = 0.0
    for i in range(len(x)):
        total += x[i] * x[i]
    return np.sqrt(total)


@_loops("UniTuple(float64, 2)", _MATRIX, _VECTOR, _VECTOR, _MATRIX)
def _add_outer(matrix: Any, x: Any, y: Any, out: Any) -> Any:
    """`out` = `matrix` + x yᵀ; the norms of both."""
    columns = len(y)
    before, after = np.zeros(columns), np.zeros(columns)
    for i in range(len(x)):
        for c in range(columns):
            old = matrix[i, c]
            new = old + x[i] * y[c]
            out[i, c] = new
            before[c] += old * old
            after[c] += new * new
    return _norm(np.sqrt(before)), _norm(np.sqrt(after))


@_loops("float64", _WHOLES, _VECTOR, _VECTOR, "float64", _VECTOR, _VECTOR, _WHOLES)
def _add_whole(moment: Any, row: Any, y: Any, sign: Any, steps: Any, units: Any, out: Any) -> Any:
    """`out` = `moment` + sign row yᵀ, in whole numbers, and |B|, of what that is in steps and units; inf beyond 2^62."""
    columns = len(units)
    squares, added = np.zeros(columns), np.empty(columns, np.int64)
    for c in range(columns):
        added[c] = np.int64(sign * y[c])
    for i in range(len(row)):
        k, s = np.int64(row[i]), steps[i]
        for c in range(columns):
            whole = moment[i, c] + k * added[c]
            out[i, c] = whole
            if not -LARGEST_SUM < np.float64(whole) < LARGEST_SUM:
                return inf
            b = np.float64(whole) * s * units[c]
            squares[c] += b * b
    return _norm(np.sqrt(squares))


@_loops("boolean", _MATRIX, _VECTOR, _VECTOR, "float64", _VECTOR, "float64")
def _sure(gram: Any, row: Any, y: Any, sign: Any, steps: Any, bound: Any) -> Any:
    """Whether `after` sums the row exactly, and every scaled entry of the diagonal is below `bound` then."""
    for i in range(len(row)):
        square = gram[i, i] + sign * (row[i] * row[i])
        if not (square < LARGEST_WHOLE and square * (steps[i] * steps[i]) < bound):
            return False
    largest = 0.0
    for c in range(len(y)):
        largest = max(largest, y[c] * y[c])
    return largest < LARGEST_WHOLE


_IN = (_MATRIX, _WHOLES, _MATRIX, _MATRIX, _MATRIX, _VECTOR, _VECTOR, "float64", _VECTOR, _VECTOR, "float64", "float64")


@_loops("boolean", *_IN, _WHOLES, _MATRIX, _MATRIX, _VECTOR)
def step(
    gram: Any, moment: Any, inverse: Any, weights: Any, defect: Any, row: Any, y: Any, sign: Any, steps: Any, units: Any,
    ridge: Any, bound: Any, summed: Any, changed: Any, followed: Any, norms: Any,
) -> Any:  # fmt: skip
    """What `after`, `Inverse.stepped_`, `shift_` and `Inverse.followed` do one after the other, for one row.

    Args:
        gram: whole numbers of steps, shape (d, d), changed in place.
        moment: likewise, shape (d, outputs), int64.
        inverse: T, shape (d, d), changed in place.
        weights: W, shape (d, outputs).
        defect: A W - B.
        row: whole numbers, shape (d,).
        y: whole numbers, shape (outputs,).
        sign: 1 for a row more, -1 for one fewer.
        steps: of features, shape (d,).
        units: steps of targets, shape (outputs,).
        ridge: γ.
        bound: what the diagonal of A - γ I must stay below.
        summed: the new moment is written here.
        changed: W' is written here.
        followed: A' W' - B' is written here.
        norms: shape (9,), those of `Norms` are written here.

    Returns:
        False, and nothing changed in place, where sums are too large or rounding forbids it.
    """
    if not _sure(gram, row, y, sign, steps, bound):
        return False
    norms[8] = _add_whole(moment, row, y, sign, steps, units, summed)
    if not norms[8] < inf:
        return False
    d, columns = len(row), len(y)
    targets = units * y
    x, z, moved, missed = steps * row, np.empty(d), np.empty(d), targets.copy()
    _multiply(inverse, x, z)
    core = 0.0
    for i in range(d):
        core += x[i] * z[i]
        for c in range(columns):
            missed[c] -= weights[i, c] * x[i]
    core = 1.0 + sign * core
    if not 0.0 < core < inf:
        return False
    root = z * core**-0.5
    z /= core
    norms[4], norms[5] = _add_outer(weights, z, sign * missed, changed)
    if not norms[5] < inf:
        return False
    _add(inverse, root, -sign)
    _add_and_multiply(gram, row, sign, steps * z, moved)
    for i in range(d):
        moved[i] = moved[i] * steps[i] + ridge * z[i] - x[i]
    norms[0], norms[1], norms[2], norms[3], norms[6] = _norm(x), _norm(z), _norm(missed), _norm(targets), _norm(moved)
    norms[7] = _add_outer(defect, moved, sign * missed, followed)[1]
    return True
