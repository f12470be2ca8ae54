"""Training again without the forgotten data: exact."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from expunge import _validate
from expunge.accounting.guarantee import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume

__all__ = ["Retrain"]


@dataclass(frozen=True, kw_only=True)
class Retrain:
    """Training on the retained data from an initialisation that ignores the forgotten data: ε = δ = 0."""

    name: ClassVar[str] = "retrain"
    kind: ClassVar[Kind] = Kind.EXACT
    theorem: ClassVar[str] = "The output is a function of the retained data and fresh coins alone."
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.RETAIN_ONLY,
        assume.CONFIGURATION_PUBLIC,
        assume.INITIALISATION_PUBLIC,
    )

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
        """Nothing of the trained weights remains."""
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

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The procedure itself."""
        Relation(relation)
        return "the same training, which never saw the forgotten data"
