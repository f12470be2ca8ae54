"""Plain SGD at one rate, as the published heuristics use it."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.training.loss import NO_GRADIENT
from expunge.unlearners.heuristics.base import Heuristic, Material

__all__ = ["ByDescent", "Descent"]


@dataclass(frozen=True, kw_only=True)
class ByDescent(Heuristic, ABC):
    """A heuristic whose steps are those of SGD at a constant rate.

    Args:
        batch_size: examples a batch.
        epochs: passes, over which part is the heuristic's own.
        learning_rate: of SGD.
        momentum: of SGD.
    """

    epochs: int = 1
    learning_rate: float = 1e-3
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.whole(epochs=self.epochs)
        _validate.positive(learning_rate=self.learning_rate)
        _validate.non_negative(momentum=self.momentum)

    def descent(self, material: Material, masks: "Mapping[nn.Parameter, Tensor] | None" = None) -> "Descent":
        """The steps on a model."""
        return Descent(material, learning_rate=self.learning_rate, momentum=self.momentum, masks=masks)


class Descent:
    """SGD on the parameters of a model that may change.

    Args:
        material: whose model.
        learning_rate: constant.
        momentum: of SGD.
        masks: by parameter, 1 where a weight may move; its gradient is multiplied. None: all may.
    """

    def __init__(
        self,
        material: Material,
        *,
        learning_rate: float,
        momentum: float,
        masks: Mapping[nn.Parameter, Tensor] | None,
    ) -> None:
        self._parameters, self._masks = material.trained(), masks
        self._optimizer = torch.optim.SGD(self._parameters, lr=learning_rate, momentum=momentum)

    def step(self, objective: Tensor) -> None:
        """Make a scalar smaller.

        Raises:
            TypeError: it has no gradient.
        """
        if not objective.requires_grad:
            raise TypeError(NO_GRADIENT)
        self._optimizer.zero_grad()
        objective.backward()  # pyright: ignore[reportUnknownMemberType]
        if self._masks is not None:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad *= self._masks[parameter]
        self._optimizer.step()  # pyright: ignore[reportUnknownMemberType]
