"""The greedy one-dimensional adversary of noisy gradient steps: lower bounds that no analysis can beat.

Two chains on a line start at p > q and share the steps x ← ρ x ± s/2 + N(0, σ²): the clipped gradient is pushed up
where x > τ_t and down elsewhere, a loss that exists. For an event {x > a} the δ at ε is at least P(x > a) - e^ε Q(x > a).

Which τ_t? For any increasing future the best step pushes up exactly where the density ratio of the chains exceeds e^ε:
so this choice, step by step, is the best one-dimensional adversary with increasing futures (proof: docs/accounting.md).
Any other choice is still an adversary, so that the τ_t may be picked numerically and nothing rests on them.

Rigour. In the coordinate x/ρ^t decay vanishes and drift and noise grow as ρ^-t. The step map is increasing, so rounding
the P chain down and the Q chain up to a grid after every step keeps them on their sides (monotone coupling): P(x > a)
is bounded below and Q(x > a) above. What the FFT and the kernel lose is summed in L1 and given away.
"""

from dataclasses import dataclass
from math import ceil, exp, fsum, inf, isfinite, log, log2, sqrt
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.special import ndtr

from expunge.accounting import gaussian
from expunge.accounting.schedules import path

__all__ = ["log_delta_center", "log_delta_retrained"]

_CELLS = 1 << 16
_REACH = 9.0  # standard deviations of noise that the grid keeps; Φ(-9) = 1e-19 is given away
_EPS = 2.0**-52
_fft: Any = scipy.fft  # its stubs admit arguments of every backend
_Vector = NDArray[np.float64]


def log_delta_retrained(
    *, epsilon: float, radius: float, push: _Vector, decay: _Vector, noise_std: _Vector, cells: int = _CELLS
) -> float:
    """A lower bound on the log δ(ε) of noisy steps from two starts of a ball.

    Args:
        epsilon: ε ≥ 0.
        radius: C0 of the ball.
        push: η_t C1, the longest move that a clipped gradient makes, shape (T,).
        decay: 1 - ρ_t in [0, 1], shape (T,).
        noise_std: σ_t > 0, shape (T,).
        cells: of the grid; the bound rises with them, its cost too.

    Returns:
        -inf where nothing above 0 is attained, or where a step after the first has ρ = 0.
    """
    # The first step meets two points: both sides are known, and the chains are Gaussian after it.
    after = (1 - decay[0]) * radius + push[0]
    return _attained(epsilon, 2 * after, noise_std[0], push[1:], decay[1:], noise_std[1:], cells)


def log_delta_center(
    *, epsilon: float, radius: float, push: _Vector, decay: _Vector, noise_std: _Vector, cells: int = _CELLS
) -> float:
    """The same against noise alone up to the step where shifted interpolation is least, then the same steps.

    Until then the chain is pushed in one direction, so that both are Gaussian and what is attained is the bound itself.
    """
    noiseless = path(distance=radius, drift=push, decay=decay, noise_std=noise_std)
    k = int(noiseless.mu.argmin())
    distance, std = float(noiseless.distance[k]), float(noiseless.noise_std[k])
    rounding = 1 - 8 * (k + 4) * _EPS
    rest = slice(k + 1, None)
    return _attained(epsilon, distance * rounding, std, push[rest], decay[rest], noise_std[rest], cells)


