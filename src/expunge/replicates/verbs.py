"""`unlearn`, `recover` and accuracy for a whole stack: what the verbs of `pipeline` do, without record or certificate."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from expunge import _validate
from expunge._progress import track
from expunge.accounting import Mechanism
from expunge.recovery.training import one_cycle
from expunge.replicates.stack import Loss, Stack
from expunge.training.noise import Noise
from expunge.unlearners.certified import Executor
from expunge.unlearners.executors import EXECUTORS

__all__ = ["accuracy_runs", "recover_runs", "unlearn_runs"]


def unlearn_runs(
    stack: Stack,
    batches: Iterable[Any],
    mechanism: Mechanism,
    *,
    loss: Loss,
    generator: torch.Generator,
    executor: Executor | None = None,
) -> None:
    """Run a mechanism on every model of a stack, in place, with noise of its own in each.

    Args:
        stack: the trained models; with theta zero, the null start.
        batches: e.g. `RunBatches`, their tensors with the runs as leading axis.
        mechanism: a finished one.
        loss: as in `Stack.gradient`.
        generator: of the noise, on the stack's device.
        executor: the mechanism's steps; by default our own.

    Raises:
        TypeError: there is no executor for this mechanism.
    """
    run = executor or EXECUTORS.get(type(mechanism))
    if run is None:
        raise TypeError(f"unlearn_runs cannot run {mechanism!r}; known: {[m.name for m in EXECUTORS]}")
    noise = Noise(mechanism.noise_std, generator)
    steps = run(mechanism, stack.theta, stack.gradient(loss), iter(batches), noise)
    for _ in track(steps, total=mechanism.gradient_steps, label=f"{stack.runs} runs: {mechanism.name}"):
        pass


def recover_runs(
    stack: Stack,
    batches: Iterable[Any],
    *,
    loss: Loss,
    steps: int,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    learning_rate: float | Tensor = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    max_grad_norm: float | None = None,
    schedule: Callable[[int], float] | None = None,
    on_step: Callable[[int, Stack], None] | None = None,
) -> None:
    """Train every model of a stack, in place: recovery after `unlearn_runs`, or training and retraining afresh.

    The arithmetic is that of `torch.optim.SGD` or `torch.optim.AdamW`, run by run.

    Args:
        stack: the models.
        batches: e.g. `RunBatches`.
        loss: as in `Stack.gradient`.
        steps: how many.
        optimizer: "sgd" or "adamw".
        learning_rate: the peak, one number or one for each run, shape (R,).
        momentum: of SGD; AdamW uses its defaults.
        weight_decay: of either.
        max_grad_norm: as in `Recipe`, for every run by itself.
        schedule: from a step 0, 1, ... to a factor of the learning rate; by default the linear one-cycle of `Recipe`.
        on_step: called with (steps done, stack) after every step.
    """
    if optimizer not in ("sgd", "adamw"):
        raise ValueError(f"optimizer must be 'sgd' or 'adamw', not {optimizer!r}")
    _validate.whole(steps=steps)
    _validate.non_negative(momentum=momentum, weight_decay=weight_decay)
    if max_grad_norm is not None:
        _validate.positive(max_grad_norm=max_grad_norm)
    rate = torch.as_tensor(learning_rate, dtype=stack.theta.dtype, device=stack.theta.device).reshape(-1, 1)
    if len(rate) not in (1, stack.runs):
        raise ValueError(f"learning_rate must be one number or one for each of {stack.runs} runs, not {len(rate)}")
    factor = one_cycle(steps) if schedule is None else schedule
    update = _sgd(momentum, weight_decay) if optimizer == "sgd" else _adamw(weight_decay)

    def updates() -> Iterator[int]:
        gradient = stack.gradient(loss)
        for step, batch in zip(range(steps), batches, strict=False):
            found = gradient(stack.theta, batch)
            if max_grad_norm is not None:
                # The small number is that of torch.nn.utils.clip_grad_norm_.
                found *= (max_grad_norm / (found.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
            update(stack.theta, found, rate * factor(step))
            yield step + 1

    for done in track(updates(), total=steps, label=f"{stack.runs} runs: train"):
        if on_step is not None:
            on_step(done, stack)


_Update = Callable[[Tensor, Tensor, Tensor], None]


def _sgd(momentum: float, weight_decay: float) -> _Update:
    velocity: Tensor | None = None

    def update(theta: Tensor, g: Tensor, rate: Tensor) -> None:
        nonlocal velocity
        g.add_(theta, alpha=weight_decay)
        velocity = g if velocity is None or momentum == 0 else velocity.mul_(momentum).add_(g)
        theta.sub_(rate * velocity)

    return update


def _adamw(weight_decay: float, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> _Update:
    first: Tensor | None = None
    second: Tensor | None = None
    done = 0

    def update(theta: Tensor, g: Tensor, rate: Tensor) -> None:
        nonlocal first, second, done
        done += 1
        first = torch.zeros_like(g) if first is None else first
        second = torch.zeros_like(g) if second is None else second
        first.lerp_(g, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
        theta.mul_(1 - rate * weight_decay)
        scale = (second / (1 - betas[1] ** done)).sqrt_().add_(epsilon)
        theta.sub_(rate / (1 - betas[0] ** done) * first / scale)

    return update


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
