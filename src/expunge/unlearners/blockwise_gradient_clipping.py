"""Noisy fine-tuning one block after another: the executor of `mechanisms.blockwise_gradient_clipping`."""

from collections.abc import Callable, Iterator
from itertools import accumulate, groupby
from typing import Any

from torch import Tensor, nn

from expunge.accounting import BlockwiseGradientClipping
from expunge.training.noise import Noise
from expunge.training.weights import clip_

__all__ = ["blockwise_gradient_clipping", "layer_sizes"]


def blockwise_gradient_clipping(
    mechanism: BlockwiseGradientClipping,
    theta: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],
    batches: Iterator[Any],
    noise: Noise,
) -> Iterator[int]:
    """T noisy steps on each block of `theta` in turn, in place; yields the steps done so far.

    Args:
        mechanism: its public configuration.
        theta: the weights minus the centre, shape (d,) or (runs, d), float32 or float64.
        gradient: (theta, batch) -> minibatch gradient on the retained data, of theta's shape; may be overwritten.
        batches: at least as many as steps are left.
        noise: of scale `mechanism.noise_std`; its count says where an interrupted run goes on.

    Raises:
        ValueError: the blocks do not add up to the weights.
    """
    ends = list(accumulate(mechanism.block_sizes))
    if ends[-1] != theta.shape[-1]:
        raise ValueError(f"block_sizes add up to {ends[-1]}, but the model has {theta.shape[-1]} covered weights")
    blocks = [slice(end - size, end) for end, size in zip(ends, mechanism.block_sizes, strict=True)]
    if noise.count == 0:
        for block, radius in zip(blocks, mechanism.block_clips, strict=True):
            clip_(theta[..., block], radius)
    eta, rho = mechanism.learning_rate, 1 - mechanism.decay
    for done in range(noise.count, mechanism.gradient_steps):
        block = blocks[done // mechanism.steps]
        whole = (
            _blind(gradient, theta, next(batches), block.stop) if mechanism.blind else gradient(theta, next(batches))
        )
        g = clip_(whole[..., block], mechanism.grad_clip)
        theta[..., block].mul_(rho).add_(g, alpha=-eta)
        noise.add_(theta, block, released=(done + 1) % mechanism.steps == 0)
        yield done + 1


def _blind(gradient: Callable[[Tensor, Any], Tensor], theta: Tensor, batch: Any, known: int) -> Tensor:
    """The gradient with everything from `known` on held at the centre."""
    hidden = theta[..., known:].clone()
    theta[..., known:] = 0
    try:
        return gradient(theta, batch)
    finally:
        theta[..., known:] = hidden


def layer_sizes(model: nn.Module) -> tuple[int, ...]:
    """Coordinates of each layer (its weight and bias together), in order: `block_sizes` for one block a layer."""
    named = [(name.rpartition(".")[0], parameter.numel()) for name, parameter in model.named_parameters()]
    return tuple(sum(size for _, size in layer) for _, layer in groupby(named, key=lambda pair: pair[0]))
