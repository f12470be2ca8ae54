"""Sums of independent privacy losses on one grid: tilted, multiplied by FFT, rounded up.

A dominating pair (A, B) of measures is kept as two laws of its loss: L = log dA/dB under A (what was forgotten was
there), and -L under B (it was not). Pairs multiply (Zhu, Dong & Wang 2022, arXiv 2106.08567, Theorem 10), so for
releases k = 1..K, each T_k times, both directions of the joint profile are

    H_ε = T lost + E (1 - e^(ε - S))_+,    S = Σ_k Σ_t L_kt.

Composition. The law of S is tilted by e^(λS), with λ the minimiser of Chernoff's bound, and convolved by FFT: rounding is
then small against δ itself, however small δ is. Mass outside the window of the FFT wraps into it, which adds; what lies
above is bounded by Chernoff and added once more. Where the window has too many cells the pairs are made again on
a grid twice as coarse, until it fits: every grid proves a bound, a coarser one a slightly larger one.

Rigour. Masses are rounded up, which can only raise H. A relative error ρ in the density of A costs e^Tρ in δ and Tρ
in ε. What the FFT loses is bounded through its spectrum and given away. Trusted without proof: that numpy's and scipy's
elementary functions, and each output of the FFT, are good to the few units in the last place counted here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, exp, floor, frexp, hypot, inf, ldexp, log, log2, sqrt
from typing import Any, Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = [
    "EPS",
    "MOST_CELLS",
    "Losses",
    "Pair",
    "Source",
    "coarse",
    "composed",
    "deviation",
    "log_delta",
    "losses_from",
]

EPS = 2.0**-52
MOST_CELLS, _CELLS_OF_SEVERAL = 1 << 20, 1 << 17  # of a window, for one source and for several
_SKETCHED, _KEPT = 1 << 15, 1 << 12  # cells from which on exponents are chosen from fewer, and how many of those
_COARSEST = 100.0  # spacing of a grid, at most: e to three times that is still a float
_FURTHEST = 1e12  # the largest ε that is looked at
_CHERNOFF = (36.0, 24.0)  # -log of the mass that may lie outside the window; the second where the first is too wide
_fft: Any = scipy.fft  # its stubs admit arguments of every backend
_Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """Upper bounds on the masses of the loss on a grid: `log_mass[i]` at index[i] spacing; all finite."""

    spacing: float
    index: NDArray[np.int64]
    log_mass: _Vector

    @cached_property
    def at(self) -> _Vector:
        """The losses."""
        return np.asarray(self.spacing * self.index, dtype=float)

    def cumulant(self, tilts: _Vector) -> _Vector:
        """Log E e^(λ loss), for each λ of shape (k,)."""
        return _cumulant(self.at, self.log_mass, tilts)

    def about(self, tilts: _Vector) -> _Vector:
        """The same from fewer cells where there are very many: good for choosing among exponents, proves nothing."""
        return _cumulant(*self._sketch, tilts)

    @cached_property
    def _sketch(self) -> tuple[_Vector, _Vector]:
        """The heaviest cells as they are, neighbours among the others together at their mean."""
        if len(self.log_mass) <= _SKETCHED:
            return self.at, self.log_mass
        rest = self.log_mass < np.partition(self.log_mass, -_KEPT)[-_KEPT]
        at, log_mass = self.at[rest], self.log_mass[rest]
        starts = np.arange(0, len(at), ceil(len(at) / _KEPT))
        top = np.maximum.reduceat(log_mass, starts)
        lengths = np.diff(np.append(starts, len(at)))
        share = np.exp(log_mass - np.repeat(top, lengths))
        total = np.add.reduceat(share, starts)
        means = np.add.reduceat(share * at, starts) / total
        return np.concatenate([self.at[~rest], means]), np.concatenate([self.log_mass[~rest], top + np.log(total)])


@dataclass(frozen=True)
class Pair:
    """A dominating pair: losses where the forgotten data are there and where they are not.

    `lost` is what may have an infinite loss, `slack` the relative error in the density of the first measure.
    """

    present: Losses
    absent: Losses
    lost: float
    slack: float


class Source(Protocol):
    """What has a dominating pair on any grid; hashable, so that pairs are made once."""

    def spacing(self, times: int, /) -> float | None:
        """Of the grid that resolves the sum of `times` such losses; None where none does."""
        ...

    def finest(self) -> float:
        """The least spacing that `pair` is asked for: below it the pair would fill the memory."""
        ...

    def pair(self, spacing: float, /) -> Pair:
        """The pair on a grid of `spacing`."""
        ...


Parts = Sequence[tuple[Losses, int]]


def composed(sources: Sequence[tuple[Source, int]], epsilon: float) -> float:
    """Log δ(ε) of independent sources, each so many times, in both directions, rounded up; 0 where no grid resolves it.

    Args:
        sources: (source, times), at least one.
        epsilon: ε ≥ 0.
    """
    steps = [source.spacing(times) for source, times in sources]
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        return 0.0
    spacing = max(min(known), *(source.finest() for source, _ in sources))
    epsilon = min(epsilon, _FURTHEST)  # δ does not grow with ε
    most_cells = MOST_CELLS if len(sources) == 1 else _CELLS_OF_SEVERAL
    while spacing < _COARSEST:
        try:
            return log_delta([(source.pair(spacing), times) for source, times in sources], epsilon, most_cells)
        except _TooWide as window:
            spacing *= 2 ** max(1, floor(log2(window.cells / most_cells)))
    return 0.0


class _TooWide(Exception):
    """The window of the FFT would need so many cells."""

    def __init__(self, cells: int) -> None:
        super().__init__(f"{cells} cells")
        self.cells = cells


def log_delta(pairs: Sequence[tuple[Pair, int]], epsilon: float, most_cells: int = MOST_CELLS) -> float:
    """Log δ(ε) of pairs, each so many times, on one grid: the larger of both directions, at most 0, rounded up."""
    given = sum(times * pair.slack for pair, times in pairs)
    lost = sum(times * pair.lost for pair, times in pairs)
    if lost >= 1:
        return 0.0
    directions = [[(p.present, t) for p, t in pairs]]
    if any(p.present is not p.absent for p, _ in pairs):
        directions.append([(p.absent, t) for p, t in pairs])
    worst = max(_log_hockey_stick(parts, epsilon - given, lost, most_cells) for parts in directions)
    return min(worst + given, 0.0)


def coarse(x: float) -> float:
    """Rounded up to ten bits: a choice that must not differ between machines that compute x to other last digits."""
    mantissa, exponent = frexp(x)
    return ldexp(ceil(mantissa * 1024) / 1024, exponent)


def deviation(level: _Vector, log_density: _Vector) -> float:
    """Standard deviation of `level` under an unnormalised density on an even grid; sets the spacing, proves nothing."""
    weight = np.exp(log_density - log_density.max())
    mean = _inner(weight, level) / weight.sum()
    return sqrt(_inner(weight, (level - mean) ** 2) / float(weight.sum()))


def losses_from(spacing: float, index: NDArray[np.int64], mass: _Vector) -> Losses:
    """Without the cells that hold nothing, the others rounded up."""
    kept = mass > 0
    log_mass = np.log(mass[kept])
    return Losses(spacing, index[kept], log_mass + 1e-12 + 4 * EPS * np.abs(log_mass))


def _cumulant(at: _Vector, log_mass: _Vector, tilts: _Vector) -> _Vector:
    return np.array([_log_sum_exp(log_mass + tilt * at) for tilt in tilts])


def _log_sum_exp(terms: _Vector) -> float:
    """Ten times as fast as scipy's, which serves more cases."""
    top = float(terms.max())
    return top + log(float(np.exp(terms - top).sum()))


