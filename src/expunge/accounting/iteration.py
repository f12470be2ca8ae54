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

Constant schedules have a closed form: with q = ρ^k, μ_k is proportional to (A + Bq)/sqrt(1 - q²), A = s/(1 - ρ), B = D - A,
whose only stationary point is q = -B/A (a minimum), or k = D/s where ρ = 1.
"""

from math import exp, expm1, floor, inf, log1p, sqrt

from expunge import _validate

__all__ = ["best_prefix", "mu_after", "shifted_interpolation"]

_EPS = 2.0**-52


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
