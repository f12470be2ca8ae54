"""The exact head as an unlearner: whole-number sums over features, from which the forgotten rows are subtracted."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.accounting import Budget, ExactRidge, GridRidge, Mechanism, Relation, UndeclaredFeatures, guarantee
from expunge.data import Examples
from expunge.data.coverage import coverage_of
from expunge.errors import ExpungeError, StateError
from expunge.heads import AnalyticHead
from expunge.heads.analytic import UNDECLARED
from expunge.training.task import Task, featured, labelled, outputs
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.unlearners.costs import Costs, timed
from expunge.unlearners.heads import (
    alone_with,
    handed_out,
    keep,
    load_head,
    needs,
    other_kind,
    refuse_other,
    refuse_unproven,
    strangers,
)
from expunge.unlearners.options import option
from expunge.unlearners.protocol import Quote
from expunge.unlearners.recalled import Procedure, Recalled
from expunge.unlearners.working import Run

__all__ = ["ExactHead"]

_TIMED_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class ExactHead:
    """Ridge regression on fixed features: the released bits are those of never having learned the forgotten rows.

    Args:
        ridge: of a new head.
        grid: the public step to which a new head's features are rounded; None for sums in floating point, as an earlier
            version made them: nothing is proven of what they release, and audits alone run them.
        head: the folder of the last request, from which to go on; without one a head is fitted to the retained rows alone.
        learned: a head at hand, in place of a folder; set by `learn`.
        rounding: see `AnalyticHead`.
    """

    name: ClassVar[str] = GridRidge.name
    keeps: ClassVar[bool] = True
    reads: ClassVar[str] = "the head's state and the forgotten rows"

    ridge: float = option("ridge")
    grid: float | None = option("grid")
    head: Path | None = option("head")
    learned: AnalyticHead | None = None
    rounding: float = 1e-9

    def __post_init__(self) -> None:
        _validate.positive(ridge=self.ridge, rounding=self.rounding)
        if self.grid is not None:
            _validate.positive(grid=self.grid)

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> GridRidge | UndeclaredFeatures:
        """Exact: nothing is to be calibrated."""
        if self.grid is None:
            return UNDECLARED
        return GridRidge(ridge=self.ridge, grid=self.grid, rounding=self.rounding, provenance=task.declared)

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """The head of a certificate, whichever of its mechanisms that names; None for another's mechanism."""
        reads = frozenset[str]()
        if isinstance(mechanism, GridRidge):
            head = cls(ridge=mechanism.ridge, grid=mechanism.grid, rounding=mechanism.rounding)
            return Recalled(unlearner=head, reads=reads)
        if isinstance(mechanism, ExactRidge):
            head = cls(ridge=mechanism.ridge, grid=None, rounding=mechanism.rounding)
            return Recalled(unlearner=head, reads=reads, assumed={"grid": "none"})
        if isinstance(mechanism, UndeclaredFeatures) and mechanism.head == UNDECLARED.head:
            return Recalled(unlearner=cls(), reads=reads, assumed={"ridge": cls.ridge, "grid": cls.grid})
        return None

    def sums(self, classes: int) -> AnalyticHead:
        """A head of these settings that has learned nothing."""
        return AnalyticHead(ridge=self.ridge, classes=classes, rounding=self.rounding, grid=self.grid)

    def never(self, task: Task, rows: Examples, run: Run) -> nn.Module:
        """A head that learned these rows alone."""
        return self._fitted(task, rows).module()

    def learn(self, task: Task, rows: Examples, run: Run) -> "ExactHead":
        """Sum up all rows."""
        return replace(self, learned=self._fitted(task, rows))

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """The cost of subtracting the rows and of one solution, timed on the first 1,024 rows."""
        head = self._held()
        why = needs(task) or other_kind(self, head, AnalyticHead) or strangers(head, labelled(task, "forget"))
        if not why and head is not None and head.grid is None:
            why = "the head's sums are in floating point, from which nothing exact follows: fit a new one"
        if why:
            return Quote(unlearner=self.name, applies=False, why=why)
        retain, forget = labelled(task, "retain"), labelled(task, "forget")
        ridge, grid = (self.ridge, self.grid) if head is None else (head.ridge, head.grid)
        fresh = partial(AnalyticHead, ridge=ridge, classes=outputs(task, retain), grid=grid)
        try:
            row, one, solving, width = _seconds_of_sums(cast("Any", task.features), retain, fresh)
        except (ValueError, ExpungeError) as error:
            return Quote(unlearner=self.name, applies=False, why=f"its sums cannot be made: {error}")
        first = f"a first one sums the {len(retain)} retained rows: {len(retain) * row + solving:.2g} s"
        return Quote(
            unlearner=self.name, applies=True,
            claim=guarantee(self.mechanism(task, budget, relation), delta=budget.delta, relation=relation),
            seconds=one + (len(forget) - 1) * row + solving, reads=self.reads,
            why=f"subtract {len(forget)} rows from sums of width {width}, and solve; a head on the feature map, not the "
            f"network{'' if head is not None else f'; {first}'}",
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Subtract the forgotten rows from what the head has summed up; a new head sums the retained rows alone."""
        with alone_with(self.head):
            refuse_unproven(task, budget)
            forget, head = labelled(task, "forget"), self._held()
            if head is None:
                rows = labelled(task, "retain")
                coverage = coverage_of(rows, forget)
                head = self._fitted(task, rows)
                done = self._released(head)
                done = replace(done, record=replace(done.record, coverage=coverage))
            else:
                self._refuse(head, task)
                head.forget(featured(task, forget), forget.tensors[1], ids=forget.ids)
                done = self._released(head)
            keep(head, run.folder)
        return handed_out(done, head, task, self.head)

    def _released(self, head: AnalyticHead) -> Unlearned:
        if self.grid is not None:
            return head.unlearned()
        layer = head.module()
        return Unlearned(layer, noiseless_record(UNDECLARED, layer))

    def _held(self) -> Any:
        return self.learned if self.head is None else load_head(self.head)

    def _fitted(self, task: Task, rows: Examples) -> AnalyticHead:
        head = AnalyticHead(
            ridge=self.ridge, classes=outputs(task, rows), provenance=task.declared, grid=self.grid,
            rounding=self.rounding,
        )  # fmt: skip
        head.learn(featured(task, rows), rows.tensors[1], ids=rows.ids)
        return head

    def _refuse(self, head: AnalyticHead, task: Task) -> None:
        if why := other_kind(self, head, AnalyticHead):
            raise StateError(why)
        if head.grid is None and self.grid is not None:
            raise StateError(
                f"{self.head} holds sums in floating point, of an earlier version, from which nothing exact follows: fit a new "
                "head without --head"
            )
        known = {"ridge": head.ridge, "grid": None if head.grid is None else float(head.grid.max())}
        refuse_other(self, known, head.provenance, task)


def _seconds_of_sums(
    features: Callable[[Tensor], Tensor], rows: Examples, fresh: Callable[[], AnalyticHead]
) -> tuple[float, float, float, int]:
    """Features and sums, a row, timed on the first 1,024; of forgetting one row; of a solution; and the width.

    One row takes longer than a row among many: all of the sums change. The better of two.
    """
    x, y = (t[:_TIMED_ROWS] for t in rows.tensors)
    ids = rows.ids[: len(x)]

    def once() -> tuple[float, float, float, int]:
        head = fresh()
        wide: list[Tensor] = []

        def sums() -> None:
            with torch.no_grad():
                wide.append(features(x))
            head.learn(wide[0], y, ids=ids)

        def one() -> None:
            with torch.no_grad():
                head.forget(features(x[:1]), y[:1], ids=ids[:1])

        row, solving = timed(sums) / len(x), timed(lambda: head.weights)
        return row, timed(one), solving, wide[0].shape[1]

    return min(once(), once())
