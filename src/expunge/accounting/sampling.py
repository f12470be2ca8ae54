"""Upper bounds on the privacy profile of noisy sums over Poisson samples, for groups of records.

One step compares P = Σ_j Binom(m, q)(j) N(j, ν²) (m records take part, each with probability q, all pushing the same way)
with Q = N(0, ν²) (none is there). Write L = log dP/dQ. For a composition of T steps both directions are wanted:

    H_ε(P^T ‖ Q^T) = E_P (1 - e^(ε - S))_+,    H_ε(Q^T ‖ P^T) = E_Q (1 - e^(ε + S))_+,    S = L_1 + ... + L_T.

Discretisation. L increases in x. The mass of every piece of the line where ih ≤ L ≤ (i+1)h is moved to the two ends so
that its mass is kept under P and under Q. Under Q this spreads the law of e^L and keeps its mean, so that every convex
function of it grows: H_ε in both directions, at every ε. The new pair dominates the old one, and dominating pairs
compose (Doroshenko et al. 2022, arXiv 2207.04380; Zhu, Dong & Wang 2022, arXiv 2106.08567). The error is of second order in h.

Composition: see `losses`, to whose grid the masses are handed. The grid is chosen by the deviation of one step. Where L
is almost always almost 0 and now and then large (rarely drawn, little noise) the law of S spans too many such cells; then the
grid is made coarser by powers of two until the window of the FFT holds it.

Rigour. Masses are rounded up, which can only raise H. Trusted without proof: that numpy's and scipy's elementary functions
are good to the few units in the last place counted here.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, expm1, floor, inf, log, log1p, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_ndtr, ndtr, roots_legendre

from expunge.accounting import losses
from expunge.accounting.losses import EPS, Losses, Pair, coarse, losses_from

__all__ = ["PoissonStep", "log_delta_attained", "log_delta_upper"]

_REACH = 12.0  # standard deviations kept on either side; what lies beyond is given away, 1e-32 a step
_LEAST_WEIGHT = log(1e-40)  # binomial weights below are given away
_PIECE = 0.05  # the widest piece of the line for one quadrature: five nodes are then exact to rounding
_WIDEST = 200.0  # noises between the ends of the mixture; beyond it only the plain bounds are used
_FINEST = 1e-9  # the least deviation of L that floats resolve well
_STEP_CELLS = 1 << 18
_COMPONENTS = 1000  # of a mixture, at most
_MOST_DRAWN = 1e9  # expected draws of the group in one mixture: its weights must fit into memory
_AT_ONCE = 1 << 22  # exponentials in one array
_NODES, _LEGENDRE = (np.asarray(part, dtype=float) for part in roots_legendre(5))
_Vector = NDArray[np.float64]


@lru_cache(maxsize=4096)
def log_delta_upper(
    *, epsilon: float, sampling_rate: float, group_size: int, noise_multiplier: float, steps: int
) -> float:
    """An upper bound on the log δ(ε) of `steps` steps, in both directions.

    Args:
        epsilon: ε ≥ 0.
        sampling_rate: q in (0, 1): below 1, where nothing is amplified and the Gaussian profile is exact.
        group_size: m, records that come or go together.
        noise_multiplier: ν, the deviation of the noise over the norm of one record.
        steps: T.

    Returns:
        At most 0; the least of the composition and of the chance that a record of the group takes part at all. Never
        much below log(1e-31 T), which is given away with the tails.
    """
    unseen = group_size * steps * log1p(-sampling_rate)
    # Where nobody of the group is ever drawn the two worlds are one: P = e^unseen Q + ..., so δ ≤ 1 - e^unseen.
    taken = log(-expm1(unseen)) + 8 * EPS if unseen < 0 else -inf
    step = PoissonStep(sampling_rate, group_size, noise_multiplier)
    return min(losses.composed([(step, steps)], epsilon), taken, 0.0)


@dataclass(frozen=True)
class PoissonStep:
    """One noisy sum over a Poisson sample, with a group of m records against without.

    Args:
        sampling_rate: q in (0, 1).
        group_size: m.
        noise_multiplier: ν.
    """

    sampling_rate: float
    group_size: int
    noise_multiplier: float

    def spacing(self, steps: int) -> float | None:
        """Of the grid on which `steps` such steps compose; None where floats do not resolve the loss."""
        shape = _shape(self)
        if shape is None:
            return None
        # Cells a deviation: as many as a window of 16 deviations of S affords, at least 50 where the FFT can hold them.
        resolution = min(200.0, max((1 << 15) / (16 * sqrt(steps)), min(50.0, (1 << 21) / (16 * sqrt(steps)))))
        return coarse(max(shape.deviation / resolution, shape.least))

    def finest(self) -> float:
        """Of `_STEP_CELLS` cells for one step."""
        shape = _shape(self)
        return 0.0 if shape is None else coarse(shape.least)

    def pair(self, spacing: float) -> Pair:
        """The dominating pair on a grid of that spacing."""
        return _pair(self, spacing)


@dataclass(frozen=True)
class _Mixture:
    """Components j of weight exp(log_weight[j]) at j/ν, in units of the noise."""

    at: _Vector
    log_weight: _Vector
    dropped: float
    slack: float

    def log_ratio(self, x: _Vector) -> tuple[_Vector, _Vector]:
        """L and its derivative at x, of any shape."""
        parts = max(1, x.size * len(self.at) // _AT_ONCE)
        pairs = [self._log_ratio(part) for part in np.array_split(x.ravel(), parts)]
        level, slope = (np.concatenate(rows).reshape(x.shape) for rows in zip(*pairs, strict=True))
        return level, slope

    def _log_ratio(self, x: _Vector) -> tuple[_Vector, _Vector]:
        terms = self.log_weight + x[:, None] * self.at - 0.5 * self.at**2
        top = terms.max(axis=1)
        parts = np.exp(terms - top[:, None])
        total = parts.sum(axis=1)
        return top + np.log(total), (parts @ self.at) / total

    @property
    def rounding(self) -> float:
        """Absolute error of L on the line that is kept."""
        far = float(self.at[-1])
        return EPS * (64 + 4 * float(np.abs(self.log_weight).max()) + 4 * far * (far + _REACH))


def _mixture(sampling_rate: float, group_size: int, noise_multiplier: float, *, up: bool = True) -> _Mixture:
    """The components that weigh enough; where they are many, neighbours are taken together at the upper one.

    More of the group in a batch leaks more (Kahane's inequality; see `DPTraining`), so `up` dominates. For tail
    probabilities of the mixture the lower one is the safe side: `up=False`.
    """
    # Bernstein: what lies further from the mean weighs less than e^-500.
    mean = group_size * sampling_rate
    away = 40 * sqrt(mean) + 400
    j = np.arange(max(0, floor(mean - away)), min(group_size, ceil(mean + away)) + 1, dtype=float)
    log_choose = gammaln(group_size + 1.0) - gammaln(j + 1) - gammaln(group_size - j + 1)
    log_weight = log_choose + j * log(sampling_rate) + (group_size - j) * log1p(-sampling_rate)
    kept = log_weight > _LEAST_WEIGHT
    largest = float(gammaln(group_size + 1.0) - group_size * log1p(-sampling_rate) - j[-1] * log(sampling_rate))
    starts = np.arange(0, int(kept.sum()), ceil(int(kept.sum()) / _COMPONENTS))
    weight = np.add.reduceat(np.exp(log_weight[kept]), starts)
    ends = np.append(starts[1:], int(kept.sum())) - 1
    return _Mixture(
        at=j[kept][ends if up else starts] / noise_multiplier,
        log_weight=np.log(weight),
        dropped=float(np.exp(log_weight[~kept]).sum()) * (1 + 1e-6) + 1e-200,
        slack=8 * EPS * (largest + 128),
    )


@dataclass(frozen=True)
class _Shape:
    """L at the points x of the line, and its deviation where the group is or is not, whichever is less."""

    mixture: _Mixture
    x: _Vector
    level: _Vector
    deviation: float

    @property
    def least(self) -> float:
        """The spacing at which L has `_STEP_CELLS` cells."""
        return float(self.level[-1] - self.level[0]) / _STEP_CELLS


@lru_cache(maxsize=16)
def _shape(step: PoissonStep) -> _Shape | None:
    """None where floats do not resolve the loss."""
    if step.group_size * step.sampling_rate > min(_WIDEST * step.noise_multiplier, _MOST_DRAWN):
        return None
    mixture = _mixture(step.sampling_rate, step.group_size, step.noise_multiplier)
    far = float(mixture.at[-1])
    if far > _WIDEST:
        return None
    x = np.linspace(-_REACH, far + _REACH, 1 + ceil((far + 2 * _REACH) / _PIECE))
    level = mixture.log_ratio(x)[0]
    deviation = min(losses.deviation(level, -0.5 * x**2), losses.deviation(level, level - 0.5 * x**2))
    return _Shape(mixture, x, level, deviation) if deviation >= _FINEST else None


@lru_cache(maxsize=16)
def _pair(step: PoissonStep, spacing: float) -> Pair:
    shape = _shape(step)
    assert shape is not None, "a step without a spacing has no pair"
    present, absent, missed = _split(shape.mixture, shape.x, shape.level, spacing)
    lost = shape.mixture.dropped + 2 * float(ndtr(-_REACH)) * (1 + 1e-6)
    return Pair(present, absent, lost, shape.mixture.slack + 4 * shape.mixture.rounding + missed)


def _crossings(mixture: _Mixture, x: _Vector, level: _Vector, spacing: float) -> tuple[_Vector, float]:
    """Where L crosses the grid, and the largest error in L there. L is convex: Newton from the right never overshoots."""
    targets = spacing * np.arange(floor(level[0] / spacing) + 1, ceil(level[-1] / spacing))
    at = x[np.minimum(np.searchsorted(level, targets), len(x) - 1)]
    missed = inf
    for _ in range(60):
        value, slope = mixture.log_ratio(at)
        previous, missed = missed, float(np.abs(value - targets).max(initial=0.0))
        if missed <= mixture.rounding or missed >= previous:
            break
        at = np.clip(at - (value - targets) / slope, x[0], x[-1])
    return at, coarse(max(missed, mixture.rounding))


def _split(mixture: _Mixture, x: _Vector, level: _Vector, spacing: float) -> tuple[Losses, Losses, float]:
    """Move the mass between two crossings to the grid, its masses under P and Q kept, and rounded up.

    Returns the losses with and without the group, and the error of L at the crossings.
    """
    crossings, missed = _crossings(mixture, x, level, spacing)
    edges = np.unique(np.concatenate([x, crossings]))
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    index = np.floor(mixture.log_ratio(middle)[0] / spacing).astype(np.int64)
    nodes = middle[:, None] + half[:, None] * _NODES
    log_part = -0.5 * nodes**2
    top = log_part.max(axis=1)
    part = np.exp(log_part - top[:, None]) * _LEGENDRE
    whole = part.sum(axis=1)
    above = np.expm1(mixture.log_ratio(nodes)[0] - spacing * index[:, None])
    share = (part * above).sum(axis=1) / whole / expm1(spacing)  # of Q's mass that goes to the upper end
    error = 4 * (mixture.rounding + missed) / spacing
    upper, lower = np.clip(share + error, 0.0, 1.0), np.clip(1 - share + error, 0.0, 1.0)
    log_absent = np.log(whole * half) + top - 0.5 * log(2 * np.pi) + 4 * mixture.rounding
    first, count = int(index.min()), int(index.max() - index.min()) + 2
    ends = np.concatenate([index, index + 1])
    with np.errstate(divide="ignore"):
        masses = np.concatenate([log_absent + np.log(lower), log_absent + np.log(upper)])
    shifted = masses + spacing * ends + 8 * EPS * spacing * np.abs(ends)
    present = np.asarray(np.bincount(ends - first, np.exp(shifted), minlength=count), dtype=float)
    absent = np.asarray(np.bincount(ends - first, np.exp(masses), minlength=count), dtype=float)
    whole_index = first + np.arange(count)
    return losses_from(spacing, whole_index, present), losses_from(spacing, -whole_index, absent), missed


@lru_cache(maxsize=4096)
def log_delta_attained(
    *, epsilon: float, sampling_rate: float, group_size: int, noise_multiplier: float, steps: int
) -> float:
    """A lower bound on the log δ(ε) of the worst case: what the final weights alone show of a linear loss.

    There the weights are the sum of all steps, and compare Σ_j Binom(mT, q)(j) N(j, Tν²) with N(0, Tν²). The event is a
    half-line; any threshold is an adversary, so nothing rests on how it is picked. Arguments as in `log_delta_upper`;
    -inf where floats do not resolve it.
    """
    if group_size * steps * sampling_rate > _MOST_DRAWN:
        return -inf
    mixture = _mixture(sampling_rate, group_size * steps, noise_multiplier * sqrt(steps), up=False)
    return max(_best_event(mixture, epsilon, above=above) for above in (True, False))


def _best_event(mixture: _Mixture, epsilon: float, *, above: bool) -> float:
    """The most that a half-line gains, above a threshold with against without the group, below it the other way round."""
    low, high, best = -_REACH, float(mixture.at[-1]) + _REACH, -inf
    for _ in range(3):
        thresholds = np.linspace(low, high, 65)
        gains = _gains(mixture, epsilon, thresholds, above=above)
        k = int(gains.argmax())
        best = max(best, float(gains[k]))
        low, high = float(thresholds[max(k - 1, 0)]), float(thresholds[min(k + 1, 64)])
    return best


def _gains(mixture: _Mixture, epsilon: float, thresholds: _Vector, *, above: bool) -> _Vector:
    """Log of A(E) - e^ε B(E) for each threshold, rounded down; -inf where it may not be above 0."""
    side = 1.0 if above else -1.0
    alone = np.asarray(log_ndtr(-side * thresholds), dtype=float)
    terms = mixture.log_weight + np.asarray(log_ndtr(side * (mixture.at - thresholds[:, None])), dtype=float)
    top = terms.max(axis=1)
    there = top + np.log(np.exp(terms - top[:, None]).sum(axis=1))
    more, less = (there, alone) if above else (alone, np.logaddexp(there, log(mixture.dropped)))
    error = mixture.slack + 1e-12 + 8 * EPS * (np.abs(more) + np.abs(less))
    gap = more - less - epsilon - 2 * error
    with np.errstate(divide="ignore"):
        return np.asarray(more - error + np.log(-np.expm1(-np.maximum(gap, 0.0))), dtype=float)
