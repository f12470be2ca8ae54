"""A traced training replayed without the task's forget set: one model, or shards.

The trace changes in place. All that can be refused is refused before that, and the replay publishes in one step. The
folder of the certificate is made from the trace as it then stands: where a call is cut off after the trace has changed,
the same call makes the folder, and replays nothing.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.accounting import Budget, Relation, Replay
from expunge.data import Examples, as_examples, commit, new_commitment_key
from expunge.errors import StateError, TaskError
from expunge.jobs.folder import keys_in, summary, working_folder, write
from expunge.trace import Shards, Trace, rewind
from expunge.trace.identity import name_tag
from expunge.training.task import Task, accuracies, load_task
from expunge.training.unlearned import Unlearned, noiseless_record

__all__ = ["open_trace", "run_replay"]

_SHARDS, _PENDING = "shards.json", "pending.json"  # see `expunge.trace.shards`


def run_replay(where: str, out: Path, budget: Budget, *, trace: Path, resume: bool = False) -> dict[str, Any]:
    """Forget the task's forget set by replaying a trace, which is then that of a training without it; returns a summary.

    Args:
        where: as in `run_task`; `make_model`, `loss` and `augment` are those that the trace was made with, and `retain`
            holds every record of the trace that remains.
        out: the folder to make, for weights, certificate and report; the trace stays where it is.
        budget: what the certificate is to meet; any, as a replay is exact.
        trace: of `train_traced` or `train_shards`, the key in it.
        resume: take a folder that a killed call left.

    Raises:
        TaskError: no `make_model`, or retain or forget set are not `Examples`.
        OutputError: `out` exists, or something cannot be written.
        StateError, ValueError, NonFinite: see `rewind` and `Shards.rewind`. Nothing has changed then.
    """
    with working_folder(out, resume=resume) as work:
        task = load_task(where)
        if task.make_model is None:
            raise TaskError("a replay needs task.make_model, the function that the trace was made with")
        retain, forget = _examples(task, "retain"), _examples(task, "forget")
        traced = open_trace(trace)
        original = accuracies(task, task.model)
        commitments = {"forget": commit(forget, key=new_commitment_key(keys_in(work) / "commitment.key"))}
        done, replayed = _finished(traced, task, retain, forget) or _replay(traced, task, retain, forget)
        done = replace(done, record=replace(done.record, procedure=_training(traced)))
        certificate = write(work, done, done.model, budget, Relation.RETRAINED, commitments)
    measured = {"original": original, "released": accuracies(task, done.model)}
    return summary(out, certificate, measured, replayed=replayed, trace=str(trace))


def open_trace(folder: Path) -> Trace | Shards:
    """What `train_traced` or `train_shards` left.

    Raises:
        StateError: neither lies there, it is not finished, was altered, or its key is kept elsewhere.
    """
    if not folder.is_dir():
        raise StateError(f"{folder} is no folder of a traced training: make one with train_traced or train_shards")
    return Shards(folder) if (folder / _SHARDS).exists() else Trace(folder)


def _replay(traced: Trace | Shards, task: Task, retain: Examples, forget: Examples) -> tuple[Unlearned, dict[str, Any]]:
    assert task.make_model is not None
    code: dict[str, Any] = {"make_model": task.make_model, "loss": task.loss, "augment": task.augment}
    if isinstance(traced, Trace):
        done = rewind(traced, forget.ids, retain, **code)
    else:
        done = traced.rewind(forget.ids, retain, **code)
    cost = {"steps": done.cost.steps, "total": done.cost.total, "fraction": done.cost.fraction, "before": False}
    return Unlearned(done.model, done.record), cost


def _finished(
    traced: Trace | Shards, task: Task, retain: Examples, forget: Examples
) -> tuple[Unlearned, dict[str, Any]] | None:
    """The model of a trace that has forgotten these very records already; None where there is something to replay.

    The finished model is that of a training without them, whenever they were forgotten, so that the certificate holds.
    """
    assert task.make_model is not None
    if isinstance(traced, Shards) and (traced.folder / _PENDING).exists():
        return None  # an interrupted request, which `Shards.rewind` goes on with
    present, forgotten = _tags(traced)
    if not {_tag(traced, name) for name in forget.ids} <= forgotten:
        return None
    if {_tag(traced, name) for name in retain.ids} - forgotten != present:
        raise ValueError("task.retain and the trace differ in who remains; the forget set was forgotten before")
    model = traced.model(task.make_model)
    shards = 1 if isinstance(traced, Trace) else traced.plan.shards
    total = sum(traced.manifest.settings["steps"]) if isinstance(traced, Trace) else traced.plan.total
    cost = {"steps": 0, "total": total, "fraction": 0.0, "before": True}
    return Unlearned(model, noiseless_record(Replay(shards=shards), model, coverage="ledger")), cost


def _training(traced: Trace | Shards) -> dict[str, Any]:
    """How the traced training went, as a record tells it."""
    settings = (traced if isinstance(traced, Trace) else traced.traces[0]).manifest.settings
    return {"training": {"epochs": len(settings["steps"]), "recipe": dict(settings["recipe"])}}


def _tags(traced: Trace | Shards) -> tuple[set[str], set[str]]:
    """Who takes part, and who was forgotten, over all shards."""
    present, forgotten = set[str](), set[str]()
    for trace in (traced,) if isinstance(traced, Trace) else traced.traces:
        roster = trace.roster()
        present |= roster.present.keys()
        forgotten |= roster.forgotten
    return present, forgotten


def _tag(traced: Trace | Shards, name: str) -> str:
    own = traced if isinstance(traced, Trace) else traced.traces[traced.plan.cell(traced.key, name)[0]]
    return name_tag(own.key, name)


def _examples(task: Task, part: str) -> Examples:
    rows = as_examples(getattr(task, part))
    if rows is None:
        raise TaskError(f"a replay needs task.{part} as Examples, with the ids of the traced training")
    return rows
