"""The convex head as an unlearner: fitted to within a measured residual, then a little noise."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from expunge.accounting import Budget, MeasuredResidual, Mechanism, Relation, UndeclaredFeatures, guarantee
from expunge.data import Examples, Request
from expunge.data.coverage import coverage_of
from expunge.errors import StateError
from expunge.heads import ConvexHead
from expunge.heads.convex import noise_for
from expunge.training.task import Task, featured, labelled, outputs
from expunge.training.unlearned import Unlearned
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

__all__ = ["NoisyHead"]

# Passes over the features that a convex head takes: a rule of thumb, rounded up from the 31 and 226 Hessian products that
# benchmarks/convex_head.py counts on CIFAR-10 features, and the gradients between them.
_PASSES_KEPT, _PASSES_NEW = 40, 250
_TIMED_ROWS = 1024
_NOBODY = Budget(epsilon=1.0, delta=1e-5)  # of a head that nobody has asked anything of yet
# What an UndeclaredFeatures certificate does not say of the head that was run.
_ASSUMED: dict[str, Any] = {"residual": 1e-8, "regularization": 1e-3}


@dataclass(frozen=True, kw_only=True)
class NoisyHead:
    """A strongly convex objective on fixed features, minimised until its gradient is small, then noise.

    Args:
        loss: of a new head: "logistic", "squared" or "smooth_hinge".
        regularization: lambda of its objective.
        residual: the largest norm of the gradient where it stops.
        head: the folder of the last request, from which to go on; without one a head is fitted to the retained rows alone.
        learned: a head at hand, in place of a folder; its noise stays as it is.
        saved: state and key of a head that `learn` has left; its noise is what the next budget asks for.
        noise_std: of a new head's releases; by default the least that meets the budget.
    """

    name: ClassVar[str] = MeasuredResidual.name
    keeps: ClassVar[bool] = True
    reads: ClassVar[str] = "the head's state and the retained features"

    loss: str = option("loss")
    regularization: float = option("regularization")
    residual: float = option("residual")
    head: Path | None = option("head")
    learned: ConvexHead | None = None
    saved: tuple[Path, bytes] | None = None
    noise_std: float | None = None

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> MeasuredResidual:
        """With the noise that the budget asks for."""
        std = (
            self.noise_std
            if self.noise_std is not None
            else noise_for(budget, residual=self.residual, regularization=self.regularization)
        )
        return MeasuredResidual(
            residual=self.residual, strong_convexity=self.regularization, noise_std=std, provenance=task.declared
        )

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """The head of a certificate, whichever of its mechanisms that names; None for another's mechanism."""
        reads = frozenset[str]()
        if isinstance(mechanism, MeasuredResidual):
            head = cls(
                residual=mechanism.residual, regularization=mechanism.strong_convexity, noise_std=mechanism.noise_std
            )  # fmt: skip
            return Recalled(unlearner=head, reads=reads, assumed={"loss": head.loss})
        if isinstance(mechanism, UndeclaredFeatures) and mechanism.head == cls.name:
            head = cls(noise_std=mechanism.noise_std, **_ASSUMED)
            assumed = {"loss": head.loss, "residual": head.residual, "strong_convexity": head.regularization}
            return Recalled(unlearner=head, reads=reads, assumed=assumed)
        return None

    def minimiser(self, classes: int) -> ConvexHead:
        """A head of these settings that has learned nothing, for one release: no inverse Hessian is kept."""
        return self._made(
            classes, _NOBODY if self.noise_std is None else self.noise_std, "not declared", factor_limit=0
        )

    def learn(self, task: Task, rows: Examples, run: Run) -> "NoisyHead":
        """Fit a head to all rows."""
        head = self._new(task, rows, _NOBODY)
        head.fit(
            Examples(featured(task, rows), rows.tensors[1], ids=rows.ids), generator=run.generator(4), prepare=False
        )
        if run.folder is None:
            return replace(self, learned=head)
        run.folder.mkdir(parents=True, exist_ok=True)
        head.save(run.folder / "head.state")
        return replace(self, saved=(run.folder / "head.state", head.key))

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """Features of the retained rows, and as many passes of two products over them as a rule of thumb says."""
        head = self._held(budget)
        why = needs(task) or other_kind(self, head, ConvexHead) or strangers(head, labelled(task, "forget"))
        if not why and (width := outputs(task, labelled(task, "retain"))) < 2:
            why = f"it needs 2 outputs at least, the network has {width}"
        if why:
            return Quote(unlearner=self.name, applies=False, why=why)
        return self._quoted(task, budget, relation, kept=head is not None)

    def _quoted(self, task: Task, budget: Budget, relation: Relation, *, kept: bool) -> Quote:
        retain = labelled(task, "retain")
        x, wide = retain.tensors[0][:_TIMED_ROWS], list[Tensor]()

        def features() -> None:
            with torch.no_grad():
                wide.append(cast("Any", task.features)(x).double())

        mapping = min(timed(features) for _ in range(2))
        weights = torch.zeros(wide[0].shape[1], outputs(task, retain), dtype=torch.float64)
        product = min(timed(lambda: wide[0].T @ (wide[0] @ weights)) for _ in range(3))
        seconds = [(mapping + passes * product) * len(retain) / len(x) for passes in (_PASSES_KEPT, _PASSES_NEW)]
        first = "" if kept else f"; a first one is fitted in about {_PASSES_NEW}: {seconds[1]:.2g} s"
        return Quote(
            unlearner=self.name, applies=True,
            claim=guarantee(self.mechanism(task, budget, relation), delta=budget.delta, relation=relation),
            seconds=seconds[0], reads=self.reads,
            why=f"a convex head on the feature map, from where it stands: features of {len(retain)} rows, timed on {len(x)}, and "
            f"about {_PASSES_KEPT} passes over them, a rule of thumb{first}",
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Go on from the weights of the last request, or fit a new head to the retained rows; then noise."""
        with alone_with(self.head):
            refuse_unproven(task, budget)
            previous, retain = self._held(budget), labelled(task, "retain")
            forget, coins = labelled(task, "forget"), run.generator(1)
            rows = Examples(featured(task, retain), retain.tensors[1], ids=retain.ids)
            if previous is None:
                coverage, head = coverage_of(retain, forget), self._new(task, retain, budget)
                done = head.fit(rows, generator=coins)
                done = replace(done, record=replace(done.record, coverage=coverage))
            else:
                self._refuse(previous, task)
                head = previous
                done = head.unlearn(rows, Request.rows(forget.ids), generator=coins)
            keep(head, run.folder)
        return handed_out(done, head, task, self.head)

    def _held(self, budget: Budget) -> Any:
        if self.saved is not None:
            noise = budget if self.noise_std is None else self.noise_std
            return ConvexHead.load(self.saved[0], key=self.saved[1], noise_std=noise)
        return self.learned if self.head is None else load_head(self.head, noise=budget)

    def _new(self, task: Task, rows: Examples, budget: Budget) -> ConvexHead:
        noise = budget if self.noise_std is None else self.noise_std
        return self._made(outputs(task, rows), noise, task.declared)

    def _made(self, classes: int, noise: Budget | float, provenance: str, **how: Any) -> ConvexHead:
        return ConvexHead(
            loss=cast("Any", self.loss), regularization=self.regularization, residual=self.residual, classes=classes,
            noise_std=noise, provenance=provenance, **how,
        )  # fmt: skip

    def _refuse(self, head: ConvexHead, task: Task) -> None:
        if why := other_kind(self, head, ConvexHead):
            raise StateError(why)
        known = {name: head.settings[name] for name in ("loss", "regularization", "residual")}
        refuse_other(self, known, head.settings["provenance"], task)
