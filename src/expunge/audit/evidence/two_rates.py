"""Bounds on ε and μ from how often a test says yes in two worlds."""

from abc import ABC, abstractmethod
from math import inf, log

from scipy.special import ndtri

from expunge.audit.evidence.base import check

__all__ = ["TwoRates"]


class TwoRates(ABC):
    """Bounds from p_low and q_high."""

    @abstractmethod
    def rates(self, confidence: float) -> tuple[float, float]:
        """(p_low, q_high)."""

    @abstractmethod
    def best(self) -> "TwoRates":
        """The clearest outcome that evidence of this size can have."""

    def epsilon(self, *, delta: float, confidence: float) -> float:
        """The larger of log((p_low - δ)/q_high) and log((1 - q_high - δ)/(1 - p_low))."""
        check(delta, confidence)
        p, q = self.rates(confidence)
        return max(_log_ratio(p - delta, q), _log_ratio(1 - q - delta, 1 - p), 0.0)

    def mu(self, *, confidence: float) -> float:
        """Φ⁻¹(p_low) - Φ⁻¹(q_high)."""
        check(0.5, confidence)
        p, q = self.rates(confidence)
        if p <= 0 or q >= 1:
            return 0.0
        return max(float(ndtri(p) - ndtri(q)), 0.0)

    def ceiling(self, *, delta: float, confidence: float) -> float:
        """`epsilon` of the clearest outcome."""
        return self.best().epsilon(delta=delta, confidence=confidence)

    def reach(self, *, delta: float, confidence: float) -> float:
        """The ceiling: the test was put to every sample."""
        return self.ceiling(delta=delta, confidence=confidence)

    @property
    def seconds(self) -> float:
        """A few limits, whatever the counts."""
        return 1e-3


def _log_ratio(above: float, below: float) -> float:
    if above <= 0:
        return 0.0
    return inf if below <= 0 else log(above / below)
