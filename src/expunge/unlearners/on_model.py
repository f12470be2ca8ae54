"""The verb that runs a noisy mechanism of the closed table on a model, as a reader of the paper wants it."""

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.accounting import Mechanism
from expunge.training.loss import Loss
from expunge.training.unlearned import Unlearned
from expunge.unlearners.certified import run_executor
from expunge.unlearners.executors import EXECUTORS
from expunge.unlearners.options import NAMES

__all__ = ["run"]


def run(
    model: nn.Module,
    retain: Any,
    mechanism: Mechanism,
    *,
    loss: Loss,
    forget: Any = None,
    batch_size: int = 128,
    public: Sequence[str] = (),
    buffers: Literal["refuse", "reset"] = "refuse",
    center: nn.Module | dict[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    state: str | os.PathLike[str] | None = None,
    copy: bool = True,
) -> Unlearned:
    """Run a mechanism on a trained model and its retained data.

    Args:
        model: trained on retained and forgotten data.
        retain: the retained data: `Examples`, tensors `(x, y)`, or a loader of batches. Never the forgotten data.
        mechanism: a finished one, e.g. from `calibrate`.
        loss: `loss(model, batch)` returns a scalar tensor.
        forget: the forgotten rows, or their ids: read before the run to check that `retain` holds none of them, and never by
            the mechanism (see `check_disjoint`). Without them the record says "unchecked", and `issue` asks for words.
        batch_size: examples a batch, where the data are `Examples`.
        public: patterns of parameters and buffers that do not depend on the forgotten data; left alone.
        buffers: "refuse" models with buffers that may carry data, or "reset" BatchNorm statistics and estimate them
            again on the retained data.
        center: a public checkpoint at the ball's centre; by default zero.
        generator: source of noise and all other coins, on the model's device, never to be published. On the CPU
            `torch.Generator.manual_seed` keeps 32 bits of its seed: for a release leave this out, and a secret one is
            made.
        state: a file from which an interrupted call, repeated with the same arguments, goes on bit for bit; secret,
            deleted at the end.
        copy: work on a copy; False changes `model` itself and leaves it undefined if the run fails.

    Raises:
        StillRetained: `retain` holds forgotten rows.
        ValueError: among others, schedules that are too long for a certificate.
        ModelRefused, NonFinite, RunError, StateError: see their docstrings; a loss that holds the trained weights (as a
            teacher) is a `ModelRefused` too. Nothing is returned then.
    """
    executor = EXECUTORS.get(type(mechanism))
    if executor is None:
        name = getattr(mechanism, "name", "")
        task = f"; from a task: unlearn(task, request, {name!r})" if name in NAMES else ""
        raise TypeError(
            f"unlearn cannot run {_validate.shown(mechanism)} on a model; known: {[m.name for m in EXECUTORS]}{task}"
        )
    return run_executor(
        model, retain, mechanism, executor, loss=loss, forget=forget, batch_size=batch_size, public=public,
        buffers=buffers, center=center, generator=generator, state=state, copy=copy,
    )  # fmt: skip
