"""Shifted interpolation: the μ of a noisy iteration whose step hardly moves two chains apart.

Let two chains start at distance D and share the kernel x ↦ ψ(x) + N(0, σ² I), with |ψ(x) - ψ(y)| ≤ ρ|x - y| + s and
0 ≤ ρ ≤ 1. After k steps they are μ_k-GDP with

    μ_k = (ρ^k D + s Σ_{j<k} ρ^j) / (σ sqrt(Σ_{j<k} ρ^{2j}))

(Bok, Su & Altschuler 2024, arXiv 2403.00278; the drift s is the clipped gradient of Koloskova et al. 2025,
arXiv 2506.06985). Derivation: interpolate with shifts z_0 = D, z_{t+1} = ρ z_t + s - a_{t+1}, z_k = 0; step t costs
a_t/σ, costs compose as the root of the sum of squares, Cauchy-Schwarz puts a_t proportional to ρ^{k-t}. These shifts
are feasible (z_t ≥ 0) for constant σ: the drift part needs 1 + ρ^k ≥ ρ^{k-t} + ρ^k, the distance part needs
Σ_{j<t} ρ^{2j} ρ^{2(k-t)} ≤ Σ_{j<k} ρ^{2j}; both hold as ρ ≤ 1.

What follows step k is post-processing with the same kernel, so the T-step chain is min_{k ≤ T} μ_k-GDP. The minimum is
found in closed form: with q = ρ^k, μ_k is proportional to (A + Bq)/sqrt(1 - q²), A = s/(1 - ρ), B = D - A, whose only
stationary point is q = -B/A (a minimum), or k = D/s where ρ = 1.
"""

from math import exp, expm1, floor, inf, log1p, sqrt

from expunge import _validate

__all__ = ["best_prefix", "shifted_interpolation"]

_EPS = 2.0**-52


def shifted_interpolation(*, distance: float, drift: float, decay: float, noise_std: float, steps: int) -> float:
    """An upper bound on the μ of `steps` noisy steps, the minimum over all prefixes, rounded up.

    Args:
        distance: D, between the two starts.
        drift: s, the most a step may add to the distance before the noise.
        decay: 1 - ρ = η λ, in [0, 1]. Given as the decay so that no digit of a small one is lost.
        noise_std: σ of each step, per coordinate.
        steps: T ≥ 1.
    """
    k = best_prefix(distance=distance, drift=drift, decay=decay, steps=steps)
    return _mu_after(k, distance=distance, drift=drift, decay=decay) / noise_std * (1 + 2 * _EPS)


def best_prefix(*, distance: float, drift: float, decay: float, steps: int) -> int:
    """The number of steps k ≤ T at which μ_k is least."""
    _validate.non_negative(distance=distance, drift=drift, decay=decay)
    _validate.at_most_one(decay=decay)
    _validate.whole(steps=steps)
    stationary = _stationary_point(distance, drift, decay)
    lower = int(min(max(floor(min(stationary, steps)), 1), steps))
    upper = min(lower + 1, steps)
    return min((lower, upper), key=lambda k: _mu_after(k, distance=distance, drift=drift, decay=decay))


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
