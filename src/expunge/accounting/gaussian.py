"""The exact privacy profile of a Gaussian shift, in logarithms.

Two Gaussians of standard deviation σ whose means differ by μσ are (ε, δ)-close exactly when
δ ≥ Φ(μ/2 - ε/μ) - e^ε Φ(-μ/2 - ε/μ) (Balle & Wang 2018, arXiv 1805.06530, Theorem 8). A mechanism with this profile
in both directions is μ-GDP (Dong, Roth & Su 2019, arXiv 1905.02383).

Computation. Put u = ε/μ - μ/2 and v = ε/μ + μ/2. Since v² - u² = 2ε, e^ε φ(v) = φ(u), and with the Mills ratio
M(x) = Φ(-x)/φ(x) = sqrt(π/2) exp(x²/2) erfc(x/√2):

    δ = φ(u) (M(u) - M(v)) = φ(u) ∫_u^v N(x) dx,    N(x) = -M'(x) = 1 - x M(x) > 0.

The difference is taken directly where M(v) < M(u)/2 and as the integral (Gauss-Legendre, twelve nodes) where it would
cancel: there N varies slowly, and nothing is subtracted. From x = 2.5 on both come from Laplace's continued fraction, all of
whose terms are positive: with K = 1/(x + 2/(x + 3/(x + ...))), M = 1/(x + K) and N = K/(x + K).

Plain floats and no arrays: whoever verifies a certificate needs this file, and need not wait for an array library to load.
"""

from math import erf, erfc, exp, expm1, inf, log, log1p, pi, sqrt

from expunge import _validate
from expunge.accounting.search import smallest

__all__ = ["epsilon", "log1mexp", "log_delta", "log_delta_lower", "log_delta_upper", "mu", "total_variation"]

_EPS = 2.0**-52
_LOG_SQRT_2PI = 0.5 * log(2 * pi)
_SQRT_HALF_PI, _SQRT_HALF = sqrt(pi / 2), sqrt(0.5)
# Gauss-Legendre with 12 nodes on [0, 1], the upper half of the nodes; the lower half mirrors it.
_LEGENDRE = (
    (0.56261670425573445774, 0.1245735229067013925),
    (0.68391574949909009688, 0.11674626826917740438),
    (0.79365897714330872365, 0.10158371336153296087),
    (0.88495133709715234352, 0.080039164271673113167),
    (0.95205862818523742834, 0.05346966299765921548),
    (0.99078031712335962535, 0.023587668193255913597),
)
_RULE = tuple((at, weight) for x, weight in _LEGENDRE for at in (x, 1 - x))
_FRACTION_FROM = 2.5


def log_delta(epsilon: float, mu: float) -> float:
    """Log δ(ε) of a shift by μ standard deviations, to the nearest float (ε ≥ 0, μ > 0).

    Checked against 50-digit arithmetic over μ in [1e-4, 50] and log δ down to -1e5.
    """
    u, v = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    if u > 1e150:
        return -1e300
    log_density = -u * u / 2 - _LOG_SQRT_2PI
    if u < -5:  # δ is near 1 and μ > 10: take what is missing from Φ(-u)
        missing = erfc(-u * _SQRT_HALF) / 2
        return log1p(-missing) + log1p(-exp(log_density) * _mills(v) / (1 - missing))
    mills_u, mills_v = _mills(u), _mills(v)
    difference = mills_u - mills_v if mills_v < 0.5 * mills_u else _mills_drop(u, mu)
    # Where it underflows, u is above 1e70, and its logarithm of a few thousand nothing beside a log_density of -1e140.
    return min((log(difference) if difference > 0 else 0.0) + log_density, 0.0)


def log_delta_upper(epsilon: float, mu: float) -> float:
    """An upper bound on log δ(ε) that covers the rounding of `log_delta`.

    u carries an absolute error of at most 2^-52 (v + |u|), and |d log δ / du| ≤ max(u, 0) + 1; the remaining factors
    are accurate to a few units of 1e-14. No number in, nothing known out: 0, which is δ = 1.
    """
    if not (epsilon >= 0 and mu >= 0):
        return 0.0
    mu = max(mu, 1e-290)  # a larger μ has a larger profile; an underflown one must not divide
    u, v = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    if u > 1e150:
        return -1e290
    if v >= 1e150:
        return 0.0  # μ itself is that large: nothing is hidden
    return min(log_delta(epsilon, mu) + _rounding(u, v), 0.0)


def log_delta_lower(epsilon: float, mu: float) -> float:
    """A lower bound on log δ(ε) that covers the rounding of `log_delta`; -inf where floats end."""
    if not mu >= 1e-290:
        return -inf
    u, v = epsilon / mu - mu / 2, epsilon / mu + mu / 2
    return -inf if v >= 1e150 else log_delta(epsilon, mu) - _rounding(u, v)


def _rounding(u: float, v: float) -> float:
    return 8 * _EPS * v * (max(u, 0.0) + 1) + 2e-13


def epsilon(mu: float, delta: float) -> float:
    """The least ε with δ(ε) ≤ delta for a μ-GDP mechanism, rounded up."""
    _validate.positive(mu=mu)
    _validate.open_unit_interval(delta=delta)
    target = log(delta)
    if log_delta_upper(0.0, mu) <= target:
        return 0.0
    return smallest(lambda eps: log_delta_upper(eps, mu) - target)


def mu(epsilon: float, delta: float) -> float:
    """The largest μ whose profile passes through (ε, δ), rounded down."""
    _validate.non_negative(epsilon=epsilon)
    _validate.open_unit_interval(delta=delta)
    target = log(delta)
    inverse = smallest(lambda x: log_delta_upper(epsilon, 1 / x) - target)
    return 0.0 if inverse == inf else (1 / inverse) * (1 - _EPS)


def total_variation(mu: float) -> float:
    """2 Φ(μ/2) - 1: the most by which the probability of any event can differ between two μ-GDP worlds."""
    return erf(mu / sqrt(8))


def _mills(x: float) -> float:
    if x < _FRACTION_FROM:
        return _SQRT_HALF_PI * exp(x * x / 2) * erfc(x * _SQRT_HALF)
    return 1 / (x + _fraction(x))


def _mills_drop(u: float, width: float) -> float:
    """M(u) - M(u + width) without cancellation."""
    return width * sum(weight * _slope(u + width * at) for at, weight in _RULE)


def _slope(x: float) -> float:
    """N(x) = 1 - x M(x) = -M'(x)."""
    if x < _FRACTION_FROM:
        return 1 - x * _mills(x)
    fraction = _fraction(x)
    return fraction / (x + fraction)


def _fraction(x: float) -> float:
    """K(x) for x ≥ 2.5: what is left out after so many terms is less than 1e-17 of it."""
    tail = x
    for k in range(16 + int(480 / (x * x)), 1, -1):
        tail = x + k / tail
    return 1 / tail


def log1mexp(x: float) -> float:
    """log(1 - e^-x) for x > 0 (Mächler 2012)."""
    if x <= 0:
        return -inf
    return log(-expm1(-x)) if x < log(2) else log1p(-exp(-x))
