"""What every feature map has in common: rows become features, and a line says why no private row shaped the map."""

from typing import Protocol, runtime_checkable

from torch import Tensor

__all__ = ["FeatureMap"]


@runtime_checkable
class FeatureMap(Protocol):
    """A fixed map from rows to features, for heads: a row has the same bits of features alone and in any batch.

    An exact head subtracts the features of a forgotten row, and its sums are those of never having learned it only where the
    features of the retained rows do not depend on who stood beside them. `testing.check_feature_map` holds a map against
    this.
    """

    @property
    def provenance(self) -> str:
        """Why the map depends on no row that may be forgotten, in a line; "" where this is not known."""
        ...

    def __call__(self, rows: Tensor, /) -> Tensor:
        """Features of shape (n, width), of n rows: float64, or another type of which float64 holds every number."""
        ...
