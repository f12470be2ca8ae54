"""From one record to a group of records: what a guarantee about each alone says of several together."""

from math import expm1

from expunge import _validate
from expunge.accounting.bounds import ROUNDING

__all__ = ["group_epsilon_delta", "group_mu"]


def group_mu(mu: float, size: int) -> float:
    """μ for a group of `size` records where a single one has μ (Dong, Roth & Su 2019, Theorem 2.14).

    Needed for guarantees about single records. The mechanisms of this package that take a forget set of any size need
    no such factor.
    """
    _validate.positive(mu=mu)
    _validate.whole(size=size)
    return mu * size * (1 + 2.0**-52)


def group_epsilon_delta(epsilon: float, delta: float, size: int) -> tuple[float, float]:
    """(ε, δ) for a group of `size` records, every factor kept: size ε, and δ (e^(size ε) - 1)/(e^ε - 1), at most 1."""
    _validate.non_negative(epsilon=epsilon)
    _validate.open_unit_interval(delta=delta)
    _validate.whole(size=size)
    if epsilon * size > 700:
        return epsilon * size * (1 + ROUNDING), 1.0
    factor = float(size) if epsilon == 0 else expm1(size * epsilon) / expm1(epsilon)
    return epsilon * size * (1 + ROUNDING), min(delta * factor * (1 + ROUNDING), 1.0)
