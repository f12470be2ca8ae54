"""A mechanism of somebody else's with an executor of somebody else's: it runs here as the own ones do."""

from dataclasses import dataclass
from typing import ClassVar

from expunge.accounting import Mechanism
from expunge.training.task import Task
from expunge.unlearners.certified import Executor
from expunge.unlearners.noisy import Noisy

__all__ = ["Foreign"]


@dataclass(frozen=True, kw_only=True)
class Foreign(Noisy):
    """A finished noisy mechanism and the steps that carry it out, then recovery.

    No certificate is issued of it, and none is verified: `expunge.verify` trusts the theorems of the closed table alone.
    Check both with `expunge.testing.check_mechanism` and `check_executor`.

    Args:
        of: the mechanism.
        steps: its executor.
    """

    name: ClassVar[str] = "foreign"

    of: Mechanism
    steps: Executor

    @property
    def executor(self) -> Executor:
        """The steps that were given."""
        return self.steps

    def with_noise(self, task: Task, noise_std: float) -> Mechanism:
        """The mechanism as it was given: its noise is its own."""
        return self.of

    def mechanism(self, task: Task, budget: object, relation: object) -> Mechanism:
        """The mechanism as it was given."""
        return self.of
