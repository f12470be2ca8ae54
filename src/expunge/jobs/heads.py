"""A head on a task's feature map: fitted on the retained rows, or brought from the last request to the next."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from expunge._files import write_new
from expunge._lock import held
from expunge.accounting import Budget, ExactRidge, MeasuredResidual, Relation
from expunge.data import Examples, Request, check_disjoint, commit, new_commitment_key
from expunge.errors import StateError, TaskError
from expunge.heads import AnalyticHead, ConvexHead
from expunge.heads.saved import CONVEX, kind_of
from expunge.jobs.folder import keys_in, secret_of, state_in, summary, working_folder, write
from expunge.jobs.options import Settings
from expunge.training.task import Task, accuracies, featured, labelled, load_task, outputs
from expunge.training.unlearned import Unlearned

__all__ = ["load_head", "run_head"]


def run_head(
    where: str, out: Path, lane: str, budget: Budget, settings: Settings, *, resume: bool = False
) -> dict[str, Any]:
    """Forget with a head on the task's feature map; returns a summary.

    `<out>.secret` keeps the head's state and its key, each in a folder of its own, for the next request. Without a previous
    folder the head learns the retained rows alone. With one, `exact_ridge` subtracts the forget set from its sums and reads
    no retained data; `measured_residual` goes on from its weights and reads the retained features. The previous state then
    still holds what the forgotten rows added: delete it.

    Args:
        where: as in `run_task`; the task names `features` and their `provenance`.
        out: the folder to make.
        lane: "exact_ridge" or "measured_residual".
        budget: what the certificate is to meet; the noise of a convex head is calibrated to it.
        settings: `ridge` and `grid`; or `loss`, `regularization` and `residual`; of a new head. `head` is the previous folder.
        resume: take a folder that a killed call left.

    Raises:
        TaskError: the task names no feature map or no provenance, or its data are not rows with labels.
        StateError, ValueError, RunError: see `AnalyticHead` and `ConvexHead`. Nothing is left behind then, and the
            previous folder is as it was.
    """
    with _previous(settings.head), working_folder(out, resume=resume) as work:
        task = load_task(where)
        _refuse_unproven(task, budget)
        forget, original = labelled(task, "forget"), accuracies(task, task.model)
        head, done = (_exact if lane == ExactRidge.name else _convex)(task, forget, budget, settings)
        commitments = {"forget": commit(forget, key=new_commitment_key(keys_in(work) / "commitment.key"))}
        certificate = write(work, done, done.model, budget, Relation.RETRAINED, commitments)
        head.save(state_in(work) / "head.state")
        write_new(keys_in(work) / "head.key", head.key.hex().encode() + b"\n", private=True)
    right = {part: _right(task, labelled(task, part), done.model) for part in ("held_out", "forget")}
    previous = None if settings.head is None else str(_files_of(settings.head)[0].parent)
    return summary(out, certificate, {"original": original, "released": right}, rows=len(head), delete=previous)


def _previous(folder: Path | None) -> AbstractContextManager[None]:
    """Hold the previous head: two requests at once would each lack what the other forgot."""
    if folder is None or not folder.is_dir() or not os.access(folder, os.W_OK):  # the last: nobody can lock it there
        return nullcontext()
    return held(folder, inside=True, error=StateError)


def load_head(folder: Path, *, noise: Budget | None = None) -> AnalyticHead | ConvexHead:
    """The head that a call of `run_head` left.

    Args:
        folder: of that call, `<folder>.secret` beside it; earlier versions kept all in one.
        noise: what the releases of a convex head are to meet from now on; by default as before.

    Raises:
        StateError: key or state is missing, or was altered.
    """
    state, kept = _files_of(folder)
    try:
        key = bytes.fromhex(kept.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise StateError(
            f"{folder} holds no key of a head: cannot read {kept}: {error.strerror}; give the folder that unlearn made for a head"
        ) from error
    except ValueError as error:
        raise StateError(f"{folder} holds no key of a head: {kept} is not in hexadecimal digits") from error
    if len(key) < 32:
        raise StateError(f"{kept} holds {len(key)} bytes, not a whole key of 32")
    if kind_of(state) == CONVEX:
        return ConvexHead.load(state, key=key, noise_std=noise)
    return AnalyticHead.load(state, key=key)


def _files_of(folder: Path) -> tuple[Path, Path]:
    """State and key of a head, whether they are there or not."""
    secret = secret_of(folder)
    if not secret.is_dir() and (folder / "head.state").exists():  # of an earlier version
        return folder / "head.state", folder / "head.key"
    return secret / "state" / "head.state", secret / "keys" / "head.key"


def _exact(task: Task, forget: Examples, budget: Budget, settings: Settings) -> tuple[AnalyticHead, Unlearned]:  # noqa: ARG001
    if settings.head is None:
        rows = labelled(task, "retain")
        coverage = check_disjoint(rows, forget)
        head = AnalyticHead(
            ridge=settings.ridge, classes=outputs(task, rows), provenance=task.provenance, grid=settings.grid
        )
        head.learn(featured(task, rows), rows.tensors[1], ids=rows.ids)
        return head, _covered(head.unlearned(), coverage)
    head = load_head(settings.head)
    if not isinstance(head, AnalyticHead):
        raise StateError(f"{settings.head} holds a convex head: go on with --mechanism {MeasuredResidual.name}")
    if head.grid is None:
        raise StateError(
            f"{settings.head} holds sums in floating point, of an earlier version, from which nothing exact follows: fit a new "
            "head without --head"
        )
    _refuse_other(settings, {"ridge": head.ridge, "grid": float(head.grid.max())}, head.provenance, task)
    head.forget(featured(task, forget), forget.tensors[1], ids=forget.ids)
    return head, head.unlearned()


def _convex(task: Task, forget: Examples, budget: Budget, settings: Settings) -> tuple[ConvexHead, Unlearned]:
    previous = None if settings.head is None else load_head(settings.head, noise=budget)
    if isinstance(previous, AnalyticHead):
        raise StateError(f"{settings.head} holds an exact head: go on with --mechanism {ExactRidge.name}")
    retain = labelled(task, "retain")
    if previous is not None:
        held = {name: previous.settings[name] for name in ("loss", "regularization", "residual")}
        _refuse_other(settings, held, previous.settings["provenance"], task)
    head = previous or ConvexHead(
        loss=cast("Any", settings.loss), regularization=settings.regularization, residual=settings.residual,
        classes=outputs(task, retain), noise_std=budget, provenance=task.provenance,
    )  # fmt: skip
    coverage = check_disjoint(retain, forget) if previous is None else ""
    rows = Examples(featured(task, retain), retain.tensors[1], ids=retain.ids)
    if previous is None:
        return head, _covered(head.fit(rows), coverage)
    return head, head.unlearn(rows, Request.rows(forget.ids))


def _covered(done: Unlearned, coverage: str) -> Unlearned:
    """With what was checked of the task's rows, of which a new head has seen the retained ones alone."""
    return replace(done, record=replace(done.record, coverage=coverage))


