"""What an unlearner may offer beside its protocol, so that audits can attack it harder. Each capability is looked for alone.

The attack on canaries needs nothing of this. The others need many runs, which are too slow one by one; an unlearner that
says how its runs are made lets them be made at once. Offer only what is so: an attack on steps that are not those of
`forget` would say nothing of it.
"""

from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn

from expunge.accounting import Mechanism
from expunge.data import Examples
from expunge.heads import AnalyticHead, ConvexHead
from expunge.recovery import Recipe, Recovery
from expunge.training.task import Task
from expunge.training.unlearned import Unlearned
from expunge.unlearners.certified import Executor
from expunge.unlearners.working import Run

__all__ = ["AtOnce", "Fresh", "Minimiser", "OwnModule", "SameBits", "StartsInBall", "Steps", "Sums"]


@runtime_checkable
class Steps(Protocol):
    """Its certified weights come of an executor's steps on one vector, and recovery follows: runs can be stacked.

    Attacks: two worlds, and shadow models in a stack.
    """

    @property
    def executor(self) -> Executor:
        """The steps."""
        ...

    @property
    def recovers(self) -> Recovery:
        """The recovery. Runs are stacked where it is `FineTuning`."""
        ...

    @property
    def learns_for(self) -> float:
        """Epochs of the training that `learn` makes."""
        ...

    @property
    def batch_size(self) -> int:
        """Of the steps."""
        ...

    def on_one_weight(self, mechanism: Mechanism) -> Mechanism:
        """The mechanism that a single weight goes through, all others left out of the loss: what it shows, the whole does."""
        ...


@runtime_checkable
class StartsInBall(Protocol):
    """It starts from any weights in a ball, and its claim covers them all, the centre among them. Attack: the null start."""

    def starting_from(self, model: nn.Module) -> "StartsInBall":
        """This unlearner, with `model` in the place of the trained one."""
        ...


@runtime_checkable
class Fresh(Protocol):
    """It trains a new model and reads nothing of the old one. Attack: shadow models in a stack, of any training."""

    def fresh(self, task: Task) -> tuple[float, Recipe]:
        """Epochs and recipe of that training."""
        ...


@runtime_checkable
class Sums(Protocol):
    """It releases a head made of sums over features. Attacks: many heads from one state; their bits."""

    def sums(self, classes: int) -> AnalyticHead:
        """A head of its settings that has learned nothing."""
        ...


@runtime_checkable
class Minimiser(Protocol):
    """It releases the minimiser of a convex loss on features, with noise. Attacks: a search that stops early; many heads."""

    def minimiser(self, classes: int) -> ConvexHead:
        """A head of its settings that has learned nothing."""
        ...


@runtime_checkable
class OwnModule(Protocol):
    """It releases a module of its own making, which weights at hand are opened in."""

    def opened(self, task: Task, weights: Path) -> nn.Module:
        """The module with released weights, a safetensors file; raises `WeightsMismatch` where it is none of the task's."""
        ...


@runtime_checkable
class AtOnce(Protocol):
    """It releases what it has learned, whatever is asked: nothing is done at a request.

    Where its claim covers small groups alone, all of them are attacked in one release, each for itself.
    """

    def released(self) -> Unlearned:
        """What it has learned."""
        ...


@runtime_checkable
class SameBits(Protocol):
    """It releases the very bits of a training that never held the forgotten rows. Attack: they are compared."""

    def never(self, task: Task, rows: Examples, run: Run) -> nn.Module:
        """What training on `rows` alone makes, with the coins of what was learned."""
        ...
