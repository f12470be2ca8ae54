"""All shards trained at once on the replicate path: a preview of what sharding costs in accuracy."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vmap

from expunge.data import Examples
from expunge.loss import Loss
from expunge.recovery.training import Recipe
from expunge.replicates import Stack, recover_runs
from expunge.trace.engine import Engine, Program, Settings
from expunge.trace.schedule import check_key
from expunge.trace.shards import Ensemble, Plan, shard_key

__all__ = ["preview_shards"]

_AGREES = 1e-4  # relative; a float32 mean over a batch is closer by far


def preview_shards(
    make_model: Callable[[], nn.Module],
    data: Examples,
    *,
    loss: Loss,
    shards: int,
    steps_per_epoch: int,
    key: bytes,
    slices: int = 4,
    epochs_per_slice: int = 1,
    recipe: Recipe | None = None,
) -> Ensemble:
    """The models of `train_shards`, all taking a step together, to try a number of shards before settling on it.

    Same records in the same steps from the same initial weights; the sums are taken in another order and dropout has
    other coins, so the result agrees up to rounding (the same law, with dropout), where `train_shards` repeats bit for
    bit. Nothing is kept from which to forget, so no certificate follows from it.

    Args:
        make_model: a network without buffers (`ModelRefused` otherwise).
        data: as in `train_shards`.
        loss: must be the mean of the losses of single records.
        shards: as in `train_shards`.
        steps_per_epoch: as in `train_shards`.
        key: as in `train_shards`.
        slices: as in `train_shards`.
        epochs_per_slice: as in `train_shards`.
        recipe: as in `train_shards`.

    Raises:
        ValueError: the loss is no mean over records, or a shard has a step without records.
    """
    check_key(key)
    plan = Plan(shards=shards, slices=slices, epochs_per_slice=epochs_per_slice, steps_per_epoch=steps_per_epoch)
    settings = Settings(steps=plan.steps, recipe=recipe or Recipe())
    program = Program(make_model=make_model, loss=loss)
    engines: list[Engine] = []
    for shard, rows in enumerate(plan.rows(key, data.ids)):
        names = [data.ids[row] for row in rows]
        engines.append(Engine(program, data, plan.first_epochs(key, names), settings, shard_key(key, shard)))
    _check_mean(engines[0].model, data, loss)
    stack = Stack.of([engine.model for engine in engines])

    def each(model: Callable[..., Any], batch: Any) -> Tensor:
        """The mean over the records that are there, of one shard's padded batch."""
        *parts, there = batch

        def one(*record: Tensor) -> Tensor:
            return loss(cast("nn.Module", model), tuple(t[None] for t in record))

        losses = vmap(one, randomness="different")(*parts)
        return (losses * there).sum() / there.sum()

    recover_runs(
        stack,
        _padded(engines, data),
        loss=each,
        steps=sum(plan.steps),
        optimizer=settings.recipe.optimizer,
        learning_rate=settings.recipe.learning_rate,
        momentum=settings.recipe.momentum,
        weight_decay=settings.recipe.weight_decay,
        max_grad_norm=settings.recipe.max_grad_norm,
    )
    return Ensemble([stack.model(run) for run in range(stack.runs)])


def _padded(engines: list[Engine], data: Examples) -> Iterator[tuple[Tensor, ...]]:
    """The batches of all shards, shape (shards, longest batch, ...), and 1 where a record is, 0 where padding."""
    for step, found in enumerate(zip(*(engine.batches() for engine in engines), strict=True)):
        longest = max(len(rows) for rows in found)
        index = torch.zeros(len(found), longest, dtype=torch.long)
        there = torch.zeros(len(found), longest)
        for shard, rows in enumerate(found):
            if not len(rows):
                raise ValueError(f"step {step} of shard {shard} has no record; use fewer steps_per_epoch or shards")
            index[shard, : len(rows)] = torch.from_numpy(rows)
            there[shard, : len(rows)] = 1
        parts = tuple(t[index.to(t.device)] for t in data.tensors)
        yield (*parts, there.to(parts[0].device))


def _check_mean(model: nn.Module, data: Examples, loss: Loss) -> None:
    rows = data.take(list(range(min(8, len(data)))))
    training = model.training
    model.eval()
    with torch.no_grad():
        whole = loss(model, rows.tensors)
        mean = torch.stack([loss(model, batch) for batch in rows.chunks(1)]).mean()
    model.train(training)
    if not torch.allclose(whole, mean, rtol=_AGREES, atol=_AGREES):
        raise ValueError(
            f"loss must be the mean of the losses of single records: it is {whole:.6g} for {len(rows)} records, their mean "
            f"is {mean:.6g}; use train_shards"
        )
