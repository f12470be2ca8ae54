"""Noisy fine-tuning with clipped gradients: the executor of `accounting.mechanisms.gradient_clipping`."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from expunge.accounting import GradientClipping
from expunge.training.noise import Noise
from expunge.training.weights import clip_

__all__ = ["gradient_clipping"]


def gradient_clipping(
    mechanism: GradientClipping,
    theta: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],
    batches: Iterator[Any],
    noise: Noise,
) -> Iterator[int]:
    """Algorithm 1 of Koloskova et al. 2025 (arXiv 2506.06985) on `theta`, in place; yields the steps done so far.

    Args:
        mechanism: its public configuration.
        theta: the weights minus the centre, shape (d,) or (runs, d), float32 or float64.
        gradient: (theta, batch) -> minibatch gradient on the retained data, of theta's shape; may be overwritten.
        batches: at least as many as steps are left.
        noise: of scale `mechanism.noise_std`; its count says where an interrupted run goes on.
    """
    eta, rho = mechanism.learning_rate, 1 - mechanism.decay
    if noise.count == 0:
        clip_(theta, mechanism.init_clip)
    for step in range(noise.count, mechanism.steps):
        g = clip_(gradient(theta, next(batches)), mechanism.grad_clip)
        theta.mul_(rho).add_(g, alpha=-eta)
        noise.add_(theta, released=step + 1 == mechanism.steps)
        yield step + 1
