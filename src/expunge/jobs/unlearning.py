"""The verb `unlearn`: carry a request out with any unlearner, in memory or into a folder with a certificate."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, overload

from torch import nn

from expunge import _validate
from expunge._workers import refuse_workers
from expunge.accounting import Budget, Mechanism, Relation
from expunge.certificate import Certificate
from expunge.data import Request, commit, new_commitment_key
from expunge.errors import ModelRefused, RunError
from expunge.jobs.earlier import tell_of_earlier
from expunge.jobs.folder import Accuracies, conclude, working_folder, write
from expunge.jobs.planner import plan
from expunge.parallel import Workers, sharded, unwrapped
from expunge.training.task import Task, accuracies, load_task, measured
from expunge.training.unlearned import Unlearned
from expunge.training.weights import save_weights
from expunge.unlearners import on_model
from expunge.unlearners.certified import Executor
from expunge.unlearners.executors import EXECUTORS
from expunge.unlearners.foreign import Foreign
from expunge.unlearners.heuristics import Heuristic
from expunge.unlearners.options import NAMES
from expunge.unlearners.plain import Plain
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.table import made
from expunge.unlearners.working import Run, keys_in

__all__ = ["chosen", "released_accuracies", "run_unlearner", "unlearn"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)
Way = Unlearner | Mechanism | tuple[Mechanism, Executor] | Callable[[nn.Module, Any, Any], nn.Module | None] | str
"""A way to unlearn: an unlearner or its name, a finished mechanism, a mechanism with its executor, or a plain function."""


@overload
def unlearn(
    task: Task,
    request: Request | None = None,
    unlearner: Way | None = None,
    *,
    budget: Budget | None = None,
    relation: Relation = Relation.RETRAINED,
    seed: int | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> Unlearned: ...
@overload
def unlearn(model: nn.Module, retain: Any, mechanism: Mechanism, /, **how: Any) -> Unlearned: ...
def unlearn(task: Any, request: Any = None, unlearner: Any = None, **how: Any) -> Unlearned:
    """Remove what a request names from a trained model; returns the model that has unlearned, with its record.

    `unlearn(task, request, unlearner)` takes any unlearner; without one it runs what `plan` recommends. `done.save(folder)`
    then writes weights, certificate and report. `unlearn(model, retain, mechanism, loss=...)` runs a finished mechanism on a
    model, without recovery: see `expunge.unlearners.run`.

    Args:
        task: model, data and loss.
        request: what is to be forgotten; None where the task's own `forget` says it.
        unlearner: one of `expunge.unlearners` or anybody's own, or the name of one; a finished mechanism; or a pair
            (mechanism, executor) or a plain function `unlearn(model, retain, forget)`, of which no certificate can be issued;
            by default what `plan` recommends.
        how: `budget`, by default (1, 1e-5); `relation`, the reading to certify; `seed`, for experiments that are repeated,
            never for a release; `on_epoch`, called after every epoch of recovery.

    Raises:
        RunError: no unlearner is given, and `plan` recommends none.
        ExpungeError, TypeError, ValueError: what the unlearner refuses; the message names what to change.
    """
    if isinstance(task, nn.Module):
        return on_model.run(task, request, unlearner, **how)
    return _unlearn(task, request, unlearner, **how)


def _unlearn(
    task: Task,
    request: Request | None,
    unlearner: Way | None,
    *,
    budget: Budget | None = None,
    relation: Relation = Relation.RETRAINED,
    seed: int | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
) -> Unlearned:
    if not isinstance(task, Task):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"unlearn takes an expunge.Task, or a model and its retained data, not {type(task).__name__}")
    workers = Workers.here()
    task = replace(task, model=unwrapped(task.model, workers))
    asked, given, budget = task.parts(request), budget, budget or _BUDGET
    if unlearner is None:
        found = plan(asked, None, budget, relation=relation)
        if found.recommended is None:
            raise RunError(f"nothing is run: {found.reason}")
        unlearner = found.recommended
    way = chosen(unlearner)
    if given is not None and isinstance(way, Heuristic | Plain):
        raise ValueError(f"budget={given} would do nothing: no (ε, δ) is proven of '{way.name}'. Leave it out")
    if workers.several or sharded(task.model):
        _refuse_unshared(way, task, workers)
    begun, started = time.perf_counter(), datetime.now(UTC)
    done = way.forget(asked, budget, relation, Run(seed=seed, on_epoch=on_epoch))
    notes = {**done.notes, "unlearner": way.name, "seconds": time.perf_counter() - begun}
    saver = partial(_saved, asked, replace(done, notes=notes), budget, relation, started)
    if seed is not None and done.record.mechanism.noise_draws:
        saver = _refuse_seeded
    return replace(done, notes=notes, saver=saver)


def _refuse_unshared(way: Unlearner, task: Task, workers: Workers) -> None:
    """Raise `RunError` where several workers cannot share this; `ModelRefused` for parameters in shards, which no task copies."""
    if sharded(task.model):
        raise ModelRefused(
            "a task's model is copied, and one in shards (fully_shard) cannot be: call expunge.unlearners.run(model, retain, mechanism, "
            "copy=False), recover(..., copy=False) and issue, see docs/parallel.md"
        )
    started = getattr(way, "start", None) is not None
    if workers.several and (started or not getattr(way, "shares", False)):
        refuse_workers(f"unlearner '{way.name}'" + (" with a start" if started else ""))


def _refuse_seeded(_out: Path) -> Certificate:
    """Raise `RunError`: whoever knows the seed computes the noise, and takes it off again."""
    raise RunError(
        "the noise of this run follows from seed=, which is for experiments: run it again without a seed to release it"
    )


def chosen(way: Way) -> Unlearner:
    """The unlearner that is meant.

    Raises:
        TypeError: it is none.
        ValueError: no unlearner has this name.
    """
    if isinstance(way, str):
        return made(way, {})
    if isinstance(way, type):
        raise TypeError(f"{_validate.shown(way)} is a class: give an instance, {way.__name__}(...)")
    if isinstance(way, tuple):
        mechanism, steps = way
        return Foreign(of=mechanism, steps=steps)
    if type(way) in EXECUTORS:
        return Foreign(of=way, steps=EXECUTORS[type(way)])  # pyright: ignore[reportArgumentType]
    if isinstance(way, Unlearner):
        return way
    if callable(way):
        return Plain(way)
    raise TypeError(
        f"{_validate.shown(way)} is no unlearner: give one of expunge.unlearners or its name ({', '.join(NAMES)}), an object with learn, quote "
        "and forget, or a pair (mechanism, executor)"
    )


def run_unlearner(
    where: str,
    out: Path,
    unlearner: Unlearner,
    budget: Budget,
    *,
    request: Request | None = None,
    relation: Relation = Relation.RETRAINED,
    resume: bool = False,
) -> dict[str, Any]:
    """Take a task file through an unlearner to a verified certificate in a new folder; returns a summary.

    Work is done in `<out>.partial`, readable by its owner alone, which becomes `out` at the end. After an interruption its
    state files stay, and the same call with `resume` goes on from them. With a loader of batches, whose order and content
    are not known, nothing is kept.

    Args:
        where: see `load_task`.
        out: the folder to make.
        unlearner: how.
        budget: what the certificate is to meet.
        request: what is to be forgotten; None where the task's own `forget` says it.
        relation: the reading that noise is calibrated to and that is certified.
        resume: go on where an interrupted call stopped.

    Raises:
        OutputError: `out` exists, or `<out>.partial` does and `resume` is not set.
        ExpungeError, TypeError, ValueError: what the unlearner refuses.
    """
    refuse_workers("the command unlearn")
    started = datetime.now(UTC)
    with working_folder(out, resume=resume) as work:
        task = load_task(where) if request is None else load_task(where, request)
        original = accuracies(task, task.model)  # first: what cannot be measured is refused before hours of work
        begun = time.perf_counter()
        done = unlearner.forget(task, budget, relation, Run(folder=work))
        # Of a run that went on from an interrupted one only the last part was timed.
        seconds = {} if resume else {"seconds": time.perf_counter() - begun}
        notes = {**done.notes, "unlearner": unlearner.name, **seconds, "start_clipped": done.start_clipped}
        found = {"original": original, "released": released_accuracies(task, done)}
        _, told = _written(work, out, task, replace(done, notes=notes), budget, relation, found, started)
    return told


def _saved(
    task: Task, done: Unlearned, budget: Budget, relation: Relation, started: datetime, out: Path
) -> Certificate:
    def write_all() -> Certificate:
        with working_folder(out, resume=False) as work:
            if done.keeper is not None:
                done.keeper(work)
            return _written(work, out, task, done, budget, relation, {}, started)[0]

    return Workers.here().share(write_all)


def _written(
    work: Path, out: Path, task: Task, done: Unlearned, budget: Budget, relation: Relation, found: Accuracies, started: datetime
) -> tuple[Certificate, dict[str, Any]]:  # fmt: skip
    """What is published of a run; its state files go last, so that whatever fails before can go on from them."""
    commitments = {"forget": commit(task.forget, key=new_commitment_key(keys_in(work) / "commitment.key"))}
    if done.certified is not None:
        save_weights(done.certified, work / "certified.safetensors")
    certificate = write(work, done, done.model, budget, relation, commitments)
    tell_of_earlier(work, task.model, done.record)
    told = conclude(work, out, certificate, found, started=started, told=list(done.told), **done.notes)
    for state in work.glob("*.state"):
        state.unlink()
    return certificate, told


def released_accuracies(task: Task, done: Unlearned) -> dict[str, float]:
    """Accuracies of what is released, on the data that the task measures."""
    if done.features is None:
        return accuracies(task, done.model)
    return {part: _right(done, task, part) for part in measured(task)}


def _right(done: Unlearned, task: Task, part: str) -> float:
    """The share of right labels."""
    rows = getattr(task, part)
    return float((done.predict(rows).argmax(1).cpu() == rows.tensors[1].cpu()).double().mean())