def _log_hockey_stick(parts: Parts, epsilon: float, lost: float, most_cells: int) -> float:
    """Log of `lost` + E (1 - e^(ε - S))_+ over independent losses, rounded up."""
    tilt, cumulants = _best_tilt(parts, epsilon)
    tilted = [p.log_mass + tilt * p.at - c for (p, _), c in zip(parts, cumulants, strict=True)]
    masses = [np.exp(t) for t in tilted]
    low, high, tail = _window(parts, tilt, cumulants, tilted, most_cells)
    roundings = [
        4 * EPS * (64 + _inner(mass, np.abs(p.log_mass) + np.abs(tilt * p.at)) + abs(c))
        for (p, _), mass, c in zip(parts, masses, cumulants, strict=True)
    ]
    expected = _expectation(parts, masses, roundings, epsilon, tilt, (low, high)) + tail
    given = sum(2 * times * r for (_, times), r in zip(parts, roundings, strict=True)) + 8 * EPS * tilt * abs(epsilon)
    whole = sum(times * c for (_, times), c in zip(parts, cumulants, strict=True))
    log_delta = whole - tilt * epsilon + log(expected) + given if expected > 0 else -inf
    return float(np.logaddexp(log_delta, log(lost))) if lost > 0 else log_delta


def _scale(parts: Parts, log_masses: Sequence[_Vector]) -> float:
    """Standard deviation of S."""
    return hypot(*(sqrt(times) * deviation(p.at, m) for (p, times), m in zip(parts, log_masses, strict=True)))


def _exponents(least: float, most: float, count: int, scale: float) -> _Vector:
    """`least` ... `most` in units of 1/scale, as for a Gaussian; and further down to 0.1 where S is mostly far below 1.

    Then a rare loss far above the deviation is what matters, and exponents of 1/deviation are too large for it.
    """
    usual = np.geomspace(least, most, count) / max(scale, 1e-12)
    if not usual[0] > 0.2:
        return usual
    further = np.geomspace(0.1, float(usual[0]), 2 + ceil(2 * log2(float(usual[0]) / 0.1)))[:-1]
    return np.concatenate([further, usual])


