"""A test with values in [0, 1], averaged in two worlds."""

from dataclasses import dataclass
from math import log
from typing import ClassVar

from scipy.special import rel_entr

from expunge.audit.evidence.base import counted
from expunge.audit.evidence.two_rates import TwoRates

__all__ = ["Means"]


@dataclass(frozen=True, kw_only=True)
class Means(TwoRates):
    """A test with values in [0, 1], such as an accuracy, on independent runs of two worlds; Hoeffding limits.

    Args:
        p_mean: mean over the runs of P, the world where the test is expected to be larger.
        p_runs: how many.
        q_mean: mean over the runs of Q.
        q_runs: how many.

    Source: Hoeffding 1963, in the form with the binary relative entropy.
    """

    kind: ClassVar[str] = "means"
    assumes: ClassVar[str] = (
        "independent runs; a metric with values in [0, 1], and its direction, fixed before they were seen"
    )

    p_mean: float
    p_runs: int
    q_mean: float
    q_runs: int

    def __post_init__(self) -> None:
        counted(p_runs=self.p_runs, q_runs=self.q_runs)
        for name in ("p_mean", "q_mean"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {value!r}")

    def rates(self, confidence: float) -> tuple[float, float]:
        """Hoeffding-Chernoff, α/2 each."""
        cost = -log((1 - confidence) / 2)
        return 1 - _entropy_upper(1 - self.p_mean, cost / self.p_runs), _entropy_upper(self.q_mean, cost / self.q_runs)

    def best(self) -> "Means":
        """1 against 0."""
        return Means(p_mean=1.0, p_runs=self.p_runs, q_mean=0.0, q_runs=self.q_runs)


def _entropy_upper(mean: float, cost: float) -> float:
    """The largest q ≥ mean with KL(mean, q) ≤ cost, rounded up."""
    low, high = mean, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        entropy = float(rel_entr(mean, middle) + rel_entr(1 - mean, 1 - middle))
        low, high = (middle, high) if entropy <= cost else (low, middle)
    return high
