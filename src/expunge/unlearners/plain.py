"""A plain function as an unlearner: it runs and is measured beside the others, and nothing is proven of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from expunge._workers import refuse_workers
from expunge.accounting import Budget, Relation, Unproven
from expunge.data import Examples
from expunge.data.coverage import coverage_of
from expunge.training.task import Task
from expunge.training.tensors import copied
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.unlearners.costs import Costs
from expunge.unlearners.protocol import Quote
from expunge.unlearners.working import Run

__all__ = ["Plain"]


@dataclass(frozen=True)
class Plain:
    """A function `unlearn(model, retain, forget) -> model` of somebody's own: of kind none.

    Args:
        function: it is given a copy of the trained model, the retained and the forgotten data, and returns a model, or None
            where it changed the one that it was given.
    """

    name: ClassVar[str] = "function"
    reads: ClassVar[str] = "whatever the function reads"

    function: Callable[[nn.Module, Any, Any], nn.Module | None]

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> Unproven:
        """None that is proven."""
        return Unproven()

    def learn(self, task: Task, rows: Examples, run: Run) -> "Plain":
        """Nothing is kept: the function starts from the task's model."""
        return self

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """It proves nothing, so that it meets no budget."""
        return Quote(
            unlearner=self.name, applies=False, reads=self.reads, why="a plain function: nothing is proven of it"
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Call the function."""
        refuse_workers("a plain function")
        coverage = coverage_of(task.retain, task.forget)
        work = copied(task.model)
        done = self.function(work, task.retain, task.forget)
        model = work if done is None else done
        if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the function must return a torch.nn.Module or None, not {model!r:.100}")
        if run.on_epoch is not None:
            run.on_epoch(0, model)
        return Unlearned(model, noiseless_record(Unproven(), model, coverage=coverage))
