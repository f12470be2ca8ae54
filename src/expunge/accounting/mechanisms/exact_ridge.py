"""Ridge regression from sums over rows, from which rows can be subtracted: exact."""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from expunge import _validate
from expunge.accounting.guarantee import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume

__all__ = ["ExactRidge"]


@dataclass(frozen=True, kw_only=True)
class ExactRidge:
    """W = (Σ x xᵀ + γ I)⁻¹ Σ x yᵀ over the rows that are retained; a forgotten row is subtracted from both sums.

    Args:
        ridge: γ > 0.
        rounding: the largest relative residual |A W - B|/|B| of the weights that are released.
        provenance: why the feature map does not depend on the forgotten data, in a few words; where that is not known
            the mechanism is `UndeclaredFeatures`.

    Source: Tang et al. 2025, arXiv 2505.12239 (analytic continual unlearning).
    """

    name: ClassVar[str] = "exact_ridge"
    kind: ClassVar[Kind] = Kind.EXACT
    theorem: ClassVar[str] = (
        "The minimiser of ridge regression is a function of two sums over rows; subtracting a row's terms gives the sums "
        "of the retained rows."
    )
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.FEATURES_PUBLIC,
        assume.OBJECTIVE_PUBLIC,
        assume.SUMS_CORRECT,
        assume.REAL_ARITHMETIC,
    )

    ridge: float
    rounding: float
    provenance: str

    def __post_init__(self) -> None:
        _validate.positive(ridge=self.ridge, rounding=self.rounding)
        _validate.text(provenance=self.provenance)

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
        """Unbounded: the trained head is not used."""
        return inf

    @property
    def output_noise_std(self) -> float:
        """None."""
        return 0.0

    @property
    def surviving_norm(self) -> float:
        """Nothing of the forgotten rows remains."""
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
        """-inf: no adversary is known."""
        _validate.non_negative(epsilon=epsilon)
        Relation(relation)
        return -inf

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """Ridge regression on the retained rows."""
        Relation(relation)
        return "ridge regression on the retained rows alone, with the same feature map"
