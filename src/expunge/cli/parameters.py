"""Parameters that several commands have."""

from pathlib import Path
from typing import Annotated

from expunge.accounting import Budget, Relation
from expunge.cli.application import Argument, Option

__all__ = [
    "Delta",
    "Epsilon",
    "Ids",
    "InRelation",
    "Json",
    "RecoveryName",
    "Settings",
    "Start",
    "TaskName",
    "budget_of",
]

Json = Annotated[bool, Option(("--json",), help="Print JSON for machines.")]
Epsilon = Annotated[float, Option(help="Budget: epsilon.")]
Delta = Annotated[float, Option(help="Budget: delta.")]
Ids = Annotated[
    Path | None,
    Option(help="The ids of the rows to forget: one a line, or a list in a .json file. By default the task says it."),
]
InRelation = Annotated[Relation, Option(help="The reading to certify.")]
RecoveryName = Annotated[
    str | None,
    Option(
        ("--recovery",),
        help="module:function or file.py:function that returns an expunge.recovery.Recovery, which follows the noise in place of fine-tuning.",
    ),
]
Start = Annotated[
    str | None,
    Option(
        help="A heuristic that changes the trained weights before a noisy unlearner starts from them; its proof is the same."
    ),
]
Settings = Annotated[
    tuple[str, ...],
    Option(("--set",), help="NAME=VALUE, an option of the heuristic; may be repeated (docs/methods/heuristics.md)."),
]
TaskName = Annotated[str, Argument(help="module:function or file.py:function that returns an expunge.Task.")]


def budget_of(epsilon: float, delta: float) -> Budget:
    """The budget that was asked for.

    Raises:
        ValueError: a number is out of its range, or one that no certificate can hold.
    """
    from expunge.jobs.options import refuse_extreme  # late: most commands ask for no budget

    refuse_extreme(epsilon=epsilon, delta=delta)
    return Budget(epsilon=epsilon, delta=delta)
