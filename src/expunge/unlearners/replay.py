"""A traced training as an unlearner: repeat the steps since the first use of a forgotten row, without it.

The trace changes in place. All that can be refused is refused before that, and the replay publishes in one step. Where a call
is cut off after the trace has changed, the same call makes the release from it and replays nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from expunge import _validate
from expunge._workers import refuse_workers
from expunge.accounting import Budget, Mechanism, Relation, Replay, guarantee
from expunge.data import Examples
from expunge.errors import ExpungeError, StateError, TaskError
from expunge.recovery import Recipe
from expunge.trace import Shards, ShardsCost, Trace, cost, rewind, train_shards, train_traced
from expunge.trace.schedule import name_tags
from expunge.trace.trace import Cost
from expunge.training.starts import refuse_rows
from expunge.training.task import Task
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.unlearners.costs import Costs
from expunge.unlearners.options import option
from expunge.unlearners.protocol import Quote
from expunge.unlearners.recalled import EVERY_SETTING, Procedure, Recalled
from expunge.unlearners.working import Run

__all__ = ["Replaying", "open_trace"]

_SLICES = 4  # of each shard that `learn` trains, where there are as many epochs
_SMALLEST = 2  # records in a step: BatchNorm cannot take one
_SHARDS, _PENDING = "shards.json", "pending.json"  # see `expunge.trace.shards`


@dataclass(frozen=True, kw_only=True)
class Replaying:
    """Rewind a traced training of one model, or of several on shards, and repeat it without the forgotten rows.

    Args:
        trace: the folder of `train_traced` or `train_shards`.
        traced: what they returned, in place of a folder; set by `learn`.
        shards: models of a training by `learn`.
        epochs: of a training by `learn`.
        recipe: likewise.
    """

    name: ClassVar[str] = Replay.name
    keeps: ClassVar[bool] = True
    reads: ClassVar[str] = "retained data and a checkpoint"

    trace: Path | None = option("trace")
    traced: Trace | Shards | None = None
    shards: int = 1
    epochs: int = 5
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        _validate.whole(shards=self.shards, epochs=self.epochs)

    def mechanism(self, task: Task, budget: Budget, relation: Relation) -> Replay:
        """Exact: nothing is to be calibrated."""
        traced = self._opened()
        return Replay(shards=traced.plan.shards if isinstance(traced, Shards) else self.shards)

    @classmethod
    def recalled(cls, mechanism: Mechanism, procedure: Procedure) -> Recalled | None:
        """A replay as it is known from a record; None for another's mechanism."""
        if not isinstance(mechanism, Replay):
            return None
        epochs = max(1, round(procedure.training_epochs))
        unlearner = cls(shards=mechanism.shards, epochs=epochs, recipe=procedure.recipe)
        return Recalled(unlearner=unlearner, reads=EVERY_SETTING - {"epochs", "rescale"})

    def learn(self, task: Task, rows: Examples, run: Run) -> "Replaying":
        """Train with a trace in the run's folder; the number of steps follows from the task's retained rows alone."""
        coins = run.generator(4)
        key = None if coins is None else bytes(torch.randint(256, (32,), generator=coins, dtype=torch.uint8).tolist())
        return replace(self, trace=None, traced=self._trained(task, rows, run.folder, key))

    def never(self, task: Task, rows: Examples, run: Run) -> nn.Module:
        """The model of a trace with the same key that learned these rows alone."""
        assert self.traced is not None
        return self._trained(task, rows, run.folder, self.traced.key).model(_builder(task))

    def _trained(self, task: Task, rows: Examples, home: Path | None, key: bytes | None) -> Trace | Shards:
        if home is None:
            raise TaskError("a traced training needs a folder: give Run(folder=...)")
        build, retain = _builder(task), _rows(task, "retain")
        steps = max(1, len(retain) // (self.recipe.batch_size * self.shards))
        how: dict[str, Any] = {
            "loss": task.loss, "steps_per_epoch": steps, "folder": home, "recipe": self.recipe, "augment": task.augment,
            "smallest_batch": _SMALLEST, "key": key,
        }  # fmt: skip
        if self.shards == 1:
            return train_traced(build, rows, epochs=self.epochs, **how)
        slices = min(_SLICES, self.epochs)
        passes = max(1, self.epochs // slices)
        return train_shards(build, rows, shards=self.shards, slices=slices, epochs_per_slice=passes, **how)

    def quote(self, task: Task, budget: Budget, relation: Relation, costs: Costs) -> Quote:
        """The steps that would be repeated, exactly."""
        traced = self._opened()
        if traced is None:
            why = "the training left no trace (train_traced, or train_shards)"
            return Quote(unlearner=self.name, applies=False, why=why)
        forget = _rows(task, "forget")
        found = _cost(task, lambda: cost(traced, forget.ids) if isinstance(traced, Trace) else traced.cost(forget.ids))
        if isinstance(found, str):
            return Quote(unlearner=self.name, applies=False, why=found)
        size = max(1, ceil(found.gradients / max(1, found.steps)))
        return Quote(
            unlearner=self.name, applies=True, steps=found.steps,
            claim=guarantee(self.mechanism(task, budget, relation), delta=budget.delta, relation=relation),
            seconds=found.steps * costs.step(size, augmented=True), reads=self.reads, why=_why(found, traced, forget),
        )  # fmt: skip

    def forget(self, task: Task, budget: Budget, relation: Relation, run: Run) -> Unlearned:
        """Replay, which leaves a trace that never held the forgotten rows."""
        refuse_workers("replay")
        traced = self._opened()
        if traced is None:
            raise ValueError(f"unlearner {self.name!r} needs --trace: the folder of train_traced or train_shards")
        _builder(task)
        retain, forget = _rows(task, "retain"), _rows(task, "forget")
        refuse_rows((task.loss, task.make_model), forget, what="loss or make_model")
        done = _finished(traced, task, retain, forget) or _replay(traced, task, retain, forget)
        settings = (traced if isinstance(traced, Trace) else traced.traces[0]).manifest.settings
        training = {"training": {"epochs": len(settings["steps"]), "recipe": dict(settings["recipe"])}}
        where = str(self.trace or traced.folder)
        record = replace(done.record, procedure=training)
        return replace(
            done, record=record, notes={**done.notes, "trace": where}, told=(_told(where, **done.notes["replayed"]),)
        )

    def _opened(self) -> Trace | Shards | None:
        return self.traced if self.trace is None else open_trace(self.trace)


def open_trace(folder: Path) -> Trace | Shards:
    """What `train_traced` or `train_shards` left.

    Raises:
        StateError: neither lies there, it is not finished, was altered, or its key is kept elsewhere.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StateError(f"{folder} is no folder of a traced training: make one with train_traced or train_shards")
    return Shards(folder) if (folder / _SHARDS).exists() else Trace(folder)


def _told(trace: str, *, steps: int, total: int, fraction: float, before: bool) -> str:
    if before:
        return f"{trace} had forgotten these records before: nothing was replayed."
    share = f"{100 * fraction:.1f} % of the training"
    return f"Replayed {steps} of {total} steps ({share}). {trace} has forgotten; delete copies of it."


def _why(found: Cost | ShardsCost, traced: Trace | Shards, forget: Examples) -> str:
    repeated = f"{found.steps} of {found.total} steps are repeated"
    if isinstance(found, Cost) or isinstance(traced, Trace):
        return f"{repeated}, from the first use of a forgotten record"
    average = traced.plan.expected_steps(len(forget))
    return f"{repeated}, in {len(found.hit)} of {traced.plan.shards} shards; for as many records at random {average:.0f} on average"


def _cost(task: Task, look: Callable[[], Cost | ShardsCost]) -> Cost | ShardsCost | str:
    """The cost, exactly; or why there is no replay."""
    if task.make_model is None:
        return "the task has no make_model"
    try:
        return look()
    except (ExpungeError, ValueError) as error:
        return str(error)


def _replay(traced: Trace | Shards, task: Task, retain: Examples, forget: Examples) -> Unlearned:
    code: dict[str, Any] = {"make_model": task.make_model, "loss": task.loss, "augment": task.augment}
    if isinstance(traced, Trace):
        done = rewind(traced, forget.ids, retain, **code)
    else:
        done = traced.rewind(forget.ids, retain, **code)
    told = {"steps": done.cost.steps, "total": done.cost.total, "fraction": done.cost.fraction, "before": False}
    return Unlearned(done.model, done.record, notes={"replayed": told})


def _finished(traced: Trace | Shards, task: Task, retain: Examples, forget: Examples) -> Unlearned | None:
    """The model of a trace that has forgotten these very records already; None where there is something to replay.

    The finished model is that of a training without them, whenever they were forgotten, so that the certificate holds.
    """
    if isinstance(traced, Shards) and (traced.folder / _PENDING).exists():
        return None  # an interrupted request, which `Shards.rewind` goes on with
    each = [(trace.roster(), name_tags(trace.key, gone), name_tags(trace.key, stay)) for trace, gone, stay in _parts(
        traced, forget, retain
    )]  # fmt: skip
    if not all(roster.knows_as_forgotten(gone).all() for roster, gone, _ in each):
        return None
    if any(
        not np.array_equal(np.unique(stay[~roster.knows_as_forgotten(stay)]), roster.tags) for roster, _, stay in each
    ):
        raise ValueError("task.retain and the trace differ in who remains; the forget set was forgotten before")
    if isinstance(traced, Shards):
        traced.refuse_withdrawn()
    model = traced.model(_builder(task))
    total = sum(traced.manifest.settings["steps"]) if isinstance(traced, Trace) else traced.plan.total
    told = {"steps": 0, "total": total, "fraction": 0.0, "before": True}
    if isinstance(traced, Trace):
        record = noiseless_record(Replay(shards=1), model, coverage="ledger")
    else:
        record = traced.record(_builder(task), model)
    return Unlearned(model, record, notes={"replayed": told})


def _parts(traced: Trace | Shards, *sets: Examples) -> Iterator[tuple[Any, ...]]:
    """Each trace, with the ids of those of the rows that fall to it."""
    if isinstance(traced, Trace):
        yield traced, *(each.ids for each in sets)
        return
    rows = [traced.plan.rows(traced.key, traced.plan.names(each)) for each in sets]
    for shard, trace in enumerate(traced.traces):
        yield trace, *([each.ids[row] for row in found[shard]] for each, found in zip(sets, rows, strict=True))


def _builder(task: Task) -> Any:
    if task.make_model is None:
        raise TaskError("a replay needs task.make_model, the function that the trace was made with")
    return task.make_model


def _rows(task: Task, part: str) -> Examples:
    rows = getattr(task, part)
    if not isinstance(rows, Examples):
        raise TaskError(f"a replay needs task.{part} as Examples, with the ids of the traced training")
    return rows
