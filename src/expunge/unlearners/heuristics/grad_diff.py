"""Gradient difference: up the loss of forgotten rows, held by that of retained ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from expunge import _validate
from expunge.training.loss import scalar_loss
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.descent import ByDescent

__all__ = ["GradientDifference"]


@dataclass(frozen=True, kw_only=True)
class GradientDifference(ByDescent):
    """Make λ L_R - L_F smaller, in passes over the forgotten rows.

    Args:
        batch_size: examples a batch, of either part.
        epochs: passes over the forgotten rows.
        learning_rate: of SGD.
        retention: λ.
        momentum: of SGD.
    """

    name: ClassVar[str] = "gradient_difference"
    source: ClassVar[str] = "Liu et al. 2022, arXiv 2203.12817; Maini et al. 2024, arXiv 2401.06121"

    retention: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.non_negative(retention=self.retention)

    def total(self, material: Material) -> int:
        """A step a batch of forgotten data."""
        return self.epochs * material.per_epoch("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """One batch of either part a step."""
        descent = self.descent(material)
        retained, forgotten = material.batches("retain"), material.batches("forget")
        for _ in range(self.total(material)):
            up = scalar_loss(material.loss, material.model, next(forgotten))
            down = scalar_loss(material.loss, material.model, next(retained))
            descent.step(self.retention * down - up)
            yield
