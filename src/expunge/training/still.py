"""Coins held still: what is drawn is a constant, so that two calls of a model differ by what they are given alone."""

import contextlib
from collections.abc import Generator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from expunge.training.randomness import fork_coins, seed_coins

__all__ = ["coins_held_still"]


@contextlib.contextmanager
def coins_held_still(device: torch.device) -> Generator[None]:
    """Dropout keeps all, other draws of torch are constants, permutations turn round; numpy and `random` start anew.

    Where examples are mixed by coins (a permutation, a neighbour drawn at random) the mixing stays, and can be seen.
    All generators come back to where they were.
    """
    with fork_coins(device), _Still():
        seed_coins(0, device)
        yield


class _Still(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        drawn = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            _still(str(func), args, drawn)
        return drawn


def _still(name: str, args: tuple[Any, ...], drawn: object) -> None:
    """Put constants where an operation of torch drew."""
    if "native_dropout" in name or "fused_dropout" in name:
        kept, mask = cast("tuple[Tensor, Tensor]", drawn)
        kept.copy_(args[0])
        mask.fill_(1)
        return
    for tensor in drawn if isinstance(drawn, tuple | list) else [drawn]:
        if not isinstance(tensor, Tensor):
            continue
        if "randperm" in name:
            tensor.copy_(torch.arange(len(tensor) - 1, -1, -1, device=tensor.device))
        elif "randint" in name and ".low" in name:
            tensor.fill_(args[0])
        elif tensor.is_floating_point() and "bernoulli" not in name:
            tensor.fill_(0.5)
        else:
            tensor.fill_(1 if "bernoulli" in name else 0)
