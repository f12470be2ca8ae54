"""What all exact mechanisms share: nothing of the forgotten data is left, so nothing leaks."""

from math import inf
from typing import ClassVar

from expunge import _validate
from expunge.accounting.claims import Kind, Relation

__all__ = ["Exact"]


class Exact:
    """ε = δ = 0: no noise, no start in a ball, and no step that a proof counts. Abstract."""

    kind: ClassVar[Kind] = Kind.EXACT

    @property
    def gradient_steps(self) -> int:
        """None that the proof counts."""
        return 0

    @property
    def noise_draws(self) -> int:
        """None."""
        return 0

    @property
    def noise_std(self) -> float:
        """None."""
        return 0.0

    @property
    def start_radius(self) -> float:
        """Unbounded: the trained weights are not used."""
        return inf

    @property
    def output_noise_std(self) -> float:
        """None."""
        return 0.0

    @property
    def surviving_norm(self) -> float:
        """Nothing of what was learned from the forgotten data remains."""
        return 0.0

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """0."""
        Relation(relation)
        return 0.0

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """-inf: nothing leaks at any ε ≥ 0."""
        _validate.non_negative(epsilon=epsilon)
        Relation(relation)
        return -inf

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """-inf: there is nothing to attain."""
        return self.log_delta(epsilon, relation)
