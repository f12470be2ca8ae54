"""Noisy fine-tuning with clipped gradients: the executor of `accounting.mechanisms.gradient_clipping`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from expunge.accounting import mechanisms
from expunge.training.descent import Descent
from expunge.training.noise import Noise
from expunge.training.task import Task
from expunge.training.weights import clip_
from expunge.unlearners.certified import Executor
from expunge.unlearners.noisy import Noisy
from expunge.unlearners.options import option

__all__ = ["GradientClipping", "noisy_steps"]


def noisy_steps(
    mechanism: mechanisms.GradientClipping,
    theta: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],
    batches: Iterator[Any],
    noise: Noise,
) -> Iterator[int]:
    """Algorithm 1 of Koloskova et al. 2025 (arXiv 2506.06985) on `theta`, in place; yields the steps done so far.

    Args:
        mechanism: its public configuration.
        theta: the weights minus the centre, shape (d,) or (runs, d), float32 or float64.
        gradient: (theta, batch) -> minibatch gradient on the retained data, of theta's shape.
        batches: at least as many as steps are left.
        noise: of scale `mechanism.noise_std`; its count says where an interrupted run goes on.
    """
    eta, rho = mechanism.learning_rate, 1 - mechanism.decay
    if noise.count == 0:
        clip_(theta, mechanism.init_clip)
    for step in range(noise.count, mechanism.steps):
        g = gradient(theta, next(batches))
        descent = Descent(gradient=g, keep=rho, rate=eta, clip=mechanism.grad_clip)
        noise.add_(theta, released=step + 1 == mechanism.steps, after=descent)
        yield step + 1


@dataclass(frozen=True, kw_only=True)
class GradientClipping(Noisy):
    """Noisy fine-tuning with clipped gradients, then recovery."""

    name: ClassVar[str] = mechanisms.GradientClipping.name

    init_clip: float = option("init_clip")
    grad_clip: float = option("grad_clip")
    learning_rate: float = option("learning_rate")
    weight_decay: float = option("weight_decay")
    steps: int = option("steps")

    @property
    def executor(self) -> Executor:
        """The steps of the theorem."""
        return noisy_steps

    def with_noise(self, task: Task, noise_std: float) -> mechanisms.GradientClipping:
        """The mechanism of these options."""
        return mechanisms.GradientClipping(
            init_clip=self.init_clip, grad_clip=self.grad_clip, learning_rate=self.learning_rate, weight_decay=self.weight_decay, steps=self.steps, noise_std=noise_std,
        )  # fmt: skip
