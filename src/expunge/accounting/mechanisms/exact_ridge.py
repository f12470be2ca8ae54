"""Ridge regression from sums in floating point: what certificates called exact before `GridRidge`. No longer issued."""

from dataclasses import dataclass
from typing import ClassVar

from expunge import _validate
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.exact import Exact

__all__ = ["ExactRidge"]


@dataclass(frozen=True, kw_only=True)
class ExactRidge(Exact):
    """W = (Σ x xᵀ + γ I)⁻¹ Σ x yᵀ over the rows that are retained; a forgotten row is subtracted from both sums.

    Exact in real arithmetic alone. In floating point the last bits of the weights keep the order of additions, from which
    it was read, in 60 of 60 runs, which of two rows had been forgotten. It stands here for the certificates that were
    issued with it; its successor is `GridRidge`.

    Args:
        ridge: γ > 0.
        rounding: the largest relative residual |A W - B|/|B| of the weights that are released.
        provenance: why the feature map does not depend on the forgotten data, in a few words; where that is not known
            the mechanism is `UndeclaredFeatures`.

    Source: Tang et al. 2025, arXiv 2505.12239 (analytic continual unlearning).
    """

    name: ClassVar[str] = "exact_ridge"
    proof: ClassVar[str] = "docs/methods/grid_ridge.md#why-not-floating-point"
    theorem: ClassVar[str] = (
        "The minimiser of ridge regression is a function of two sums over rows; subtracting a row's terms gives the sums "
        "of the retained rows."
    )
    withdrawn: ClassVar[str] = (
        "its sums were kept in floating point, and the last bits of the weights depend on the forgotten rows; 'grid_ridge', "
        "whose sums are whole numbers, has taken its place"
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

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """Ridge regression on the retained rows."""
        Relation(relation)
        return "ridge regression on the retained rows alone, with the same feature map"
