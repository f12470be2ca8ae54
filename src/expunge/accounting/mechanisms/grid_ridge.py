"""Ridge regression from whole-number sums over rows, from which rows can be subtracted without a trace: exact."""

from dataclasses import dataclass
from typing import ClassVar

from expunge import _validate
from expunge.accounting.claims import Relation
from expunge.accounting.mechanisms import assumptions as assume
from expunge.accounting.mechanisms.exact import Exact

__all__ = ["GridRidge"]


@dataclass(frozen=True, kw_only=True)
class GridRidge(Exact):
    """W solves (Σ x xᵀ + γ I) W = Σ x yᵀ, x and y whole multiples of public steps; both sums are kept as integers.

    Whole numbers add and subtract without rounding, in any order, so that the sums after forgetting are those over the
    retained rows, bit for bit, and the weights, computed from the sums alone, are those of never having learned the rest.

    Args:
        ridge: γ > 0.
        grid: the step to which features are rounded; the largest one where each feature has its own.
        target_grid: likewise of real targets; 0 where targets are labels, whole numbers by themselves.
        rounding: the largest relative residual |A W - B|/|B| of the weights that are released.
        provenance: why the feature map does not depend on the forgotten data, in a few words; where that is not known
            the mechanism is `UndeclaredFeatures`.

    Source: Tang et al. 2025, arXiv 2505.12239 (analytic continual unlearning), there in floating point.
    """

    name: ClassVar[str] = "grid_ridge"
    proof: ClassVar[str] = "docs/methods/grid_ridge.md#statement"
    theorem: ClassVar[str] = (
        "The weights are a function of two whole-number sums over rows; subtracting a row's terms gives, bit for bit and in "
        "any order, the sums over the retained rows."
    )
    covers: ClassVar[str] = assume.ANY_FORGET_SET
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.FEATURES_PUBLIC,
        assume.OBJECTIVE_PUBLIC,
        assume.GRID_PUBLIC,
        assume.SUMS_CORRECT,
        assume.SOLUTION_REPEATS,
    )

    ridge: float
    grid: float
    target_grid: float = 0.0
    rounding: float
    provenance: str

    def __post_init__(self) -> None:
        _validate.positive(ridge=self.ridge, grid=self.grid, rounding=self.rounding)
        _validate.non_negative(target_grid=self.target_grid)
        _validate.text(provenance=self.provenance)

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The same head without the forgotten rows, to the last bit."""
        Relation(relation)
        return "the same ridge regression on the retained rows alone, with the same feature map and the same steps, bit for bit"
