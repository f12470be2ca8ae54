"""Fine-tuning on the retained data: the plain recovery, and the training that retraining shares with it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from expunge import _validate
from expunge.recovery.progress import Progress
from expunge.recovery.rescale import rescale_
from expunge.recovery.training import Recipe, Training, training_steps
from expunge.training.loss import Loss
from expunge.training.tensors import named_parameters

__all__ = ["FineTuning"]


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Train on the retained rows with a fresh optimiser.

    Args:
        epochs: passes over the retained data; the learning rate's one cycle ends with them.
        recipe: optimiser and schedule.
        rescale: first bring each layer back to its initialisation scale (`rescale_`).
    """

    name: ClassVar[str] = "fine_tuning"
    reads: ClassVar[str] = "retained rows"

    epochs: float = 5
    recipe: Recipe = field(default_factory=Recipe)
    rescale: bool = False

    def __post_init__(self) -> None:
        _validate.positive(epochs=self.epochs)

    @property
    def batch_size(self) -> int:
        """Of the recipe."""
        return self.recipe.batch_size

    def total(self, per_epoch: int) -> int:
        """The steps of so many epochs."""
        return max(1, round(self.epochs * per_epoch))

    def steps(self, model: nn.Module, batches: Iterator[Any], loss: Loss, progress: Progress) -> Iterator[int]:
        """Minibatch training in place."""
        if self.rescale:
            rescale_(model, public=[p for name, p in named_parameters(model) if name in progress.public])
        training = Training(model, self.recipe, steps=progress.total, workers=progress.adding)
        progress.keep(optimizer=training.optimizer, schedule=training.schedule)
        yield from training_steps(training, batches, loss=loss, steps=progress)
