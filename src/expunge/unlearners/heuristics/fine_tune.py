"""Fine-tuning on the retained data: what the forgotten rows left fades as far as the others overwrite it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

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
        optimizer: "sgd" or "adamw".
        learning_rate: the peak of a one-cycle schedule.
        momentum: of SGD.
        weight_decay: of either.
    """

    name: ClassVar[str] = "fine_tune"
    reads: ClassVar[str] = "retained data"
    source: ClassVar[str] = "the plainest baseline of every paper on unlearning"

    epochs: int = 5
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.whole(epochs=self.epochs)
        self.recipe  # noqa: B018  names the field that is out of range

    @property
    def recipe(self) -> Recipe:
        """Optimiser and schedule."""
        return Recipe(
            optimizer=cast("Any", self.optimizer), learning_rate=self.learning_rate, momentum=self.momentum,
            weight_decay=self.weight_decay, batch_size=self.batch_size,
        )  # fmt: skip

    def total(self, material: Material) -> int:
        """A step a batch of retained data."""
        return self.epochs * material.per_epoch("retain")

    def steps(self, material: Material) -> Iterator[None]:
        """Minibatch training."""
        total = self.total(material)
        training = Training(material.model, self.recipe, steps=total)
        for _ in training_steps(training, material.batches("retain"), loss=material.loss, steps=range(total)):
            yield
