"""Noisy fine-tuning with clipped weights: the executor of `accounting.mechanisms.model_clipping`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from expunge.accounting import mechanisms
from expunge.training.noise import Noise
from expunge.training.task import Task
from expunge.training.weights import clip_, step_
from expunge.unlearners.certified import Executor
from expunge.unlearners.noisy import Noisy
from expunge.unlearners.options import option

__all__ = ["ModelClipping", "noisy_steps"]


def noisy_steps(
    mechanism: mechanisms.ModelClipping,
    theta: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],
    batches: Iterator[Any],
    noise: Noise,
) -> Iterator[int]:
    """Algorithm 2 of Koloskova et al. 2025 (arXiv 2506.06985) on `theta`, in place; yields the steps done so far.

    Args:
        mechanism: its public configuration.
        theta: the weights minus the centre, shape (d,) or (runs, d), float32 or float64.
        gradient: (theta, batch) -> minibatch gradient on the retained data, of theta's shape.
        batches: at least as many as steps are left.
        noise: of scale `mechanism.noise_std`; its count says where an interrupted run goes on.
    """
    eta, rho = mechanism.learning_rate, 1 - mechanism.decay
    for step in range(noise.count, mechanism.steps):
        g = gradient(theta, next(batches))
        clip_(step_(theta, g, keep=rho, rate=eta), mechanism.model_clip)
        noise.add_(theta, released=step + 1 == mechanism.steps)
        yield step + 1


@dataclass(frozen=True, kw_only=True)
class ModelClipping(Noisy):
    """Noisy fine-tuning with clipped weights, then recovery."""

    name: ClassVar[str] = mechanisms.ModelClipping.name

    model_clip: float = option("model_clip")
    learning_rate: float = option("learning_rate")
    weight_decay: float = option("weight_decay")
    steps: int = option("steps")

    @property
    def executor(self) -> Executor:
        """The steps of the theorem."""
        return noisy_steps

    def with_noise(self, task: Task, noise_std: float) -> mechanisms.ModelClipping:
        """The mechanism of these options."""
        return mechanisms.ModelClipping(
            model_clip=self.model_clip,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            noise_std=noise_std,
        )
