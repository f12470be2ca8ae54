"""`unlearn`, `recover` and accuracy for a whole stack: what the verbs of `pipeline` do, without record or certificate."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from expunge import _validate
from expunge.accounting import Mechanism
from expunge.methods import EXECUTORS, Noise
from expunge.progress import track
from expunge.recovery.training import one_cycle
from expunge.replicates.stack import Loss, Stack

__all__ = ["accuracy_runs", "recover_runs", "unlearn_runs"]


def unlearn_runs(
    stack: Stack, batches: Iterable[Any], mechanism: Mechanism, *, loss: Loss, generator: torch.Generator
) -> None:
    """Run a mechanism on every model of a stack, in place, with noise of its own in each.

    Args:
        stack: the trained models; with theta zero, the null start.
        batches: e.g. `RunBatches`, their tensors with the runs as leading axis.
        mechanism: a finished one.
        loss: as in `Stack.gradient`.
        generator: of the noise, on the stack's device.

    Raises:
        TypeError: there is no executor for this mechanism.
    """
    executor = EXECUTORS.get(type(mechanism))
    if executor is None:
        raise TypeError(f"unlearn_runs cannot run {mechanism!r}; known: {[m.name for m in EXECUTORS]}")
    noise = Noise(mechanism.noise_std, generator)
    steps = executor(mechanism, stack.theta, stack.gradient(loss), iter(batches), noise)
    for _ in track(steps, total=mechanism.gradient_steps, label=f"{stack.runs} runs: {mechanism.name}"):
        pass


def recover_runs(
    stack: Stack,
    batches: Iterable[Any],
    *,
    loss: Loss,
    steps: int,
    learning_rate: float | Tensor = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: Callable[[int], float] | None = None,
    on_step: Callable[[int, Stack], None] | None = None,
) -> None:
    """Train every model of a stack by SGD, in place: recovery after `unlearn_runs`, or training and retraining afresh.

    The arithmetic is that of `torch.optim.SGD`, run by run.

    Args:
        stack: the models.
        batches: e.g. `RunBatches`.
        loss: as in `Stack.gradient`.
        steps: how many.
        learning_rate: the peak, one number or one for each run, shape (R,).
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: from a step 0, 1, ... to a factor of the learning rate; by default the linear one-cycle of `Recipe`.
        on_step: called with (steps done, stack) after every step.
    """
    _validate.whole(steps=steps)
    _validate.non_negative(momentum=momentum, weight_decay=weight_decay)
    rate = torch.as_tensor(learning_rate, dtype=stack.theta.dtype, device=stack.theta.device).reshape(-1, 1)
    if len(rate) not in (1, stack.runs):
        raise ValueError(f"learning_rate must be one number or one for each of {stack.runs} runs, not {len(rate)}")
    factor = one_cycle(steps) if schedule is None else schedule

    def updates() -> Iterator[int]:
        gradient, velocity = stack.gradient(loss), None
        for step, batch in zip(range(steps), batches, strict=False):
            g = gradient(stack.theta, batch).add_(stack.theta, alpha=weight_decay)
            velocity = g if velocity is None or momentum == 0 else velocity.mul_(momentum).add_(g)
            stack.theta.sub_(rate * factor(step) * velocity)
            yield step + 1

    for done in track(updates(), total=steps, label=f"{stack.runs} runs: train"):
        if on_step is not None:
            on_step(done, stack)


def accuracy_runs(stack: Stack, chunks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The share of right labels of every model, shape (R,); `chunks` are (inputs, labels) that all models see.

    Raises:
        ValueError: no data.
    """
    right, total = torch.zeros(stack.runs, dtype=torch.float64, device=stack.theta.device), 0
    for x, y in chunks:
        right += (stack.outputs(x).argmax(-1) == y).sum(1)
        total += len(y)
    if not total:
        raise ValueError("no data to measure accuracy on")
    return right / total
