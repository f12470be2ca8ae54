"""The model-clipping recursion: hockey-stick divergence contracts at every step.

Whatever a step did, the clip puts both chains within 2 C2 of one another before the noise, so the step's kernel K
satisfies E_{e^ε}(K(x) ‖ K(y)) ≤ Q_r(ε), the Gaussian profile at r = 2 C2/σ. For two laws P, Q with
E_{e^ε}(P ‖ Q) = θ, remove the common part min(P, e^ε Q): what is left is θ (P' K - e^ε~ Q' K) with
e^ε~ = 1 + (e^ε - 1)/θ, hence

    E_{e^ε}(PK ‖ QK) ≤ θ Q_r(ε~)

(advanced joint convexity: Balle et al. 2019, arXiv 1905.12264, Theorem 1; Asoodeh et al. 2020). The right side grows
with θ, being sup_S θ (P'K(S) - Q'K(S)) - (e^ε - 1) Q'K(S), so an upper bound on θ may take its place. Starting from
θ = 1 (nothing known) this gives the profile after every step; its logarithm falls doubly exponentially.

It is tight, at every ε and T: let the step map x to c + C2 where x > τ_t and to c - C2 elsewhere (some loss does). With
a, b the probabilities of the upper point in the two worlds, θ_t = a - e^ε b, one step gives
θ_{t+1} = θ_t (p - e^ε~ q), p = Φ((C2 - τ)/σ), q = Φ((-C2 - τ)/σ), and the best τ makes the bracket Q_r(ε~). From starts
on the two sides θ_0 = 1: the recursion itself is what this adversary attains.
"""

from collections.abc import Callable
from math import exp, inf, log1p

from expunge.accounting.gaussian import log1mexp, log_delta_lower, log_delta_upper

__all__ = ["log_delta_after", "log_delta_attained"]

# Below this every budget is met; stopping early only leaves the bound larger.
_LOW_ENOUGH = -1e5
# No more steps than these are counted, so that a hostile certificate cannot keep its reader busy; again only larger.
_MOST_STEPS = 10_000


def log_delta_after(steps: int, *, epsilon: float, shift: float) -> float:
    """An upper bound on log δ(ε) after `steps` steps whose noise sees starts at most `shift` standard deviations apart."""
    return _recursion(min(steps, _MOST_STEPS), log_delta_upper, epsilon, shift)


def log_delta_attained(steps: int, *, epsilon: float, shift: float) -> float:
    """A lower bound on what the adversary attains, starts at least `shift` apart; -inf beyond 10,000 steps or e^-1e5."""
    if steps > _MOST_STEPS:
        return -inf
    attained = _recursion(steps, log_delta_lower, epsilon, shift)
    return attained if attained > _LOW_ENOUGH else -inf


def _recursion(steps: int, profile: Callable[[float, float], float], epsilon: float, shift: float) -> float:
    log_expm1 = epsilon + log1mexp(epsilon) if epsilon > 0 else -inf
    log_theta = 0.0
    for _ in range(steps):
        before = log_theta
        log_theta += profile(_log1pexp(log_expm1 - log_theta), shift)
        if log_theta < _LOW_ENOUGH or log_theta == before:
            break
    return log_theta


def _log1pexp(x: float) -> float:
    """log(1 + e^x)."""
    return max(x, 0.0) + log1p(exp(-abs(x)))
