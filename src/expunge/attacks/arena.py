"""An arena for membership attacks: many runs, in each of which every candidate was trained on and forgotten, or never seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge import _validate
from expunge.accounting import Mechanism
from expunge.audit.membership import logit_confidence_from_logits
from expunge.recovery import Recipe, rescale_
from expunge.replicates import Rows, RunBatches, Stack, recover_runs, unlearn_runs
from expunge.replicates.stack import Loss
from expunge.unlearners.certified import Executor

__all__ = ["Arena", "Unlearner"]

# From the arena and the trained models to models that should have unlearned; may change the trained ones.
Unlearner = Callable[["Arena", Stack], Stack]


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Data, coins and training of an experiment with many runs.

    In every run each candidate is in the training set by a fair coin of its own, and then in the forget set. Its
    place is taken by a retained row where it is out, so that all runs train on equally many rows.

    Args:
        data: all rows, of any kind.
        retain: rows that every run keeps, shape (n,), at least as many as candidates.
        candidates: rows whose membership is attacked, shape (m,).
        population: rows that no run sees.
        runs: how many, at least 4: half of them teach the attack, the others are attacked.
        make_model: builds a fresh model.
        loss: `loss(model, batch)`, for a stack.
        recipe: of training, recovery and retraining alike.
        epochs: of training and of retraining.
        recovery_epochs: after unlearning.
        seed: of coins, initialisation, batches and noise.
    """

    data: Rows
    retain: Tensor
    candidates: Tensor
    population: Tensor
    runs: int
    make_model: Callable[[], nn.Module]
    loss: Loss
    recipe: Recipe
    epochs: float
    recovery_epochs: float
    seed: int = 0

    def __post_init__(self) -> None:
        _validate.whole(4, runs=self.runs)
        _validate.positive(epochs=self.epochs, recovery_epochs=self.recovery_epochs)
        if not 0 < len(self.candidates) <= len(self.retain):
            raise ValueError(
                f"there must be at least one candidate and no more than retained rows, not {len(self.candidates)} candidates "
                f"and {len(self.retain)} rows"
            )
        rows = torch.cat([self.retain, self.candidates, self.population])
        if len(rows.unique()) < len(rows):
            raise ValueError("retain, candidates and population hold a row twice, or share one")

    @cached_property
    def coins(self) -> Tensor:
        """Who was in, shape (runs, m), bool."""
        return torch.rand(self.runs, len(self.candidates), generator=self.generator(1)) < 0.5

    def generator(self, purpose: int) -> torch.Generator:
        """A generator of its own for each purpose, on the device of the data."""
        return torch.Generator(self.data.labels.device).manual_seed(self.seed * 1000 + purpose)

    def trained(self) -> Stack:
        """Models trained on the retained rows and the candidates that are in."""
        stand_in = self.retain[: len(self.candidates)].expand(self.runs, -1)
        rows = torch.where(self.coins, self.candidates, stand_in)
        stack = self.fresh(2)
        self.train(stack, torch.cat([self.retain.expand(self.runs, -1), rows], dim=1), self.epochs, purpose=3)
        return stack

    def retrained(self, draw: int = 0) -> Stack:
        """Models trained on the retained rows alone: what cannot leak; other models for each draw."""
        stack = self.fresh(4 + 10 * draw)
        self.train(stack, self.retain.expand(self.runs, -1), self.epochs, purpose=5 + 100 * draw)
        return stack

    def fresh(self, purpose: int) -> Stack:
        """Freshly initialised models."""
        first = self.seed * 1_000_000 + purpose * 10_000
        return Stack.fresh(self.make_model, range(first, first + self.runs)).to(self.data.labels.device)

    def train(
        self, stack: Stack, rows: Tensor, epochs: float, *, purpose: int, learning_rate: float | None = None
    ) -> None:
        """Train in place on rows of shape (runs, n)."""
        recipe = self.recipe
        batches = RunBatches(self.data, rows, batch_size=recipe.batch_size, seed=self.seed * 1000 + purpose)
        recover_runs(
            stack, batches, loss=self.loss, steps=max(1, round(epochs * batches.per_epoch)), optimizer=recipe.optimizer,
            learning_rate=learning_rate or recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        )  # fmt: skip

    def outputs(self, stack: Stack, rows: Tensor | None = None) -> Tensor:
        """What every model says of the candidates, or of other rows: shape (runs, n, classes)."""
        index = self.candidates if rows is None else rows
        return stack.outputs(self.data.batch(index)[0])

    def confidences(self, stack: Stack) -> NDArray[np.float64]:
        """Logit confidence of every model in the true labels of the candidates, shape (runs, m)."""
        labels = self.data.labels[self.candidates].cpu().numpy()
        logits = self.outputs(stack).double().cpu().numpy()
        return np.stack([logit_confidence_from_logits(one, labels) for one in logits])


def nothing() -> Unlearner:
    """No unlearning: the trained models."""
    return lambda _arena, stack: stack


def retraining() -> Unlearner:
    """Retraining from scratch: exact."""
    return lambda arena, _stack: arena.retrained()


def mechanism(
    of: Mechanism, *, rescale: bool = False, executor: Executor | None = None, batch_size: int | None = None
) -> Unlearner:
    """A noisy mechanism, and recovery on the retained rows.

    Args:
        of: the mechanism.
        rescale: whether recovery first rescales the layers.
        executor: its steps; by default our own.
        batch_size: of them; by default the recipe's.
    """

    def run(arena: Arena, stack: Stack) -> Stack:
        rows = arena.retain.expand(arena.runs, -1)
        size = arena.recipe.batch_size if batch_size is None else batch_size
        batches = RunBatches(arena.data, rows, batch_size=size, seed=arena.seed * 1000 + 6)
        unlearn_runs(stack, batches, of, loss=arena.loss, generator=arena.generator(7), executor=executor)
        if rescale:
            stack = Stack.of([rescale_(stack.model(run)) for run in range(stack.runs)]).to(arena.data.labels.device)
        arena.train(stack, rows, arena.recovery_epochs, purpose=8)
        return stack

    return run


def fine_tuning() -> Unlearner:
    """Plain fine-tuning on the retained rows: no noise, no guarantee."""

    def run(arena: Arena, stack: Stack) -> Stack:
        arena.train(stack, arena.retain.expand(arena.runs, -1), arena.recovery_epochs, purpose=8)
        return stack

    return run


def gradient_ascent(*, steps: int, learning_rate: float) -> Unlearner:
    """Ascent on the loss of the forget set: no guarantee, and it uses the forget set."""

    def run(arena: Arena, stack: Stack) -> Stack:
        x, y = arena.data.batch(arena.candidates)
        share = arena.coins.float() / arena.coins.sum(1, keepdim=True).clamp(min=1)

        def loss(model: Callable[..., Any], batch: Sequence[Tensor]) -> Tensor:
            own, labels, weight = batch
            each = torch.nn.functional.cross_entropy(model(own), labels, reduction="none")
            return -(each * weight).sum()

        runs = arena.runs
        whole = (x.expand(runs, *x.shape), y.expand(runs, -1), share.to(x.device))
        recover_runs(
            stack, [whole] * steps, loss=loss, steps=steps, learning_rate=learning_rate, momentum=0.0, weight_decay=0.0,
            schedule=lambda _step: 1.0,
        )  # fmt: skip
        return stack

    return run
