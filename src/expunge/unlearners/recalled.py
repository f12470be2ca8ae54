"""From a certificate back to the unlearner that made it, so that its run can be repeated."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expunge import _validate
from expunge.recovery import Recipe, Recovery
from expunge.unlearners.protocol import Unlearner

if TYPE_CHECKING:
    from expunge.unlearners.heuristics.base import Heuristic

__all__ = ["EVERY_SETTING", "OF_TRAINING", "Procedure", "Recalled"]

EVERY_SETTING = frozenset({"epochs", "training_epochs", "recovery_lr", "optimizer", "batch_size", "rescale"})
"""What can be told of a run beside its mechanism, by the names of the command line."""

OF_TRAINING = frozenset({"training_epochs", "recovery_lr", "optimizer", "batch_size"})
"""Those of the training before an unlearner that learns nothing itself."""


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """What is known of a run beside its mechanism: from the record, from whoever asks, or by default.

    Args:
        recipe: of recovery and of training alike.
        epochs: of fine-tuning.
        training_epochs: of training.
        rescale: whether fine-tuning first rescales the layers.
        batch_size: of the mechanism's steps; None for the recipe's.
        of_training: the settings of the training, as the record holds them; empty where it holds none.
        recovery: in place of fine-tuning, which `epochs` and `rescale` are then not of.
        start: the heuristic that the mechanism started from; None where it started from the trained weights.
        unlearner: name and settings of what was run, where no mechanism says it.
    """

    recipe: Recipe = field(default_factory=Recipe)
    epochs: float = 5
    training_epochs: float = 30
    rescale: bool = True
    batch_size: int | None = None
    of_training: Mapping[str, Any] = field(default_factory=dict[str, Any])
    recovery: Recovery | None = None
    start: "Heuristic | None" = None
    unlearner: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _validate.positive(epochs=self.epochs, training_epochs=self.training_epochs)


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """An unlearner that runs what a certificate speaks of.

    Args:
        unlearner: with the mechanism of the certificate.
        reads: which of the procedure's settings it depends on, of `EVERY_SETTING`.
        assumed: what the certificate does not say and had to be chosen, by name.
    """

    unlearner: Unlearner
    reads: frozenset[str]
    assumed: Mapping[str, Any] = field(default_factory=dict[str, Any])
