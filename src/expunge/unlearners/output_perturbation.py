"""Clip the weights, add noise once: the executor of `accounting.mechanisms.output_perturbation`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from expunge.accounting import mechanisms
from expunge.training.noise import Noise
from expunge.training.task import Task
from expunge.training.weights import clip_
from expunge.unlearners.certified import Executor
from expunge.unlearners.noisy import Noisy
from expunge.unlearners.options import option

__all__ = ["OutputPerturbation", "noisy_steps"]


def noisy_steps(
    mechanism: mechanisms.OutputPerturbation,
    theta: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],  # noqa: ARG001  every executor is called alike
    batches: Iterator[Any],  # noqa: ARG001
    noise: Noise,
) -> Iterator[int]:
    """The Gaussian mechanism (Balle & Wang 2018, arXiv 1805.06530) on `theta`, in place; takes no gradient step.

    Args:
        mechanism: its public configuration.
        theta: the weights minus the centre, shape (d,) or (runs, d), float32 or float64.
        gradient: not called.
        batches: not read.
        noise: of scale `mechanism.noise_std`.
    """
    if noise.count == 0:
        clip_(theta, mechanism.init_clip)
        noise.add_(theta, released=True)
    yield from ()


@dataclass(frozen=True, kw_only=True)
class OutputPerturbation(Noisy):
    """Clip the weights, add noise once, then recovery."""

    name: ClassVar[str] = mechanisms.OutputPerturbation.name

    init_clip: float = option("init_clip")

    @property
    def executor(self) -> Executor:
        """The steps of the theorem."""
        return noisy_steps

    def with_noise(self, task: Task, noise_std: float) -> mechanisms.OutputPerturbation:
        """The mechanism of these options."""
        return mechanisms.OutputPerturbation(
            init_clip=self.init_clip,
            noise_std=noise_std,
        )
