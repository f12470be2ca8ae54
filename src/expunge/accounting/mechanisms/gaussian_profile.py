"""What all mechanisms share whose privacy profile is that of one Gaussian shift."""

from abc import ABC, abstractmethod
from typing import ClassVar

from expunge.accounting import gaussian
from expunge.accounting.claims import Kind, Relation

__all__ = ["GaussianProfile"]


class GaussianProfile(ABC):
    """A mechanism that is dominated by N(μ, 1) against N(0, 1), and of whose profile nothing better is known.

    Composition takes such mechanisms together as one Gaussian, without looking at their profiles.
    """

    kind: ClassVar[Kind] = Kind.EPSILON_DELTA

    @abstractmethod
    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """An upper bound on the μ of Gaussian differential privacy."""

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """The Gaussian profile of `mu`, rounded up."""
        return gaussian.log_delta_upper(epsilon, self.mu(relation))
