"""Recovery under a constraint for each class or group of retained rows, which gives way where it costs too much."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.data.batches import changed
from expunge.data.examples import Batch
from expunge.errors import ModelRefused
from expunge.recovery.progress import Progress
from expunge.recovery.training import Recipe, Training
from expunge.training.loss import Loss, scalar_loss
from expunge.training.scores import label_of
from expunge.training.tensors import named_modules

__all__ = ["Multipliers", "ResilientConstrained"]


@dataclass(frozen=True, kw_only=True)
class ResilientConstrained:
    """Train on retained rows so that the loss of every class stays below a level, or above it by a slack that has a price.

    min E ℓ + α |u|² over weights and u ≥ 0, subject to E ℓ_i ≤ c + u_i for every class i: gradient steps on the Lagrangian,
    multipliers and slacks moved once an epoch, by the epoch's mean losses. Source: Hounie et al. 2023, arXiv 2306.02426.

    The Lagrangian is divided by 1 + Σ λ, which moves no minimum and keeps the learning rate's meaning.
    Every class of a batch is a batch of its own to the model, so that layers which mix rows are refused; the loss of a
    batch is taken as the mean over its classes, weighted by their rows.

    Args:
        classes: how many there are; public.
        level: c, the loss that no class should exceed; one for all, or one for each.
        price: α; the larger, the less constraints give way.
        dual_rate: of the multipliers.
        slack_rate: of the slacks; 0 < slack_rate * price < 1, or they do not settle.
        epochs: passes over the retained data.
        recipe: optimiser and schedule.
        by: the field of a batch that holds each row's group, whole numbers below `classes`; "" for the labels.
    """

    name: ClassVar[str] = "resilient_constrained"
    reads: ClassVar[str] = "retained rows"

    classes: int
    level: float | tuple[float, ...]
    price: float = 1.0
    dual_rate: float = 0.5
    slack_rate: float = 0.1
    epochs: int = 5
    recipe: Recipe = field(default_factory=Recipe)
    by: str = ""

    def __post_init__(self) -> None:
        _validate.whole(classes=self.classes, epochs=self.epochs)
        _validate.positive(price=self.price, dual_rate=self.dual_rate, slack_rate=self.slack_rate)
        if not self.slack_rate * self.price < 1:
            raise ValueError(
                f"slack_rate={self.slack_rate:g} times price={self.price:g} must be below 1: the slacks would not settle"
            )
        levels = self.level if isinstance(self.level, tuple) else (self.level,)
        if len(levels) not in ({self.classes} if isinstance(self.level, tuple) else {1}):
            raise ValueError(f"level has {len(levels)} entries, there are {self.classes} classes")
        if not all(isfinite(level) for level in levels):
            raise ValueError(f"level must be finite, not {self.level!r}")

    @property
    def batch_size(self) -> int:
        """Of the recipe."""
        return self.recipe.batch_size

    def total(self, per_epoch: int) -> int:
        """The steps of so many epochs."""
        return self.epochs * per_epoch

    def steps(self, model: nn.Module, batches: Iterator[Any], loss: Loss, progress: Progress) -> Iterator[int]:
        """Steps on the Lagrangian; multipliers and slacks move at the end of each epoch.

        Raises:
            ModelRefused: a layer mixes the rows of a batch.
            TypeError, ValueError: a batch has no such field, or it holds a group that there is none of.
        """
        _refuse_mixing(model)
        training = Training(model, self.recipe, steps=progress.total)
        levels = self.level if isinstance(self.level, tuple) else (self.level,) * self.classes
        multipliers = Multipliers(levels, price=self.price, dual_rate=self.dual_rate, slack_rate=self.slack_rate)
        progress.keep(optimizer=training.optimizer, schedule=training.schedule, multipliers=multipliers)
        per_epoch = progress.total // self.epochs
        for step in progress:
            self._step(training, next(batches), loss, multipliers)
            if step % per_epoch == 0:
                multipliers.move()
            yield step

    def _step(self, training: Training, batch: Batch, loss: Loss, multipliers: "Multipliers") -> None:
        training.optimizer.zero_grad()
        groups, whole = self._groups(batch), 1 + float(multipliers.duals.sum())
        for group in groups.unique().tolist():
            rows = (groups == group).nonzero()[:, 0]
            value = scalar_loss(loss, training.model, changed(batch, partial(_taken, rows)))
            weight = (len(rows) / len(groups) + float(multipliers.duals[group])) / whole
            (weight * value).backward()  # pyright: ignore[reportUnknownMemberType]
            multipliers.see(group, float(value.detach()), len(rows))
        training.update()
        training.schedule.step()

    def _groups(self, batch: Batch) -> Tensor:
        if self.by and not (isinstance(batch, dict) and self.by in batch):
            found = sorted(batch) if isinstance(batch, dict) else f"{len(batch)} tensors without names"
            raise TypeError(f"by={self.by!r} names no field of a batch, which holds {found}")
        groups = batch[self.by] if self.by else label_of(batch)  # pyright: ignore
        if groups.dim() != 1 or bool(((groups < 0) | (groups >= self.classes)).any()):
            raise ValueError(
                f"{self.by or 'labels'} must be whole numbers from 0 to {self.classes - 1}, one a row, as classes={self.classes}"
            )
        return groups


class Multipliers:
    """The multiplier and the slack of every constraint, and the epoch's mean losses.

    λ ← [λ + η_λ (ℓ - c - u)]₊ and u ← [u - η_u (2 α u - λ)]₊: at rest u = λ/(2α), and λ is the dual solution.

    Args:
        levels: c, one a constraint.
        price: α.
        dual_rate: η_λ.
        slack_rate: η_u; 0 holds the slacks at 0, the plain dual method.
    """

    def __init__(self, levels: tuple[float, ...], *, price: float, dual_rate: float, slack_rate: float) -> None:
        self._levels = torch.tensor(levels, dtype=torch.float64)
        self._price, self._dual_rate, self._slack_rate = price, dual_rate, slack_rate
        self.duals, self.slacks = torch.zeros_like(self._levels), torch.zeros_like(self._levels)
        self._sums, self._rows = torch.zeros_like(self._levels), torch.zeros_like(self._levels)

    def see(self, which: int, value: float, rows: int) -> None:
        """The mean loss of so many rows of a constraint."""
        self._sums[which] += value * rows
        self._rows[which] += rows

    def move(self) -> None:
        """End an epoch; constraints of which no row was seen stay as they are."""
        seen = self._rows > 0
        violated = self._sums / self._rows.clamp(min=1) - self._levels - self.slacks
        slacks = (self.slacks - self._slack_rate * (2 * self._price * self.slacks - self.duals)).clamp(min=0)
        self.duals = torch.where(seen, (self.duals + self._dual_rate * violated).clamp(min=0), self.duals)
        self.slacks = torch.where(seen, slacks, self.slacks)
        self._sums.zero_()
        self._rows.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """All that changes."""
        return {"duals": self.duals, "slacks": self.slacks, "sums": self._sums, "rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Tensor], /) -> None:
        """Go on from a state."""
        self.duals, self.slacks = state_dict["duals"].clone(), state_dict["slacks"].clone()
        self._sums, self._rows = state_dict["sums"].clone(), state_dict["rows"].clone()


def _taken(rows: Tensor, part: Tensor) -> Tensor:
    return part[rows.to(part.device)]


def _refuse_mixing(model: nn.Module) -> None:
    for name, module in named_modules(model):
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:  # pyright: ignore[reportPrivateUsage]
            raise ModelRefused(
                f"'{name}' takes its statistics from a batch, and every class is a batch of its own here: use GroupNorm or "
                "LayerNorm, or freeze the layer"
            )
