"""Plain SGD at one rate, as the published heuristics use it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from expunge.training.loss import NO_GRADIENT
from expunge.unlearners.heuristics.base import Material

__all__ = ["Descent"]


class Descent:
    """SGD on the parameters of a model that may change.

    Args:
        material: whose model.
        learning_rate: constant.
        momentum: of SGD.
        weight_decay: of SGD.
        masks: by parameter, 1 where a weight may move; its gradient is multiplied. None: all may.
    """

    def __init__(
        self,
        material: Material,
        *,
        learning_rate: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        masks: Mapping[nn.Parameter, Tensor] | None = None,
    ) -> None:
        self._parameters, self._masks = material.trained(), masks
        self._optimizer = torch.optim.SGD(
            self._parameters, lr=learning_rate, momentum=momentum, weight_decay=weight_decay
        )

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
