"""What a step takes on this machine: short timings, each made once for all unlearners that are compared."""

import copy
import time
from collections.abc import Callable

import torch

from expunge.data import Batches
from expunge.training.loss import backward
from expunge.training.randomness import mode
from expunge.training.task import Task

__all__ = ["Costs", "timed"]

_TIMED_STEPS = 5


class Costs:
    """Seconds of training steps on a task's retained data, measured when first asked for."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._steps: dict[tuple[int, bool], float] = {}

    def step(self, batch_size: int, *, augmented: bool = False) -> float:
        """Seconds of one training step, forward and backward: the median of five.

        Args:
            batch_size: examples in it.
            augmented: with the task's augmentation.
        """
        key = (batch_size, augmented and self.task.augment is not None)
        if key not in self._steps:
            self._steps[key] = _seconds_of_a_step(self.task, *key)
        return self._steps[key]

    def per_epoch(self, batch_size: int) -> int:
        """Batches of one pass over the retained data."""
        return Batches(self.task.retain, batch_size=batch_size, seed=0).per_epoch


def _seconds_of_a_step(task: Task, batch_size: int, augmented: bool) -> float:
    model = copy.deepcopy(task.model)
    batches = iter(Batches(task.retain, batch_size=batch_size, seed=0))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-9)

    def step() -> None:
        batch = next(batches)
        if augmented and task.augment is not None:
            batch = task.augment(batch, torch.Generator(batch[0].device).manual_seed(0))
        optimizer.zero_grad()
        backward(task.loss, model, batch)
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]

    with mode(model, training=True), torch.random.fork_rng():
        step()
        return sorted(timed(step) for _ in range(_TIMED_STEPS))[_TIMED_STEPS // 2]


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
