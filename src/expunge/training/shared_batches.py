"""A worker's part of every global batch, and the loss on it, so that the workers' gradients add up to the batch's."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from expunge.data.batches import changed, tensors_in
from expunge.data.examples import Batch
from expunge.parallel.workers import Workers
from expunge.training.loss import Loss, scalar_loss
from expunge.training.randomness import seed_coins

__all__ = ["Portion", "of_portion", "portions"]


@dataclass(frozen=True)
class Portion:
    """A worker's rows of a global batch.

    Args:
        batch: its rows, number rank, rank + size, ... of the global batch; the first row of all where it has none, so that
            its forward pass takes part in what the workers do together.
        share: its part of the global batch, 0 where it has no row.
    """

    batch: Batch
    share: float


def portions(
    batches: Iterable[Any], workers: Workers, *, seed: int, device: torch.device, done: int = 0
) -> Iterator[Portion]:
    """Every global batch's part for this worker; before each the coins of the model's code are set to those of step and rank.

    So a run that goes on from a state file needs no other worker's coins: they follow from the seed.

    Args:
        batches: global, the same on every worker.
        workers: that share the run.
        seed: of the coins, the same on every worker.
        device: of the model.
        done: steps done before.
    """
    for step, batch in enumerate(batches, start=done):
        seed_coins(_seed(seed, step, workers.rank), device)
        size = len(tensors_in(batch)[0])
        own = changed(batch, lambda t: t[workers.rank :: workers.size])
        rows = len(tensors_in(own)[0])
        yield Portion(own if rows else changed(batch, lambda t: t[:1]), rows / size)


def of_portion(loss: Loss, scale: float = 1.0) -> Loss:
    """The loss of a portion, weighed by its share of the global batch: the sum over workers is the mean over the batch.

    Args:
        loss: a mean over the rows that it is given.
        scale: a factor, for workers whose gradients are averaged and not summed.
    """

    def weighed(model: nn.Module, portion: Portion) -> Tensor:
        return scalar_loss(loss, model, portion.batch) * (portion.share * scale)

    return weighed


def _seed(seed: int, step: int, rank: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}/{rank}".encode()).digest()[:7], "big")
