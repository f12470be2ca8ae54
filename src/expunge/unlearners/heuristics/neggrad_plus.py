"""NegGrad+: down the loss of retained rows and up that of forgotten ones, in one step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from expunge import _validate
from expunge.training.loss import scalar_loss
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.descent import ByDescent

__all__ = ["NegGradPlus"]


@dataclass(frozen=True, kw_only=True)
class NegGradPlus(ByDescent):
    """Make α L_R - (1 - α) L_F smaller.

    Args:
        batch_size: examples a batch, of either part.
        epochs: passes over the retained data.
        learning_rate: of SGD.
        alpha: α, strictly between 0 and 1; for 1 it is fine-tuning.
        momentum: of SGD.
    """

    name: ClassVar[str] = "neggrad_plus"
    source: ClassVar[str] = "Kurmanji et al. 2023, arXiv 2302.09880"

    epochs: int = 5
    learning_rate: float = 0.01
    alpha: float = 0.95
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.open_unit_interval(alpha=self.alpha)

    def total(self, material: Material) -> int:
        """A step a batch of retained data."""
        return self.epochs * material.per_epoch("retain")

    def steps(self, material: Material) -> Iterator[None]:
        """One batch of either part a step."""
        descent = self.descent(material)
        retained, forgotten = material.batches("retain"), material.batches("forget")
        for _ in range(self.total(material)):
            down = scalar_loss(material.loss, material.model, next(retained))
            up = scalar_loss(material.loss, material.model, next(forgotten))
            descent.step(self.alpha * down - (1 - self.alpha) * up)
            yield
