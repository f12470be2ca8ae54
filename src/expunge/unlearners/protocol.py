"""What every way to unlearn has in common: what it costs, what it would prove, and how it is carried out."""

from dataclasses import dataclass, fields
from math import inf
from typing import Any, ClassVar, Protocol, runtime_checkable

from expunge.accounting import Budget, Claim, EpsilonDeltaClaim, Kind, Mechanism, Relation, numbers_of
from expunge.data import Examples
from expunge.training.task import Task
from expunge.training.unlearned import Unlearned
from expunge.unlearners.costs import Costs
from expunge.unlearners.working import Run

__all__ = ["KEEPS_NOTHING", "Quote", "Unlearner"]

KEEPS_NOTHING = 0.5
"""A gap between trained and null start below this leaves nothing that training from scratch would not have."""


@dataclass(frozen=True, kw_only=True)
class Quote:
    """What an unlearner says of a request before anything is run.

    Args:
        unlearner: its name.
        applies: whether it can be run on this task and meets the budget.
        why: what speaks for it, or why it does not apply.
        claim: what its certificate would state; None where it does not apply.
        steps: gradient steps on batches, recovery among them.
        seconds: about, on this machine, from a short timing; None where it does not apply.
        gap: the most by which a mean accuracy from the trained start can exceed that from the null start; None where no
            start is clipped to a ball.
        noise_to_weight: norm of the noise over the most that survives of the weights, least over the layers; infinite
            where nothing survives (null in JSON).
        reads: which data it must read.
        assumed: what steps and seconds rest on that nobody has said, and how to say it; "" where nothing.
        next_time: what could be kept now so that the next request is cheap, and what that would then cost; "" where nothing.
    """

    unlearner: str
    applies: bool
    why: str
    claim: Claim | None = None
    steps: int = 0
    seconds: float | None = None
    gap: float | None = None
    noise_to_weight: float | None = None
    reads: str = ""
    assumed: str = ""
    next_time: str = ""

    @property
    def keeps(self) -> bool:
        """Whether what it keeps of the training is worth something: no control that never saw data is as good."""
        return self.gap is None or self.gap >= KEEPS_NOTHING

    @property
    def guarantee(self) -> str:
        """The claim in a word: its ε where it has one, else its kind; "none" where there is no claim."""
        if isinstance(self.claim, EpsilonDeltaClaim):
            return f"epsilon={self.claim.epsilon:.4g}"
        return str(Kind.NONE if self.claim is None else self.claim.kind)

    @property
    def costed(self) -> bool:
        """Whether steps and seconds say something: it applies, or is a heuristic, which meets no budget."""
        return self.applies or (self.claim is None and self.steps > 0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: of the claim its kind, ε and δ; what is infinite or not known is None."""
        told: dict[str, Any] = {"kind": str(Kind.NONE), "epsilon": None, "delta": None}
        if self.claim is not None:
            numbers = numbers_of(self.claim)
            told = {"kind": str(self.claim.kind), "epsilon": numbers["epsilon"], "delta": numbers["delta"]}
        told |= {f.name: getattr(self, f.name) for f in fields(self) if f.name != "claim"}
        return {name: None if value == inf else value for name, value in told.items()}


@runtime_checkable
class Unlearner(Protocol):
    """A way to unlearn: a frozen dataclass of public options, with what it keeps between requests among them.

    Fields made with `options.option` are options of the command line. A task here has its request resolved: `task.retain`
    is what stays and `task.forget` what goes. One that goes on from what `learn` has left, rather than from the task's model,
    says so by a class attribute `keeps = True`.
    """

    name: ClassVar[str]
    reads: ClassVar[str]

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> Mechanism:
        """The theorem that its certificate rests on, calibrated to the budget where it adds noise."""
        ...

    def learn(self, task: Task, rows: Examples, run: Run) -> "Unlearner":
        """Train on rows, all that may later be forgotten among them; returns this unlearner with what it keeps of that.

        Args:
            task: whose model, loss and maps are used; its `retain` are the rows that stay in any case, where how long to
                train must not depend on the others.
            rows: to learn.
            run: its folder, a new one, is for what stays; its seed decides all coins.
        """
        ...

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """What it would prove, cost and read for the request of a task; nothing is changed."""
        ...

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Carry the request of a task out, and return the model with the record that `issue` certifies."""
        ...
