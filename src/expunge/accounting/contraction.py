"""The model-clipping recursion: hockey-stick divergence contracts at every step.

Whatever a step did, the clip puts both chains within 2 C2 of one another before the noise, so the step's kernel K
satisfies E_{e^ε}(K(x) ‖ K(y)) ≤ Q_r(ε), the Gaussian profile at r = 2 C2/σ. For two laws P, Q with
E_{e^ε}(P ‖ Q) = θ, remove the common part min(P, e^ε Q): what is left is θ (P' K - e^ε~ Q' K) with
e^ε~ = 1 + (e^ε - 1)/θ, hence

    E_{e^ε}(PK ‖ QK) ≤ θ Q_r(ε~)

(advanced joint convexity: Balle et al. 2019, arXiv 1905.12264, Theorem 1; Asoodeh et al. 2020). The right side grows
with θ, being sup_S θ (P'K(S) - Q'K(S)) - (e^ε - 1) Q'K(S), so an upper bound on θ may take its place. Starting from
θ = 1 (nothing known) this gives the profile after every step; its logarithm falls doubly exponentially.
"""

from math import inf

import numpy as np

from expunge.accounting.gaussian import log1mexp, log_delta_upper

__all__ = ["log_delta_after"]

# Below this every budget is met; stopping early only leaves the bound larger.
_LOW_ENOUGH = -1e5
# No more steps than these are counted, so that a hostile certificate cannot keep its reader busy; again only larger.
_MOST_STEPS = 10_000


def log_delta_after(steps: int, *, epsilon: float, shift: float) -> float:
    """An upper bound on log δ(ε) after `steps` steps whose noise sees starts at most `shift` standard deviations apart."""
    log_expm1 = epsilon + log1mexp(epsilon) if epsilon > 0 else -inf
    log_theta = 0.0
    for _ in range(min(steps, _MOST_STEPS)):
        before = log_theta
        log_theta += log_delta_upper(float(np.logaddexp(0.0, log_expm1 - log_theta)), shift)
        if log_theta < _LOW_ENOUGH or log_theta == before:
            break
    return log_theta