def _refuse_other(settings: Settings, held: Mapping[str, Any], provenance: str, task: Task) -> None:
    """Raise `ValueError` where a setting is asked for that the previous head was not made with."""
    default = {f.name: f.default for f in fields(settings)}
    for name, value in held.items():
        asked = getattr(settings, name)
        if asked not in (default[name], value):
            raise ValueError(
                f"{name}={asked!r} is not that of the head in {settings.head}, {value!r}, which cannot change: leave it "
                "out, or fit a new head without --head"
            )
    if task.provenance != provenance:
        raise ValueError(
            f"task.provenance is {task.provenance!r}, the head in {settings.head} was fitted with {provenance!r}: a head "
            "belongs to one feature map"
        )


def _refuse_unproven(task: Task, budget: Budget) -> None:
    if task.features is None:
        raise TaskError("a head needs task.features, a map from rows to features, and task.provenance")
    if not task.provenance:
        raise TaskError(
            f"nothing is proven, epsilon={budget.epsilon:g} was asked: task.provenance is '', so that the feature map may "
            "depend on the forgotten data; say in a line why it does not, or use the head from Python"
        )


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def _right(task: Task, rows: Examples, model: nn.Module) -> float:
    """The share of right labels."""
    return float((model(featured(task, rows).double()).argmax(1).cpu() == rows.tensors[1].cpu()).double().mean())
