"""Gradient ascent on the forgotten rows: their loss is made larger, without a bound."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from expunge import _validate
from expunge.training.loss import scalar_loss
from expunge.unlearners.heuristics.base import Heuristic, Material
from expunge.unlearners.heuristics.descent import Descent

__all__ = ["GradientAscent"]


@dataclass(frozen=True, kw_only=True)
class GradientAscent(Heuristic):
    """Climb the loss of the forgotten rows.

    Args:
        batch_size: examples a batch.
        epochs: passes over the forgotten rows; many, or a high rate, destroy the model.
        learning_rate: of plain SGD.
    """

    name: ClassVar[str] = "gradient_ascent"
    reads: ClassVar[str] = "forgotten data"
    source: ClassVar[str] = (
        "Golatkar et al. 2020 (arXiv 1911.04933) and Graves et al. 2021 (arXiv 2010.10981), as a baseline"
    )

    epochs: int = 1
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.whole(epochs=self.epochs)
        _validate.positive(learning_rate=self.learning_rate)

    def total(self, material: Material) -> int:
        """A step a batch of forgotten data."""
        return self.epochs * material.per_epoch("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """θ ← θ + η ∇L_F."""
        descent, batches = Descent(material, learning_rate=self.learning_rate), material.batches("forget")
        for _ in range(self.total(material)):
            descent.step(-scalar_loss(material.loss, material.model, next(batches)))
            yield
