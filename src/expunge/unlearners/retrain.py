"""Retraining from scratch on the retained data: exact, and the yardstick of every other method."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from expunge.accounting import Retrain
from expunge.data.coverage import coverage_of
from expunge.randomness.generators import secret_generator
from expunge.recovery.fine_tuning import train_
from expunge.recovery.training import Recipe
from expunge.training.loss import Loss
from expunge.training.randomness import build
from expunge.training.unlearned import Unlearned, noiseless_record

__all__ = ["retrain"]


def retrain(
    make_model: Callable[[], nn.Module],
    retain: Any,
    *,
    loss: Loss,
    forget: Any = None,
    epochs: float = 5,
    recipe: Recipe | None = None,
    generator: torch.Generator | None = None,
    state: str | os.PathLike[str] | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> Unlearned:
    """Train a fresh model on the retained data alone: exact unlearning, and the yardstick of every other method.

    Args:
        make_model: builds a model whose weights ignore the forgotten data; called once, under `generator`.
        retain: the retained data, as in `unlearn`.
        loss: as in `unlearn`.
        forget: as in `unlearn`.
        epochs: passes over the retained data.
        recipe: optimiser and schedule.
        generator: source of initialisation, batch order and other coins.
        state: as in `unlearn`.
        on_epoch: as in `recover`.
    """
    coverage = coverage_of(retain, forget)
    coins = generator if generator is not None else secret_generator()
    model = build(make_model, coins)
    how = recipe or Recipe()
    train_(model, retain, loss, epochs, how, coins, state, on_epoch, label="retrain", make_model=make_model)
    record = noiseless_record(Retrain(), model, coverage=coverage)
    return Unlearned(model, replace(record, procedure={"training": {"epochs": epochs, "recipe": how.to_dict()}}))
