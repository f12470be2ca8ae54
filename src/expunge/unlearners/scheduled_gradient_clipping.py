"""Noisy fine-tuning with clipped gradients and schedules: the executor of `mechanisms.scheduled_gradient_clipping`."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from expunge.accounting import ScheduledGradientClipping
from expunge.training.noise import Noise
from expunge.training.weights import clip_

__all__ = ["scheduled_gradient_clipping"]


def scheduled_gradient_clipping(
    mechanism: ScheduledGradientClipping,
    theta: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],
    batches: Iterator[Any],
    noise: Noise,
) -> Iterator[int]:
    """Algorithm 1 of Koloskova et al. 2025 (arXiv 2506.06985) with η_t and σ_t, on `theta`, in place.

    Args:
        mechanism: its public configuration.
        theta: the weights minus the centre, shape (d,) or (runs, d), float32 or float64.
        gradient: (theta, batch) -> minibatch gradient on the retained data, of theta's shape; may be overwritten.
        batches: at least as many as steps are left.
        noise: of scales `mechanism.noise_std`; its count says where an interrupted run goes on.
    """
    if noise.count == 0:
        clip_(theta, mechanism.init_clip)
    for step in range(noise.count, mechanism.steps):
        eta = mechanism.learning_rate[step]
        g = clip_(gradient(theta, next(batches)), mechanism.grad_clip)
        theta.mul_(1 - eta * mechanism.weight_decay).add_(g, alpha=-eta)
        noise.add_(theta, released=step + 1 == mechanism.steps)
        yield step + 1
