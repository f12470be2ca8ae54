"""Fine-tuning on the retained data: what the forgotten rows left fades as far as the others overwrite it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from expunge import _validate
from expunge.recovery import Recipe
from expunge.recovery.training import Training, training_steps
from expunge.unlearners.heuristics.base import Heuristic, Material

__all__ = ["FineTune"]


@dataclass(frozen=True, kw_only=True)
class FineTune(Heuristic):
    """Train the model on, on the retained data alone.

    Args:
        batch_size: examples a batch.
        epochs: passes over the retained data.
        recipe: optimiser and schedule; its batch size is not read.
    """

    name: ClassVar[str] = "fine_tune"
    reads: ClassVar[str] = "retained data"
    source: ClassVar[str] = "the plainest baseline of every paper on unlearning"

    epochs: int = 5
    recipe: Recipe = field(default_factory=lambda: Recipe(learning_rate=0.01))

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.whole(epochs=self.epochs)

    def total(self, material: Material) -> int:
        """A step a batch of retained data."""
        return self.epochs * material.per_epoch("retain")

    def steps(self, material: Material) -> Iterator[None]:
        """Minibatch training."""
        total = self.total(material)
        training = Training(material.model, self.recipe, steps=total)
        for _ in training_steps(training, material.batches("retain"), loss=material.loss, steps=range(total)):
            yield
