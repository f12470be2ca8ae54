"""One training loop, for recovery and for retraining."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from expunge import _validate
from expunge.parallel.gradients import add_gradients_
from expunge.parallel.workers import ALONE, Workers
from expunge.training.loss import Loss, backward

__all__ = ["Recipe", "Training", "one_cycle", "training_steps"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: optimiser and schedule.

    Args:
        optimizer: "sgd" (with momentum) or "adamw".
        learning_rate: the peak of a linear one-cycle schedule that ends with the budget of steps.
        momentum: of SGD; AdamW uses its defaults.
        weight_decay: of either.
        batch_size: examples a batch, where the data are `Examples`.
        max_grad_norm: longer gradients, over all trained parameters, are scaled down to this norm; None: no limit. It keeps
            a high learning rate from blowing up now and then.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adamw"):
            raise ValueError(f"optimizer must be 'sgd' or 'adamw', not {self.optimizer!r}")
        _validate.positive(learning_rate=self.learning_rate)
        _validate.non_negative(momentum=self.momentum, weight_decay=self.weight_decay)
        _validate.whole(batch_size=self.batch_size)
        if self.max_grad_norm is not None:
            _validate.positive(max_grad_norm=self.max_grad_norm)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-ready fields; a field that is None is left out, so that traces from before it existed stay as they are."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Training:
    """A fresh optimiser and its schedule over a model's trainable parameters."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, steps: int, workers: Workers = ALONE) -> None:
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("the model has no trainable parameter")
        if recipe.optimizer == "sgd":
            self.optimizer: torch.optim.Optimizer = torch.optim.SGD(
                parameters, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
            )
        else:
            self.optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.model, self._workers = model, workers
        self._parameters, self._max_norm = parameters, recipe.max_grad_norm
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, one_cycle(steps))

    def update(self) -> None:
        """One step of the optimiser with the gradients that are there; sparse ones as dense, which every optimiser takes."""
        for parameter in self._parameters:
            if parameter.grad is not None and parameter.grad.layout is not torch.strided:
                parameter.grad = parameter.grad.to_dense()
        if self._max_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self.optimizer.step()  # pyright: ignore[reportUnknownMemberType]

    def backward(self, loss: Loss, batch: Any) -> None:
        """The gradient of the batch, of several workers the sum of theirs.

        Raises:
            NonFinite, TypeError: as `loss.backward`.
        """
        self.optimizer.zero_grad()
        if not self._workers.several:
            backward(loss, self.model, batch)
            return
        failed: Exception | None = None
        try:
            backward(loss, self.model, batch)
        except Exception as error:  # noqa: BLE001  raised again
            failed = error
        self._workers.together(failed)
        add_gradients_(self._parameters, self._workers)

    def reached(self) -> bool:
        """Whether a backward pass gave any trained parameter a gradient."""
        return any(parameter.grad is not None for parameter in self._parameters)


def training_steps(training: Training, batches: Iterator[Any], *, loss: Loss, steps: Iterable[int]) -> Iterator[int]:
    """Plain minibatch training in place; yields the number of each step once it is done.

    Args:
        training: the optimiser and its schedule.
        batches: at least as many as steps.
        loss: `loss(model, batch)` -> scalar tensor.
        steps: numbers of the steps to do, e.g. a `Progress`.

    Raises:
        NonFinite: the loss is NaN or infinite.
        TypeError: the loss is no scalar tensor, or does not depend on a trained weight.
    """
    for step in steps:
        training.backward(loss, next(batches))
        if not training.reached():
            raise TypeError("loss(model, batch) does not depend on any trained weight of the model it is given")
        training.update()
        training.schedule.step()
        yield step


def one_cycle(steps: int) -> Callable[[int], float]:
    """Up to the peak over the first 30 % of the steps, then down to zero, both linearly."""
    peak = max(1.0, 0.3 * steps)

    def factor(step: int) -> float:
        position = step + 0.5  # the middle of the step, so that neither the first nor the last one is wasted
        return position / peak if position < peak else max(steps - position, 0.0) / max(steps - peak, 0.5)

    return factor