def _best_tilt(parts: Parts, epsilon: float) -> tuple[float, list[float]]:
    """λ ≥ 0 near the minimum of Σ T K(λ) - λ ε, which is convex, and each K(λ). Every λ bounds; the best the tightest."""
    tilts = np.concatenate([[0.0], _exponents(0.05, 60.0, 48, _scale(parts, [p.log_mass for p, _ in parts]))])

    def exponent(cumulants: Sequence[_Vector], at: _Vector) -> _Vector:
        return np.sum([times * k for (_, times), k in zip(parts, cumulants, strict=True)], axis=0) - at * epsilon

    few = np.arange(0, len(tilts), 6)
    near = int(exponent([p.about(tilts[few]) for p, _ in parts], tilts[few]).argmin()) * 6
    fine = tilts[max(near - 5, 0) : near + 6]
    best = fine[[int(exponent([p.about(fine) for p, _ in parts], fine).argmin())]]
    return float(best[0]), [float(p.cumulant(best)[0]) for p, _ in parts]


def _window(
    parts: Parts, tilt: float, cumulants: Sequence[float], tilted: Sequence[_Vector], most_cells: int
) -> tuple[int, int, float]:
    """The cells that the FFT keeps, and a bound on the tilted mass above them (Chernoff)."""
    spacing = parts[0][0].spacing
    moves = _exponents(0.5, 30.0, 10, _scale(parts, tilted))

    def growth(by: _Vector) -> _Vector:
        """Of the tilted cumulant of S, from fewer cells."""
        return np.sum([t * (p.about(tilt + by) - p.about(np.array([tilt]))) for p, t in parts], axis=0)

    def proven(by: float) -> float:
        at = np.array([tilt + by])
        return sum(t * float(p.cumulant(at)[0] - c) for (p, t), c in zip(parts, cumulants, strict=True))

    up, down = growth(moves), growth(-moves)
    last = sum(times * int(p.index.max()) for p, times in parts)
    first = sum(times * int(p.index.min()) for p, times in parts)
    cells = 0
    for outside in _CHERNOFF:
        rise, fall = (float(moves[int(((way + outside) / moves).argmin())]) for way in (up, down))
        # The few cells miss the largest loss: they pick the exponent, the ends follow from all cells.
        top = min((proven(rise) + outside) / rise, spacing * last)
        bottom = max(-(proven(-fall) + outside) / fall, spacing * first)
        low, high = floor(bottom / spacing) - 1, ceil(top / spacing) + 1
        cells = high - low
        if cells <= most_cells:
            beyond = min(0.0, proven(rise) - rise * spacing * high)
            return low, high, 0.0 if high >= last else exp(beyond) * (1 + 1e-6)
    raise _TooWide(cells)


def _expectation(
    parts: Parts,
    masses: Sequence[_Vector],
    roundings: Sequence[float],
    epsilon: float,
    tilt: float,
    cells: tuple[int, int],
) -> float:
    """E e^(-λ(S - ε)) (1 - e^(ε - S))_+ for S within the window under the tilted laws `masses`, rounded up."""
    low, high = cells
    spacing = parts[0][0].spacing

    def value(at: _Vector) -> _Vector:
        past = np.maximum(at - epsilon, 0.0)
        return np.asarray(-np.exp(-tilt * past) * np.expm1(-past), dtype=float)

    if len(parts) == 1 and parts[0][1] == 1:  # one loss is its own sum: positive terms, nothing to convolve
        return _inner(masses[0], value(parts[0][0].at)) * (1 + roundings[0] + 1e-12)
    size = int(_fft.next_fast_len(max(high - low + 1, 256), real=True))
    log_power, strayed, log_most = np.zeros(size // 2 + 1, dtype=complex), 0.0, np.zeros(size // 2 + 1)
    for (p, times), mass, rounding in zip(parts, masses, roundings, strict=True):
        spectrum = _fft.rfft(np.bincount(p.index % size, mass, minlength=size), size)
        error = 16 * EPS * log2(size) + rounding
        most = np.abs(spectrum) + error
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(spectrum)
            log_power = log_power + times * logs
        # |a^T - b^T| ≤ T |a - b| max(|a|, |b|)^(T-1); and the power itself, by its logarithm.
        lost_here = times * (error / most + 4 * EPS * np.minimum(np.abs(logs), 1e3))
        strayed, log_most = strayed + lost_here, log_most + times * np.log(most)
    with np.errstate(invalid="ignore"):
        power = np.where(np.isneginf(np.real(log_power)), 0.0, np.exp(log_power))
    strayed = np.asarray(strayed * np.exp(log_most))
    law = _fft.irfft(power, size)
    where = np.arange(low, low + size)
    worth = value(np.asarray(spacing * where, dtype=float))
    # Errors of the spectrum by Parseval and Cauchy-Schwarz, those of the inverse output by output.
    lost = sqrt(2 / size) * sqrt(_inner(strayed, strayed)) * sqrt(_inner(worth, worth))
    lost += 16 * EPS * log2(size) * (2 / size) * float(np.abs(power).sum()) * float(worth.sum())
    return max(_inner(law[where % size], worth), 0.0) * (1 + 1e-12) + lost


def _inner(one: _Vector, other: _Vector) -> float:
    """An inner product of terms that are summed in pairs, of which the 1e-12 of the callers covers the rounding many times over.

    BLAS would leave threads that spin after each call, for as much processor time as all the rest takes.
    """
    return float(np.sum(one * other))
