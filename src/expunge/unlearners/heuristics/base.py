"""What heuristics have in common: they change a copy of the trained model, and prove nothing."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn

from expunge import _validate
from expunge._progress import track
from expunge._workers import refuse_workers
from expunge.accounting import Budget, Mechanism, Relation, Unproven
from expunge.data import Batches, Examples
from expunge.data.coverage import coverage_of
from expunge.errors import NonFinite
from expunge.randomness.generators import secret_generator
from expunge.recovery.procedure import settings_of
from expunge.training.loss import Loss
from expunge.training.randomness import fresh_coins, mode
from expunge.training.statistics import keeps_statistics
from expunge.training.task import Task
from expunge.training.tensors import copied, named_parameters
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.training.weights import public_names
from expunge.unlearners.costs import Costs
from expunge.unlearners.protocol import Quote
from expunge.unlearners.recalled import OF_TRAINING, Procedure, Recalled
from expunge.unlearners.working import Run

__all__ = ["Heuristic", "Material"]


@dataclass(frozen=True)
class Material:
    """What the steps of a heuristic work with.

    Args:
        model: a copy of the trained one, to be changed in place, in training mode.
        loss: of the task.
        retain: retained data.
        forget: forgotten data.
        batch_size: examples a batch.
        seed: of the order of retained batches; all other coins are torch's global ones, which are forked.
    """

    model: nn.Module
    loss: Loss
    retain: Any
    forget: Any
    batch_size: int
    seed: int

    def per_epoch(self, part: str) -> int:
        """Batches of one pass over a part, "retain" or "forget"."""
        rows = getattr(self, part)
        if part == "forget" and isinstance(rows, Examples):
            return self.count(part)
        return Batches(rows, batch_size=self.batch_size, seed=self.seed).per_epoch

    def batches(self, part: str) -> Iterator[Any]:
        """Batches of a part without end, a new order each epoch; of the forgotten rows none is left out of an epoch."""
        rows = getattr(self, part)
        if part == "forget" and isinstance(rows, Examples):
            return self._shuffled(rows)
        return iter(Batches(rows, batch_size=self.batch_size, seed=self.seed))

    def count(self, part: str) -> int:
        """Batches of a pass that leaves no row out."""
        rows = getattr(self, part)
        return -(-len(rows) // self.batch_size) if isinstance(rows, Examples) else self.per_epoch(part)

    def every(self, part: str) -> Iterator[Any]:
        """One pass that leaves no row out."""
        rows = getattr(self, part)
        yield from rows.chunks(self.batch_size) if isinstance(rows, Examples) else rows

    def _shuffled(self, rows: Examples) -> Iterator[Any]:
        """Parts of nearly one size, so that none is of a single row where there are two."""
        while True:
            for part in torch.randperm(len(rows)).tensor_split(self.count("forget")):
                yield rows.batch(part)

    def teacher(self) -> nn.Module:
        """The model as it is now, frozen, in evaluation mode."""
        return copy.deepcopy(self.model).eval().requires_grad_(False)

    def trained(self) -> list[nn.Parameter]:
        """Parameters that may change."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


@dataclass(frozen=True, kw_only=True)
class Heuristic(ABC):
    """A way to make a model behave as if rows had not been learned, of which nothing is proven: kind none.

    Args:
        batch_size: examples a batch.
    """

    name: ClassVar[str]
    reads: ClassVar[str] = "retained and forgotten data"
    source: ClassVar[str]
    weights_alone: ClassVar[bool] = True  # the model stays one of the same class and shapes

    batch_size: int = 64

    def __post_init__(self) -> None:
        _validate.plain_numbers(self)
        _validate.whole(batch_size=self.batch_size)

    @abstractmethod
    def total(self, material: Material) -> int:
        """How many steps there are."""

    @abstractmethod
    def steps(self, material: Material) -> Iterator[None]:
        """Change the model in place, a step at a time."""

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> Unproven:
        """None that is proven."""
        return Unproven(method=self.name)

    @property
    def stated(self) -> dict[str, Any]:
        """What a record says of it: `{"name", "settings"}`."""
        return {"name": self.name, "settings": settings_of(self, f"'{self.name}'")}

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """The heuristic that a record says was run; None where it is another one."""
        if not isinstance(mechanism, Unproven) or mechanism.method != cls.name:
            return None
        if procedure.unlearner is None:
            return Recalled(unlearner=cls(), reads=OF_TRAINING, assumed=cls().stated["settings"])
        return Recalled(unlearner=cls(**procedure.unlearner["settings"]), reads=OF_TRAINING)

    def learn(self, task: Task, rows: Examples, run: Run) -> "Heuristic":
        """Nothing is kept: it starts from the task's model."""
        return self

    def count(self, task: Task) -> int:
        """How many steps it takes on a task."""
        return self.total(Material(task.model, task.loss, task.retain, task.forget, self.batch_size, seed=0))

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """It proves nothing, so that it meets no budget; what it costs is told all the same."""
        steps = self.count(task)
        return Quote(
            unlearner=self.name, applies=False, why="nothing is proven of it: a heuristic, to compare with", reads=self.reads,
            steps=steps, seconds=steps * costs.step(self.batch_size),
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Take the steps on a copy of the task's model.

        Raises:
            NonFinite: they left NaN or infinity in a weight.
        """
        refuse_workers("a heuristic")
        coverage = coverage_of(task.retain, task.forget)
        model = copied(task.model)
        coins = run.generator(0) or secret_generator()
        frozen = public_names(model, task.public)
        with fresh_coins(coins, next(model.parameters()).device) as seed, mode(model, training=True):
            material = Material(model, task.loss, task.retain, task.forget, self.batch_size, seed)
            for norm in keeps_statistics(model, frozen):
                norm.eval()
            with _frozen(model, frozen):
                for _ in track(self.steps(material), total=self.total(material), label=f"unlearn: {self.name}"):
                    pass
        for name, parameter in named_parameters(model):
            parameter.grad = None
            if not bool(torch.isfinite(parameter.detach()).all()):
                raise NonFinite(f"{self.name} left NaN or infinity in '{name}': lower its learning rate")
        if run.on_epoch is not None:
            with mode(model, training=False), torch.no_grad():
                run.on_epoch(0, model)
        record = noiseless_record(Unproven(method=self.name), model, coverage=coverage)
        return Unlearned(model, replace(record, procedure={"unlearner": self.stated}))


@contextmanager
def _frozen(model: nn.Module, names: Collection[str]) -> Generator[None]:
    """Leave parameters of these names as they are."""
    held = [parameter for name, parameter in named_parameters(model) if name in names and parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
