"""Retraining from scratch on the retained data: exact, and the yardstick of every other method."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
from torch import nn

from expunge import _validate
from expunge.accounting import Budget, Mechanism, Relation, Retrain, guarantee
from expunge.data import Batches, Examples
from expunge.data.coverage import coverage_of
from expunge.errors import TaskError
from expunge.parallel import Workers, unwrapped
from expunge.randomness.generators import secret_generator
from expunge.recovery import FineTuning, Recipe
from expunge.recovery.verbs import train_
from expunge.training.loss import Loss
from expunge.training.randomness import build
from expunge.training.starts import refuse_rows
from expunge.training.task import Task
from expunge.training.tensors import named_parameters
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.training.weights import public_names
from expunge.unlearners.costs import Costs
from expunge.unlearners.options import OPTIONS, option
from expunge.unlearners.protocol import Quote
from expunge.unlearners.recalled import EVERY_SETTING, Procedure, Recalled
from expunge.unlearners.working import Run

__all__ = ["Retraining", "refuse_trained", "train_from_scratch"]


def train_from_scratch(
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
    refuse_rows((loss, make_model), forget, what="loss or make_model")
    coins = generator if generator is not None else secret_generator()
    workers = Workers.here()
    model = unwrapped(build(make_model, coins, workers), workers)
    how = FineTuning(epochs=epochs, recipe=recipe or Recipe())
    train_(model, retain, loss, how, coins, state, on_epoch, label="retrain", make_model=make_model)
    record = noiseless_record(Retrain(), model, coverage=coverage, workers=workers.size)
    return Unlearned(model, replace(record, procedure={"training": {"epochs": epochs, "recipe": how.recipe.to_dict()}}))


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """Train a fresh model on the retained data alone.

    Args:
        epochs: passes over them; by default as many as the task says that its model was trained for, and where it does not
            say, 5, which the quote calls assumed.
        recovery_lr: the peak learning rate.
        optimizer: "sgd" or "adamw".
        batch_size: examples a batch.
        trains: the whole recipe, in place of these.
    """

    name: ClassVar[str] = Retrain.name
    reads: ClassVar[str] = "retained data"
    shares: ClassVar[bool] = True  # several workers can share its runs

    epochs: float | None = option("epochs", told=True)
    recovery_lr: float = option("recovery_lr")
    optimizer: str = option("optimizer")
    batch_size: int = option("batch_size")
    trains: Recipe | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None:
            _validate.positive(epochs=self.epochs)
        self.recipe  # noqa: B018  names the field that is out of range

    @property
    def recipe(self) -> Recipe:
        """Of the training."""
        if self.trains is not None:
            return self.trains
        return Recipe(optimizer=cast("Any", self.optimizer), learning_rate=self.recovery_lr, batch_size=self.batch_size)

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> Retrain:
        """Exact: nothing is to be calibrated."""
        return Retrain()

    def fresh(self, task: Task) -> tuple[float, Recipe]:
        """Epochs and recipe of the training."""
        known = task.training_epochs if self.epochs is None else self.epochs
        return OPTIONS["epochs"].default if known is None else known, self.recipe

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """Retraining as it is known from a record; None for another's mechanism."""
        if mechanism.name != cls.name:
            return None
        recipe = procedure.recipe
        unlearner = cls(epochs=procedure.training_epochs, trains=recipe, batch_size=recipe.batch_size)
        return Recalled(unlearner=unlearner, reads=EVERY_SETTING - {"epochs", "rescale"})

    def learn(self, task: Task, rows: Examples, run: Run) -> "Retraining":
        """Nothing of an earlier training is needed."""
        return self

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """Every step of a training."""
        if task.make_model is None:
            return Quote(unlearner=self.name, applies=False, why="the task has no make_model", reads=self.reads)
        epochs, _ = self.fresh(task)
        steps = max(1, round(epochs * costs.per_epoch(self.batch_size)))
        known = self.epochs is not None or task.training_epochs is not None
        return Quote(
            unlearner=self.name, applies=True, why="any model", steps=steps,
            claim=guarantee(self.mechanism(task, budget, relation), delta=budget.delta, relation=relation),
            seconds=steps * costs.step(self.batch_size), reads=self.reads,
            assumed="" if known else f"{epochs:g} epochs, as task.training_epochs does not say how many the trained model took",
            next_time="train with a trace (unlearner 'replay'): the next request then repeats only the steps from the first "
            "use of a forgotten row",
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Build a new model and train it."""
        Batches(task.retain, batch_size=self.batch_size, seed=0).per_epoch  # noqa: B018  raises where there is no length
        refuse_trained(task)
        assert task.make_model is not None
        keeps = isinstance(task.retain, Examples)
        coins = run.generator(0)
        if run.on_epoch is not None:
            run.on_epoch(0, build(task.make_model, run.generator(3) or secret_generator()))
        done = train_from_scratch(
            task.make_model, task.retain, loss=task.loss, forget=task.forget, epochs=self.fresh(task)[0], recipe=self.recipe,
            state=run.state("run") if keeps else None, generator=coins, on_epoch=run.on_epoch,
        )  # fmt: skip
        return replace(done, certified=done.model)


def refuse_trained(task: Task) -> None:
    """Raise `TaskError` where the model that a retraining would start from holds the trained weights."""
    if task.make_model is None:
        raise TaskError("retraining needs task.make_model, a function that builds a fresh model")
    trained = dict(named_parameters(task.model))
    public = public_names(task.model, task.public)
    for name, fresh in named_parameters(unwrapped(build(task.make_model, secret_generator()), Workers.here())):
        same = trained.get(name)
        # Of one value, as a bias that starts at zero, tells nothing.
        telling = fresh.requires_grad and name not in public and bool((fresh != fresh.reshape(-1)[:1]).any())
        if telling and same is not None and torch.equal(fresh.detach().cpu(), same.detach().cpu().to(fresh.dtype)):
            raise TaskError(
                f"task.make_model builds '{name}' with the values that task.model has: a retraining starts from weights that "
                "ignore the forgotten data. Build new ones; what no such data touched is named in task.public"
            )
