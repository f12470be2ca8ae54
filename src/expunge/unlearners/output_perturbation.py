"""Clip the weights, add noise once: the executor of `accounting.mechanisms.output_perturbation`."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from expunge.accounting import OutputPerturbation
from expunge.training.noise import Noise
from expunge.training.weights import clip_

__all__ = ["output_perturbation"]


def output_perturbation(
    mechanism: OutputPerturbation,
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
