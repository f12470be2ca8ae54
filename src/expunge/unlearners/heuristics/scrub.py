"""SCRUB: a student keeps to the trained model on retained rows, and is pushed away from it on forgotten ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge import _validate
from expunge.training.loss import scalar_loss
from expunge.training.scores import scores_of
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.descent import ByDescent

__all__ = ["Scrub", "distillation"]


@dataclass(frozen=True, kw_only=True)
class Scrub(ByDescent):
    """Distil from the trained model on R, push away from it on F in the first epochs.

    The steps on R make γ L_R + α KL(trained, student) smaller, those on F KL larger. What differs from the published code:
    one batch size for both parts, a constant learning rate, no averaging of weights.

    Args:
        batch_size: examples a batch.
        epochs: passes over the retained data.
        ascents: of the first so many epochs, each begins with a pass over the forgotten rows.
        learning_rate: of SGD.
        alpha: α.
        gamma: γ.
        temperature: of the distillation.
        momentum: of SGD.
    """

    name: ClassVar[str] = "scrub"
    source: ClassVar[str] = "Kurmanji et al. 2023, arXiv 2302.09880"

    epochs: int = 5
    ascents: int = 2
    learning_rate: float = 5e-3
    alpha: float = 0.001
    gamma: float = 0.99
    temperature: float = 4.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.whole(0, ascents=self.ascents)
        if self.ascents > self.epochs:
            raise ValueError(f"ascents={self.ascents} must be at most epochs={self.epochs}")
        _validate.positive(temperature=self.temperature)
        _validate.non_negative(alpha=self.alpha, gamma=self.gamma)

    def total(self, material: Material) -> int:
        """A step a batch."""
        return self.epochs * material.per_epoch("retain") + self.ascents * material.per_epoch("forget")

    def steps(self, material: Material) -> Iterator[None]:
        """Maximise on F, then minimise on R, an epoch at a time."""
        teacher, descent = (
            material.teacher(),
            self.descent(material),
        )
        retained, forgotten = material.batches("retain"), material.batches("forget")
        for epoch in range(self.epochs):
            if epoch < self.ascents:
                for _ in range(material.per_epoch("forget")):
                    descent.step(-self._apart(material.model, teacher, next(forgotten)))
                    yield
            for _ in range(material.per_epoch("retain")):
                batch = next(retained)
                own = scalar_loss(material.loss, material.model, batch)
                descent.step(self.gamma * own + self.alpha * self._apart(material.model, teacher, batch))
                yield

    def _apart(self, model: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = scores_of(teacher, batch)
        return distillation(scores_of(model, batch), wanted, temperature=self.temperature)


def distillation(scores: Tensor, wanted: Tensor, *, temperature: float) -> Tensor:
    """T² KL(softmax(wanted/T), softmax(scores/T)), the mean over a batch; scores of shape (b, ..., classes).

    Source: Hinton et al. 2015, arXiv 1503.02531.
    """
    ours = F.log_softmax(scores / temperature, dim=-1)
    theirs = F.log_softmax(wanted / temperature, dim=-1)
    return F.kl_div(ours, theirs, reduction="sum", log_target=True) * temperature**2 / len(scores)
