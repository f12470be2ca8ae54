"""Gradient ascent on the forgotten rows: their loss is made larger, without a bound."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from expunge.training.loss import scalar_loss
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.descent import ByDescent

__all__ = ["GradientAscent"]


@dataclass(frozen=True, kw_only=True)
class GradientAscent(ByDescent):
    """Climb the loss of the forgotten rows.

    Args:
        batch_size: examples a batch.
        epochs: passes over the forgotten rows; many, or a high rate, destroy the model.
        learning_rate: of SGD.
        momentum: of SGD.
    """

    name: ClassVar[str] = "gradient_ascent"
    reads: ClassVar[str] = "forgotten data"
    source: ClassVar[str] = (
        "Golatkar et al. 2020 (arXiv 1911.04933) and Graves et al. 2021 (arXiv 2010.10981), as a baseline"
    )

    def total(self, material: Material) -> int:
        """A step a batch of forgotten data."""
        return self.epochs * material.per_epoch("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """θ ← θ + η ∇L_F."""
        descent, batches = self.descent(material), material.batches("forget")
        for _ in range(self.total(material)):
            descent.step(-scalar_loss(material.loss, material.model, next(batches)))
            yield
