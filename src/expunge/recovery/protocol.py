"""What every recovery has in common: how many steps it takes, and the steps."""

from collections.abc import Iterator
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

from expunge.recovery.progress import Progress
from expunge.training.loss import Loss

__all__ = ["Recovery"]


@runtime_checkable
class Recovery(Protocol):
    """A frozen dataclass of public settings whose `steps` change a model after its certified run.

    It is given the certified weights, batches of retained rows, the loss and fresh coins, and must read nothing else beside
    its settings, which do not depend on the forgotten rows: then it is post-processing, and the guarantee stays. What a
    run refuses and what no run can see: docs/contracts.md. Check a class of your own with `expunge.testing.check_recovery`.

    Attributes:
        name: a word for the record, e.g. "fine_tuning".
        reads: which data it reads, e.g. "retained rows".
    """

    name: ClassVar[str]
    reads: ClassVar[str]

    @property
    def batch_size(self) -> int:
        """Rows of a batch, where the data are `Examples`."""
        ...

    def total(self, per_epoch: int) -> int:
        """The number of steps, at least 1.

        Args:
            per_epoch: batches of one pass over the retained data.
        """
        ...

    def steps(self, model: nn.Module, batches: Iterator[Any], loss: Loss, progress: Progress) -> Iterator[int]:
        """Change the model in place, step by step; yields the number of steps done after each.

        Args:
            model: with the certified weights, in training mode. Layers whose statistics are public or frozen are in
                evaluation mode; a parameter is trained where its `requires_grad` says so.
            batches: of the retained rows, without end.
            loss: `loss(model, batch)` -> scalar tensor.
            progress: gives the numbers of the steps, and keeps what an interrupted run needs.
        """
        ...
