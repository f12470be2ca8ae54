"""A run that is interrupted as by Ctrl-C, at a call of its loss.

The loss itself stays as it is: state files and traces know it by its code and by all that it holds, a count among it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from torch import Tensor, nn

import expunge.training.loss


class Calls:
    """How often a loss was called, and on how many rows each time."""

    def __init__(self) -> None:
        self.calls, self.sizes = 0, list[int]()


@contextlib.contextmanager
def interrupted(after: int | None = None, *, scale: float = 1.0) -> Iterator[Calls]:
    """Count the calls of losses, and raise `KeyboardInterrupt` in place of the one after so many; `scale` spoils them."""
    counted, plain = Calls(), expunge.training.loss.scalar_loss

    def scalar_loss(loss: Any, model: nn.Module, batch: Any) -> Tensor:
        if counted.calls == after:
            raise KeyboardInterrupt
        counted.calls += 1
        counted.sizes.append(len(batch[0]))
        return plain(loss if scale == 1 else lambda *given: loss(*given) * scale, model, batch)

    with (
        mock.patch("expunge.training.loss.scalar_loss", scalar_loss),
        mock.patch("expunge.unlearners.certified.scalar_loss", scalar_loss),
    ):
        yield counted
