"""A replay attacked: canaries of one traced training, and its bits against a training that never saw them."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.attacks.attacked import Attacked
from expunge.attacks.heads import differences
from expunge.attacks.one_training import canaries, losses
from expunge.data import Examples
from expunge.data.joins import joined
from expunge.recovery import Recipe
from expunge.trace import Shards, Trace, rewind, train_shards, train_traced
from expunge.training.loss import Loss

__all__ = ["replay_canaries"]

_CHECKPOINTS, _SLICES = 4, 2
_SMALLEST = 2  # records in a step: BatchNorm cannot take one

# From the trace, the names to forget and all data to the released model.
Undo = Callable[[Trace | Shards, list[str], Examples], nn.Module]
Augment = Callable[[Any, torch.Generator], Any]


def replay_canaries(
    make_model: Callable[[], nn.Module],
    retain: Examples,
    candidates: Examples,
    *,
    loss: Loss,
    epochs: int,
    recipe: Recipe,
    augment: Augment | None = None,
    shards: int = 1,
    undo: Undo | None = None,
    delta: float = 1e-5,
    confidence: float = 0.95,
    generator: torch.Generator,
) -> Attacked:
    """`canaries` of one traced training in a temporary folder, forgotten by a rewind; and the bits of what is released.

    Equality with retraining bit for bit is what a replay claims, so a second traced training, of the same key and
    without the candidates, is compared: details "bits" hold the share of weights that differ, which must be 0.

    Args:
        make_model: builds a fresh model.
        retain: rows that are always there.
        candidates: canaries, at least 20, under other names than those of the retained rows.
        loss: of the task.
        epochs: of the training.
        recipe: its batch size decides the number of steps, from the retained rows alone.
        augment: of the task.
        shards: models of a sharded training; 1 for a single trace.
        undo: what is attacked; by default `rewind`, or `Shards.rewind`.
        delta: δ at which ε is bounded.
        confidence: of the bound.
        generator: of coins and key.

    Raises:
        ValueError: fewer than 20 candidates, or names given twice.
        StateError, NonFinite: see `train_traced` and `rewind`.
    """
    _validate.whole(epochs=epochs, shards=shards)
    key = bytes(torch.randint(256, (32,), generator=generator, dtype=torch.uint8).tolist())
    steps = max(1, len(retain) // (recipe.batch_size * shards))

    def trained(rows: Examples, folder: Path) -> Trace | Shards:
        how: dict[str, Any] = {
            "loss": loss, "augment": augment, "steps_per_epoch": steps, "folder": folder, "recipe": recipe, "key": key,
            "smallest_batch": _SMALLEST,
        }  # fmt: skip
        if shards == 1:
            return train_traced(make_model, rows, epochs=epochs, checkpoints=_CHECKPOINTS, **how)
        per_slice = max(1, epochs // _SLICES)
        return train_shards(make_model, rows, shards=shards, slices=_SLICES, epochs_per_slice=per_slice, **how)

    def rewound(trace: Trace | Shards, names: list[str], rows: Examples) -> nn.Module:
        how: dict[str, Any] = {"make_model": make_model, "loss": loss, "augment": augment}
        done = trace.rewind(names, rows, **how) if isinstance(trace, Shards) else rewind(trace, names, rows, **how)
        return done.model

    forgotten = undo or rewound
    with tempfile.TemporaryDirectory() as root:
        traces: list[Trace | Shards] = []
        released: list[nn.Module] = []

        def learn(own: Examples | None) -> nn.Module:
            traces.append(trained(joined(retain, own), Path(root) / "trace"))
            return traces[0].model(make_model)

        def forget(model: nn.Module, own: Examples | None) -> nn.Module:
            released.append(model if own is None else forgotten(traces[0], own.ids, joined(retain, own)))
            return released[0]

        found = canaries(
            learn, forget, candidates, score=partial(losses, loss=loss), delta=delta, confidence=confidence,
            generator=generator,
        )  # fmt: skip
        never = trained(retain, Path(root) / "never").model(make_model)
        same = differences(_flat(released[0]), _flat(never)) | {"unit": "share of weights; size of a weight"}
    return Attacked(findings=found.findings, details=found.details | {"bits": same})


def _flat(model: nn.Module) -> Tensor:
    """All weights and buffers, in double precision, which keeps every bit of single precision and of counters."""
    held = [*model.parameters(), *model.buffers()]
    return torch.cat([t.detach().cpu().double().reshape(-1) for t in held])
