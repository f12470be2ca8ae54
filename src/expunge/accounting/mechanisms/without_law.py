"""What mechanisms share that bound no law: the guarantee in (ε, δ) is the empty one, δ = 1."""

from math import inf

from expunge import _validate
from expunge.accounting.claims import Relation

__all__ = ["WithoutLaw", "WithoutNoise"]


class WithoutLaw:
    """δ = 1 at every ε, and all that was learned may remain. Abstract."""

    @property
    def gradient_steps(self) -> int:
        """None that a proof counts."""
        return 0

    @property
    def start_radius(self) -> float:
        """Unbounded."""
        return inf

    @property
    def surviving_norm(self) -> float:
        """Unbounded: all that was learned may remain."""
        return inf

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """Infinite."""
        Relation(relation)
        return inf

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """0: δ is at most 1, and that is all."""
        _validate.non_negative(epsilon=epsilon)
        Relation(relation)
        return 0.0

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """-inf: no attack is claimed either."""
        _validate.non_negative(epsilon=epsilon)
        Relation(relation)
        return -inf


class WithoutNoise(WithoutLaw):
    """One that draws no noise. Abstract."""

    @property
    def noise_draws(self) -> int:
        """None."""
        return 0

    @property
    def noise_std(self) -> float:
        """None."""
        return 0.0

    @property
    def output_noise_std(self) -> float:
        """None."""
        return 0.0
