"""Recoveries as anybody may write them."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.optim.swa_utils import AveragedModel


@dataclass(frozen=True, kw_only=True)
class LastLayer:
    """Train the last layer alone, with momentum and a few rows left out by chance."""

    name: ClassVar[str] = "last_layer"
    reads: ClassVar[str] = "retained rows"
    epochs: int = 2
    learning_rate: float = 0.1
    batch_size: int = 32

    def total(self, per_epoch: int) -> int:
        return self.epochs * per_epoch

    def steps(self, model: Any, batches: Any, loss: Any, progress: Any) -> Any:
        optimizer = torch.optim.SGD(model[-1].parameters(), lr=self.learning_rate, momentum=0.9)
        progress.keep(optimizer=optimizer)
        for step in progress:
            optimizer.zero_grad()
            (loss(model, next(batches)) * (0.5 + torch.rand(()))).backward()
            optimizer.step()
            yield step


@dataclass(frozen=True, kw_only=True)
class Averaged(LastLayer):
    """The same, pulled towards where it began, and in the end the average of all steps."""

    name: ClassVar[str] = "averaged"

    def steps(self, model: Any, batches: Any, loss: Any, progress: Any) -> Any:
        begun, first = copy.deepcopy(model[-1]), next(batches)
        average = AveragedModel(model[-1])
        progress.keep(average=average)
        for step in progress:
            model[-1].zero_grad()
            (loss(model, next(batches)) + loss(model, first)).backward()
            with torch.no_grad():
                for own, anchor in zip(model[-1].parameters(), begun.parameters(), strict=True):
                    own -= self.learning_rate * (own.grad + 0.01 * (own - anchor))
                average.update_parameters(model[-1])
                if step == progress.total:
                    for own, mean in zip(model[-1].parameters(), average.module.parameters(), strict=True):
                        own.copy_(mean)
            yield step
