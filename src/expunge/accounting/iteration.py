"""Shifted interpolation: the μ of a noisy iteration whose step hardly moves two chains apart.

Let two chains start at distance D and share the kernels x ↦ ψ_t(x) + N(0, σ_t² I), |ψ_t(x) - ψ_t(y)| ≤ ρ_t |x - y| + s_t,
0 ≤ ρ_t ≤ 1. Interpolate with shifts z_0 = D, z_t = ρ_t z_{t-1} + s_t - a_t ≥ 0, z_k = 0: step t costs a_t/σ_t, costs
compose as the root of the sum of squares, and after k the chains are one (Bok, Su & Altschuler 2024, arXiv 2403.00278;
the drift s is the clipped gradient of Koloskova et al. 2025, arXiv 2506.06985). The best choice is

    μ = min_k c_k / sqrt(u_k),   c_k = ρ_k c_{k-1} + s_k, c_0 = D,   u_k = ρ_k² u_{k-1} + σ_k², u_0 = 0:

at some step, the distance as it would be without noise, over the standard deviation of the noise so far.

Proof. Let w_t = ρ_{t+1} ... ρ_k. Unrolled, z_k = 0 says Σ w_t a_t = c_k, so Cauchy-Schwarz gives
Σ (a_t/σ_t)² ≥ c_k²/Σ w_t² σ_t² = c_k²/u_k for every strategy that ends at k: none beats the minimum over k. At the
minimum the bound is attained by a_t = m w_t σ_t², m = c_k/u_k, if this keeps z ≥ 0. It does: z_t w_t is C_t - m V_t, where
C_t = w_t c_t and V_t = w_t² u_t. C_t rises to C_k, and C_t²/V_t ≥ C_k²/V_k as k is the minimum; so
C_t/V_t ≥ (C_k²/V_k)/C_t ≥ C_k/V_k = m. (Where some ρ is 0 what came before it has weight 0 and the same holds from there.)
No positivity constraint remains, whatever the schedule: no convex problem has to be solved.

Projection. If both chains are projected onto a set of diameter q_t after step t, then z_t ≤ q_t at no cost, and the
iteration may as well start there: the bound is the least over such starts.

Constant schedules have a closed form: with q = ρ^k, μ_k is proportional to (A + Bq)/sqrt(1 - q²), A = s/(1 - ρ), B = D - A,
whose only stationary point is q = -B/A (a minimum), or k = D/s where ρ = 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, expm1, floor, inf, log1p, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate

__all__ = ["Path", "best_prefix", "mu_after", "path", "scheduled", "shifted_interpolation"]

_EPS = 2.0**-52
_MOST_WORK = 2 * 10**8  # steps times starts that `scheduled` follows; starts beyond are skipped, which is only larger


def shifted_interpolation(*, distance: float, drift: float, decay: float, noise_std: float, steps: int) -> float:
    """An upper bound on the μ of `steps` equal noisy steps, the minimum over all prefixes, rounded up.

    Args:
        distance: D, between the two starts.
        drift: s, the most a step may add to the distance before the noise.
        decay: 1 - ρ = η λ, in [0, 1]. Given as the decay so that no digit of a small one is lost.
        noise_std: σ of each step, per coordinate.
        steps: T ≥ 1.
    """
    k = best_prefix(distance=distance, drift=drift, decay=decay, steps=steps)
    return mu_after(k, distance=distance, drift=drift, decay=decay, noise_std=noise_std)


def mu_after(steps: int, *, distance: float, drift: float, decay: float, noise_std: float) -> float:
    """The bound counted at the last step, with no minimum over prefixes, rounded up.

    This is what holds where the two chains do not share their kernels, so that a step may part them again at a point
    where they met: |ψ(x) - ψ'(y)| ≤ ρ |x - y| + s. For equal steps the shifts of the proof are feasible at every k.

    Args:
        steps: k ≥ 1.
        distance: D, between the two starts.
        drift: s, the most a step may add to the distance before the noise.
        decay: 1 - ρ, in [0, 1].
        noise_std: σ of each step, per coordinate.
    """
    return _mu_after(steps, distance=distance, drift=drift, decay=decay) / noise_std * (1 + 2 * _EPS)


def best_prefix(*, distance: float, drift: float, decay: float, steps: int) -> int:
    """The number of steps k ≤ T at which μ_k is least."""
    _validate.non_negative(distance=distance, drift=drift, decay=decay)
    _validate.at_most_one(decay=decay)
    _validate.whole(steps=steps)
    stationary = _stationary_point(distance, drift, decay)
    lower = int(min(max(floor(min(stationary, steps)), 1), steps))
    upper = min(lower + 1, steps)
    return min((lower, upper), key=lambda k: _mu_after(k, distance=distance, drift=drift, decay=decay))


@dataclass(frozen=True)
class Path:
    """Two chains without noise, and the noise, after each of T steps.

    Args:
        distance: c_1 ... c_T, shape (T,).
        noise_std: sqrt(u_1) ... sqrt(u_T), shape (T,).
    """

    distance: NDArray[np.float64]
    noise_std: NDArray[np.float64]

    @property
    def mu(self) -> NDArray[np.float64]:
        """μ_1 ... μ_T, each the bound for ending there, rounded up; infinite where floats end."""
        steps = np.arange(1, len(self.distance) + 1)
        with np.errstate(all="ignore"):
            ratio = self.distance / self.noise_std * (1 + 4 * _EPS * (steps + 2))
        return np.where(np.isnan(ratio), inf, ratio)


def path(*, distance: float, drift: ArrayLike, decay: ArrayLike, noise_std: ArrayLike) -> Path:
    """c_k and sqrt(u_k) for every prefix of a schedule, in O(T).

    Args:
        distance: D ≥ 0, between the two starts.
        drift: s_t ≥ 0, shape (T,).
        decay: 1 - ρ_t in [0, 1], shape (T,).
        noise_std: σ_t > 0, shape (T,).

    Raises:
        TypeError, ValueError: a schedule is empty, of another length than the others, not finite or out of range; the
            message names the schedule, the step and the value.
    """
    _validate.non_negative(distance=distance)
    schedules = _validate.schedules(
        drift=(drift, 0.0, inf), decay=(decay, 0.0, 1.0), noise_std=(noise_std, _validate.LEAST, inf)
    )
    largest = float(schedules["noise_std"].max())
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        drift, noise_std = schedules["drift"] / largest, schedules["noise_std"] / largest
        c, u = _accumulate(distance / largest, drift, 1 - schedules["decay"], noise_std)
        return Path(c * largest, np.sqrt(u) * largest)


def scheduled(
    *,
    distance: float,
    drift: ArrayLike,
    decay: ArrayLike,
    noise_std: ArrayLike,
    diameter: Sequence[float] | NDArray[np.float64] | None = None,
) -> tuple[float, int]:
    """An upper bound on the μ of any schedule, rounded up, and the step k at which it is reached.

    Args:
        distance: D ≥ 0, between the two starts.
        drift: s_t ≥ 0, shape (T,).
        decay: 1 - ρ_t in [0, 1], shape (T,).
        noise_std: σ_t > 0, shape (T,).
        diameter: of the set onto which both chains are projected after step t, shape (T,); infinite for none.

    Raises:
        TypeError, ValueError: see `path`.
    """
    whole = path(distance=distance, drift=drift, decay=decay, noise_std=noise_std)
    mu = whole.mu
    best = (float(mu.min()), int(mu.argmin()) + 1)
    if diameter is None:
        return best
    q = _validate.schedules(diameter=(diameter, 0.0, None), noise_std=(noise_std, 0.0, inf))["diameter"]
    # A projection helps only where it brings the chains nearer than they are, and before the last step.
    starts = np.flatnonzero(q[:-1] < whole.distance[:-1])
    for start in starts[:: max(1, -(-len(starts) * len(q) // _MOST_WORK))]:
        rest = slice(int(start) + 1, None)
        mu = path(
            distance=float(q[start]),
            drift=np.asarray(drift)[rest],
            decay=np.asarray(decay)[rest],
            noise_std=np.asarray(noise_std)[rest],
        ).mu
        best = min(best, (float(mu.min()), int(start) + 2 + int(mu.argmin())))
    return best


def _accumulate(
    distance: float, drift: NDArray[np.float64], rho: NDArray[np.float64], noise_std: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """c_1..c_T and u_1..u_T. Blocks of about sqrt(T) steps run side by side, then each takes over its predecessor's end."""
    steps = len(drift)
    length = max(1, round(steps**0.5))
    blocks = -(-steps // length)

    def lay(values: NDArray[np.float64], fill: float) -> NDArray[np.float64]:
        if steps < blocks * length:
            values = np.concatenate([values, np.full(blocks * length - steps, fill)])
        return values.reshape(blocks, length).T.copy()

    rho, c, u = lay(rho, 1.0), lay(drift, 0.0), lay(noise_std, 0.0)
    u *= u
    p = rho.copy()
    for t in range(1, length):
        c[t] += rho[t] * c[t - 1]
        u[t] += rho[t] * rho[t] * u[t - 1]
        p[t] *= p[t - 1]
    ends = np.empty((2, blocks))
    before_c, before_u = distance, 0.0
    for b, (pb, cb, ub) in enumerate(zip(p[-1].tolist(), c[-1].tolist(), u[-1].tolist(), strict=True)):
        ends[:, b] = before_c, before_u
        before_c, before_u = cb + pb * before_c, ub + pb * pb * before_u
    c += p * ends[0]
    p *= p
    u += p * ends[1]
    return c.T.reshape(-1)[:steps], u.T.reshape(-1)[:steps]


def _stationary_point(distance: float, drift: float, decay: float) -> float:
    if drift == 0:
        return inf
    if decay == 0:
        return distance / drift
    ratio = decay * distance / drift  # q = 1 - ratio
    if ratio >= 1:
        return inf
    if decay == 1:
        return 1.0
    return log1p(-ratio) / log1p(-decay)


def _mu_after(k: int, *, distance: float, drift: float, decay: float) -> float:
    """σ μ_k, rounded up."""
    if decay == 0:
        return (distance + drift * k) / sqrt(k) * (1 + 4 * _EPS)
    if decay == 1:
        return drift  # ρ = 0: the last step forgets everything before it
    exponent = k * log1p(-decay)
    powers = -expm1(exponent) / decay  # Σ ρ^j
    squares = -expm1(2 * exponent) / (decay * (2 - decay))  # Σ ρ^2j
    rounding = 4 * _EPS * (8 + min(-exponent, 745.0))  # exp(x) carries a relative error of |x| units
    return (exp(exponent) * distance + drift * powers) / sqrt(squares) * (1 + rounding)
