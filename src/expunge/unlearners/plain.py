"""A plain function as an unlearner: it runs and is measured beside the others, and nothing is proven of it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar

from torch import nn

from expunge.accounting import Budget, Kind, Relation
from expunge.data import Examples
from expunge.data.coverage import coverage_of
from expunge.training.task import Task
from expunge.training.tensors import copied
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.unlearners.costs import Costs
from expunge.unlearners.protocol import Quote
from expunge.unlearners.working import Run

__all__ = ["Plain", "Unproven"]


@dataclass(frozen=True)
class Unproven:
    """No theorem: what a run is held to that carries none. It is in no closed table, so that no certificate speaks of it.

    Args:
        method: what was run.
    """

    name: ClassVar[str] = "unproven"
    kind: ClassVar[Kind] = Kind.NONE
    theorem: ClassVar[str] = "None: nothing is proven of this method."
    covers: ClassVar[str] = "no forget set"
    assumptions: ClassVar[tuple[str, ...]] = ("No theorem speaks of this method.",)

    method: str = "function"
    gradient_steps: int = 0
    noise_draws: int = 0
    noise_std: float = 0.0
    start_radius: float = inf
    output_noise_std: float = 0.0
    surviving_norm: float = inf

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """Unbounded."""
        return inf

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """Of δ = 1: nothing is bounded."""
        return 0.0

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """Nothing is known of what an adversary attains."""
        return -inf

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """None."""
        return "none"


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
        coverage = coverage_of(task.retain, task.forget)
        work = copied(task.model)
        done = self.function(work, task.retain, task.forget)
        model = work if done is None else done
        if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the function must return a torch.nn.Module or None, not {model!r:.100}")
        if run.on_epoch is not None:
            run.on_epoch(0, model)
        return Unlearned(model, noiseless_record(Unproven(), model, coverage=coverage))
