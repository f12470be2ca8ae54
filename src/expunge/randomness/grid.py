"""The public step to whose multiples a release is rounded, so that its low bits say nothing."""

from math import frexp, ldexp

__all__ = ["BITS", "grid_of"]

BITS = 12  # σ is between 2^12 and 2^13 steps


def grid_of(std: float) -> float:
    """The largest power of two that is at most σ/2^12; it depends on the public σ alone.

    Derivation: docs/randomness.md. A coarser step leaves less to the rounding of the normal numbers (total variation
    √d 2^-36 at this one), and adds a variance of at most 2^-24 σ²/12.

    >>> grid_of(1.0) == 2**-12, grid_of(0.3) == 2**-14
    (True, True)
    """
    return ldexp(0.5, frexp(std)[1] - BITS)