def _attained(
    epsilon: float, distance: float, std: float, push: _Vector, decay: _Vector, noise_std: _Vector, cells: int
) -> float:
    """From two Gaussians of deviation `std` whose means are `distance` apart."""
    steps = len(push)
    if steps == 0:
        return gaussian.log_delta_lower(epsilon, distance / std * (1 - 8 * _EPS))
    with np.errstate(all="ignore"):
        scale = np.cumprod(1 - decay)
        # Rounded down: a smaller push is one of the adversary's choices.
        pushes, noises = push / scale * (1 - 4 * (steps + 1) * _EPS), noise_std / scale
        half = 0.5 * distance * (1 - 8 * _EPS)
        reach = half + float(pushes.sum()) + _REACH * sqrt(std**2 + float(noises @ noises))
    if not isfinite(reach):
        return -inf
    grid = _Grid(low=-reach, width=2 * reach / cells, cells=cells)
    ratio = exp(min(epsilon, 700.0))
    p, lost_p = grid.gaussian(half, std, up=False)
    q, lost_q = grid.gaussian(-half, std, up=True)
    lost = lost_p + ratio * lost_q
    for one_push, noise in zip(pushes, noises, strict=True):
        above = _best_threshold(p, q, ratio)
        p, lost_p = grid.step(p, above, one_push, noise, up=False)
        q, lost_q = grid.step(q, above, one_push, noise, up=True)
        lost += lost_p + ratio * lost_q
    above = _best_threshold(p, q, ratio)
    # The scales of the noises carry T roundings each, which moves a step's law by as much in total variation.
    lost += _EPS * (1 + ratio) * (4 + 4 * (steps + 1) ** 2)
    # What Q does not hold on the grid may lie above it, so Q(x > a) is bounded by what is not known to lie below.
    attained = fsum(p[above:]) - ratio * (1 - fsum(q[:above])) - lost
    return log(attained) if attained > 0 else -inf


def _best_threshold(p: _Vector, q: _Vector, ratio: float) -> int:
    """The first cell of the half-line that P favours most over e^ε Q."""
    return int(np.argmax(np.cumsum((p - ratio * q)[::-1])[::-1]))


@dataclass(frozen=True)
class _Grid:
    low: float
    width: float
    cells: int

    def gaussian(self, mean: float, std: float, *, up: bool) -> tuple[_Vector, float]:
        """Masses of a Gaussian rounded to the grid, downwards or upwards, and their L1 error."""
        masses, error = _cell_masses((self.low + self.width * np.arange(self.cells + 1) - mean) / std)
        return _round(masses, up=up), error

    def step(self, masses: _Vector, above: int, push: float, noise: float, *, up: bool) -> tuple[_Vector, float]:
        """The law after one step, rounded to the grid, and what was lost on the way in L1."""
        # Longer moves than this are given away too, and moves off the grid.
        far = min(ceil((push + _REACH * noise) / self.width), self.cells)
        edges = self.width / noise * np.arange(-far, far + 1)
        size = _fft.next_fast_len(self.cells + 2 * far, real=True)
        total, lost = np.zeros(size // 2 + 1, dtype=complex), 0.0
        for part, shift in ((slice(above, None), push), (slice(0, above), -push)):
            moved = np.zeros(self.cells)
            moved[part] = masses[part]
            kernel, error = _cell_masses(edges - shift / noise)
            total += _fft.rfft(moved, size) * _fft.rfft(kernel, size)
            # The FFT errs by a small multiple of 2^-52 log n in L2, here taken as 16; √cells makes it L1.
            norms = float(np.linalg.norm(moved) * np.linalg.norm(kernel))
            lost += error * float(moved.sum()) + 16 * _EPS * log2(size) * sqrt(self.cells) * norms
        spread = _fft.irfft(total, size)[far : far + self.cells]
        return _round(spread, up=up), lost


def _cell_masses(edges: NDArray[np.floating]) -> tuple[_Vector, float]:
    """The normal law between consecutive edges, and the L1 error of all.

    Differences of Φ, taken on the side where Φ is small; each value is good to a few units in the last place.
    """
    below, above = ndtr(edges), ndtr(-edges)
    masses = np.where(edges[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1])
    return masses, 8 * _EPS * float(np.minimum(below, above).sum())


def _round(masses: _Vector, *, up: bool) -> _Vector:
    """Mass of cell [i, i+1) to its lower edge i (as it stands) or to its upper edge i + 1."""
    return np.concatenate([[0.0], masses[:-1]]) if up else masses
