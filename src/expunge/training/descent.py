"""What the weights go through in a step of noisy fine-tuning, before its noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.randomness.gaussian import Move
from expunge.training.weights import clip_factor, step_

__all__ = ["Descent"]


@dataclass(frozen=True, kw_only=True)
class Descent:
    """A gradient step with weight decay, the gradient clipped: θ becomes keep θ - rate clip(g).

    Args:
        gradient: g, of the shape of the weights that move, (d,) or (runs, d), of any real type; it is not changed.
        keep: at most 1.
        rate: the learning rate.
        clip: the largest L2 norm of each row of the gradient.
    """

    gradient: Tensor
    keep: float
    rate: float
    clip: float

    def apply_(self, theta: Tensor) -> Tensor:
        """Take the step in place.

        Raises:
            NonFinite: the gradient holds NaN or infinity.
        """
        return step_(theta, self.gradient, keep=self.keep, rate=self.rate * clip_factor(self.gradient, self.clip))

    def moves(self, starts: Sequence[int]) -> list[Move]:
        """The step of one vector, to be taken together with its noise.

        Args:
            starts: for each slice that noise is added to, the coordinate of the noise for the gradient's first number; one, where
                the vector lies in one piece.

        Raises:
            NonFinite: the gradient holds NaN or infinity.
        """
        pace = -self.rate * float(clip_factor(self.gradient, self.clip))
        return [self._move(start, pace) for start in starts]

    def _move(self, start: int, pace: float) -> Move:
        gradient = self.gradient.detach().as_subclass(Tensor)

        def shift(begin: int, end: int) -> NDArray[Any]:
            part = gradient[begin - start : end - start]
            return (part if part.dtype in (torch.float32, torch.float64) else part.float()).contiguous().numpy()

        return Move(self.keep, pace, shift)
