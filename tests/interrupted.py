"""A loss that is interrupted, as a run is by Ctrl-C."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Interrupted:
    """`loss`, interrupted at its k-th call; counts its calls."""

    def __init__(self, loss: Callable[[nn.Module, Any], Tensor], after: int | None = None) -> None:
        self.loss, self.after, self.calls = loss, after, 0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        if self.calls == self.after:
            raise KeyboardInterrupt
        self.calls += 1
        return self.loss(model, batch)
