"""Noisy fine-tuning one block after another: the executor of `mechanisms.blockwise_gradient_clipping`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from math import sqrt
from typing import Any, ClassVar

from torch import Tensor, nn

from expunge.accounting import Mechanism, mechanisms
from expunge.training.descent import Descent
from expunge.training.noise import Noise
from expunge.training.task import Task
from expunge.training.weights import clip_
from expunge.unlearners.certified import Executor
from expunge.unlearners.noisy import Noisy
from expunge.unlearners.options import option

__all__ = ["BlockwiseGradientClipping", "layer_sizes", "noisy_steps"]


def noisy_steps(
    mechanism: mechanisms.BlockwiseGradientClipping,
    theta: Tensor,
    gradient: Callable[[Tensor, Any], Tensor],
    batches: Iterator[Any],
    noise: Noise,
) -> Iterator[int]:
    """T noisy steps on each block of `theta` in turn, in place; yields the steps done so far.

    Args:
        mechanism: its public configuration.
        theta: the weights minus the centre, shape (d,) or (runs, d), float32 or float64.
        gradient: (theta, batch) -> minibatch gradient on the retained data, of theta's shape.
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
        descent = Descent(gradient=whole[..., block], keep=rho, rate=eta, clip=mechanism.grad_clip)
        noise.add_(theta, block, released=(done + 1) % mechanism.steps == 0, after=descent)
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


@dataclass(frozen=True, kw_only=True)
class BlockwiseGradientClipping(Noisy):
    """Noisy fine-tuning one layer after another, each clipped to its share of the ball, then recovery."""

    name: ClassVar[str] = mechanisms.BlockwiseGradientClipping.name

    init_clip: float = option("init_clip")
    grad_clip: float = option("grad_clip")
    learning_rate: float = option("learning_rate")
    weight_decay: float = option("weight_decay")
    steps: int = option("steps")
    blind: bool = option("blind")

    @property
    def executor(self) -> Executor:
        """The steps of the theorem."""
        return noisy_steps

    def on_one_weight(self, mechanism: Mechanism) -> Mechanism:
        """The block with the largest ball, of one weight.

        Where the loss depends on a single weight of that block, the weight's law is that of a run on this block alone: no
        other block enters its gradient, and noise is drawn for each coordinate. Looking at it alone is post-processing.
        """
        assert isinstance(mechanism, mechanisms.BlockwiseGradientClipping)
        return replace(mechanism, block_sizes=(1,), block_clips=(max(mechanism.block_clips),))

    def with_noise(self, task: Task, noise_std: float) -> mechanisms.BlockwiseGradientClipping:
        """The mechanism of these options."""
        sizes = layer_sizes(task.model)
        return mechanisms.BlockwiseGradientClipping(
            block_sizes=sizes,
            block_clips=(self.init_clip / sqrt(len(sizes)),) * len(sizes),
            grad_clip=self.grad_clip,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            steps=self.steps,
            noise_std=noise_std,
            blind=self.blind,
        )
