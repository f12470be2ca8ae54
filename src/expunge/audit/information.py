"""I(output; Z): how much predicted labels tell whether a row was forgotten, beside what a reference's predictions tell.

Z is 1 for rows of the forget set and 0 for rows that the release is not to know them from. I is computed from counts
("plug-in"), in nats: it is at least 0, and above it by about (a - 1)(b - 1)/2n where nothing is told, with a values of Z, b
labels that occur, n rows (Miller 1955). So neither 0 nor that is its null: a forget set that is not balanced in its labels
is told from others by any model that is right. The null is the same number of a model that never saw the forget set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import ClassVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, ndtri

from expunge.audit.evidence.base import counted, sure

__all__ = ["PERMUTATIONS", "Tables", "mutual_information", "permutation_p", "table_of"]

Values = NDArray[np.float64]
Counted = NDArray[np.int64]
PERMUTATIONS = 999
_SEED = 2502_05684  # public, and the same for every table, so that a reader draws the same permutations
_MOST, _LABELS = 10**6, 1000  # rows and labels of a table
_TIE = 1e-11  # of I: tables that differ by rounding alone are equally far from independence
_REACH = 9.0  # standard deviations of a count, beyond which it is not drawn: less than 2^-53 lies there


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Predicted labels of forgotten rows and of others, counted, of a release and of a reference that never saw the former.

    Args:
        forgotten: how often the release predicts each label on the forgotten rows, one whole number a label.
        others: on rows to hold them against: retained ones, or ones that were never seen.
        null_forgotten: how often the reference predicts each label on the forgotten rows.
        null_others: on the others.
    """

    kind: ClassVar[str] = "tables"

    forgotten: Sequence[int]
    others: Sequence[int]
    null_forgotten: Sequence[int]
    null_others: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("forgotten", "others", "null_forgotten", "null_others"):
            given: object = getattr(self, name)
            if not isinstance(given, Sequence) or isinstance(given, str) or not 0 < len(given) <= _LABELS:
                raise ValueError(f"{name} must hold one count for each label, of at most {_LABELS} labels")
            counts = tuple(cast("Sequence[int]", given))
            counted(0, most=_MOST, **{f"{name}[{k}]": count for k, count in enumerate(counts)})
            counted(most=_MOST, **{f"rows of {name}": sum(counts)})
            object.__setattr__(self, name, tuple(int(count) for count in counts))
        sizes = [len(row) for row in (*self._release, *self._reference)]
        if len(set(sizes)) > 1:
            raise ValueError(f"all counts must be of the same labels, not of {sizes}")
        if [sum(row) for row in self._release] != [sum(row) for row in self._reference]:
            raise ValueError("the reference must be counted on as many rows of either sort as the release")

    def values(self, confidence: float) -> dict[str, float]:
        """I and its null in nats, the limits of each, the bias of each where nothing is told, and p-values of independence."""
        sure(confidence)
        found: dict[str, float] = {}
        for name, table in (("", self._release), ("null_", self._reference)):
            counts = np.array(table, dtype=np.int64)
            value = mutual_information(counts)
            low, high = _limits(value, counts, confidence)
            found |= {
                name.rstrip("_") or "value": value, f"{name}low": low, f"{name}high": high,
                f"{name}bias": _freedom(counts) / (2 * int(counts.sum())), f"{name}p_value": permutation_p(counts),
            }  # fmt: skip
        return found

    @property
    def seconds(self) -> float:
        """About how long the numbers take, on the slow side; known before any is computed."""
        tables = np.array([self._release, self._reference], dtype=np.float64).sum(1)
        width = np.minimum(
            tables, _REACH * (np.sqrt(tables) + 2)
        )  # of a column's draw, its deviation at most half its root
        return 0.01 + float((2e-4 + width * PERMUTATIONS * 6e-8).sum())

    @property
    def _release(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.forgotten, self.others

    @property
    def _reference(self) -> tuple[Sequence[int], Sequence[int]]:
        return self.null_forgotten, self.null_others


def table_of(forgotten: ArrayLike, others: ArrayLike, *, labels: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Count predicted labels: a row of counts for the forgotten rows, and one for the others.

    Args:
        forgotten: predicted labels of the forgotten rows, whole numbers from 0 to labels - 1, shape (m,).
        others: of other rows, shape (k,).
        labels: how many there are.

    Raises:
        TypeError: not whole numbers.
        ValueError: empty, of another shape, or a label out of range.
    """
    counted(labels=labels, most=_LABELS)
    rows: list[tuple[int, ...]] = []
    for name, given in (("forgotten", forgotten), ("others", others)):
        array = np.asarray(given)
        if array.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold predicted labels, whole numbers, not {array.dtype}")
        if array.ndim != 1 or not array.size:
            raise ValueError(f"{name} must hold a label for each row, at least one, not shape {array.shape}")
        if array.min() < 0 or array.max() >= labels:
            raise ValueError(f"{name} must hold labels from 0 to {labels - 1}, not {array.min()} to {array.max()}")
        rows.append(tuple(np.bincount(array.astype(np.int64), minlength=labels).tolist()))
    return rows[0], rows[1]


def mutual_information(table: ArrayLike) -> float:
    """The plug-in I of a table of counts, in nats: that of a draw from its rows. At least 0.

    >>> round(mutual_information([[10, 0], [0, 10]]), 6)
    0.693147
    """
    counts = np.asarray(table, dtype=np.float64)
    total = counts.sum()
    by_row, by_column = counts.sum(1, keepdims=True), counts.sum(0, keepdims=True)
    expected = by_row * by_column / total
    # t log t + 1 - t at t = n/expected: terms of one sign, so that nothing cancels near independence
    ratio = np.divide(counts, expected, out=np.ones_like(counts), where=expected > 0)
    logs = np.log(ratio, out=np.zeros_like(ratio), where=ratio > 0)
    return float((expected * np.maximum(ratio * logs + 1 - ratio, 0)).sum() / total)


def permutation_p(table: ArrayLike) -> float:
    """The p-value of "which row is forgotten says nothing of its label": a Monte Carlo permutation test, exactly valid.

    The statistic is I. Of 999 permutations of the rows, r have an I at least as large: p = (r + 1)/1000. Permutations are drawn
    as tables with the same margins, by inversion from the bits of a counter-based generator under a seed that is the same for
    all, so that a reader finds the same r.
    """
    counts = np.asarray(table, dtype=np.int64)
    columns = np.sort(counts.sum(0))[::-1]  # rare labels last, where a draw costs least
    columns = columns[columns > 0]
    drawn = _margins(columns, int(counts[0].sum()))
    total, expected = int(counts.sum()), columns * (int(counts[0].sum()) / int(counts.sum()))
    statistic = _half(drawn, expected) + _half(columns - drawn, columns - expected)
    reached = int((statistic >= total * mutual_information(counts) - _TIE * max(1.0, total)).sum())
    return (reached + 1) / (PERMUTATIONS + 1)


def _half(counts: Counted, expected: Values) -> Values:
    """Σ n log(n/expected) over the columns, of many tables, shape (tables,)."""
    ratio = counts / np.where(expected > 0, expected, 1.0)
    return (counts * np.log(ratio, out=np.zeros_like(ratio), where=ratio > 0)).sum(1)


def _margins(columns: Counted, marked: int) -> Counted:
    """How many of each column are marked, where `marked` of all rows are, at random: 999 draws, shape (999, columns)."""
    uniform = _coins(len(columns))
    left, rest = int(columns.sum()), np.full(PERMUTATIONS, marked, dtype=np.int64)
    drawn = np.zeros((PERMUTATIONS, len(columns)), dtype=np.int64)
    for k, size in enumerate(int(c) for c in columns):
        drawn[:, k] = rest if left == size else _hypergeometric(uniform[:, k], left, size, rest)
        rest, left = rest - drawn[:, k], left - size
    return drawn


def _hypergeometric(uniform: Values, rows: int, size: int, marked: Counted) -> Counted:
    """How many of `size` rows out of `rows` are marked, where `marked` are: by inversion, one draw for each uniform number."""
    mean = size * (marked / rows)
    deviation = np.sqrt(mean * (1 - marked / rows) * ((rows - size) / max(rows - 1, 1)))
    lowest, highest = np.maximum(0, size - (rows - marked)), np.minimum(size, marked)
    start = np.maximum(lowest, np.floor(mean - _REACH * (deviation + 1)).astype(np.int64))
    stop = np.minimum(highest, np.ceil(mean + _REACH * (deviation + 1)).astype(np.int64))
    x = np.minimum(start[:, None] + np.arange(int((stop - start).max()) + 1), stop[:, None])
    m = marked[:, None]
    # P(x + 1)/P(x), so that no factorial is needed; past the last x the ratio is of no use, and the probability 0
    up, down = (size - x) * (m - x).astype(np.float64), (x + 1.0) * (rows - m - size + x + 1)
    logs = np.zeros(x.shape)
    np.cumsum(np.log(np.maximum(up, 1) / np.maximum(down, 1))[:, :-1], axis=1, out=logs[:, 1:])
    below = np.exp(logs - logs.max(axis=1, keepdims=True))
    below[:, 1:][x[:, 1:] == x[:, :-1]] = 0.0
    np.cumsum(below, axis=1, out=below)
    return np.minimum(start + (below < uniform[:, None] * below[:, -1:]).sum(1), stop)


@cache
def _coins(columns: int) -> Values:
    """999 uniform numbers a column, in [0, 1): numpy promises the raw bits of its generators for ever, and no more than these."""
    bits = np.random.Philox(key=_SEED).random_raw(PERMUTATIONS * columns).reshape(columns, PERMUTATIONS).T
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _freedom(counts: Counted) -> int:
    """(a - 1)(b - 1), of the labels that occur."""
    return int((counts.sum(0) > 0).sum()) - 1


def _limits(value: float, counts: Counted, confidence: float) -> tuple[float, float]:
    """Limits of the I of the population, around the plug-in value; 0 below where a chi-square test finds no dependence.

    For many rows the plug-in value has mean I + d/2n and variance V/n + d/2n², d = (a - 1)(b - 1), V the variance of
    log p(y, z)/(p(y) p(z)). The bias is taken off below, and left in above.
    """
    total, freedom, alpha = int(counts.sum()), _freedom(counts), (1 - confidence) / 2
    shares = counts / total
    product = shares.sum(1, keepdims=True) * shares.sum(0, keepdims=True)
    ratio = np.divide(shares, product, out=np.ones_like(shares), where=shares > 0)
    spread = max(0.0, float((shares * np.log(ratio) ** 2).sum()) - value**2)
    width = float(ndtri(1 - alpha)) * sqrt(spread / total + freedom / (2 * total**2))
    dependent = freedom > 0 and 2 * total * value >= float(chdtri(freedom, alpha))
    low = max(0.0, value - freedom / (2 * total) - width) if dependent else 0.0
    return low, value + width
