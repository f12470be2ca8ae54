"""Whole jobs that write a folder: one task, or the demo. A folder appears when it is complete, or not at all."""

import contextlib
import json
import shutil
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from expunge._files import write_new
from expunge.accounting import Budget, Mechanism, Relation, Retrain
from expunge.attacks import Effort, audit_task
from expunge.audit import Audit, Finding
from expunge.certificate import Certificate, issue, verify
from expunge.compare import accuracy, compare, featured, outputs
from expunge.data import Examples, as_examples, commit, new_commitment_key
from expunge.demo import RECIPE, digits, mechanisms
from expunge.errors import OutputError, StateError, TaskError
from expunge.heads import AnalyticHead
from expunge.methods.weights import save_weights
from expunge.pipeline import Unlearned, recover, retrain, unlearn
from expunge.recovery import Recipe
from expunge.report import render
from expunge.report.curves import Comparison
from expunge.report.page import control, table
from expunge.task import Task, load_task

__all__ = ["run_audit", "run_demo", "run_head", "run_task"]


def run_task(
    where: str,
    out: Path,
    mechanism: Mechanism,
    budget: Budget,
    *,
    relation: Relation,
    epochs: float,
    recipe: Recipe,
    rescale: bool,
    resume: bool,
) -> dict[str, Any]:
    """Take one task through to a verified certificate; returns a summary.

    Work is done in `<out>.partial`, readable by its owner alone, which becomes `out` at the end. After an interruption
    its state file stays, and the same call with `resume` goes on from it.

    Raises:
        OutputError: `out` exists, or `<out>.partial` does and `resume` is not set.
    """
    with _folder(out, resume=resume) as work:
        task = load_task(where)
        done = _certified(task, mechanism, epochs=epochs, recipe=recipe, state=work / "run.state")
        released = done.model
        if not isinstance(mechanism, Retrain):
            released = recover(done.model, task.retain, loss=task.loss, epochs=epochs, recipe=recipe, rescale=rescale)
        key = new_commitment_key(work / "commitment.key")
        forget = as_examples(task.forget)
        commitments = {} if forget is None else {"forget": commit(forget.ids, key=key)}
        save_weights(done.model, work / "certified.safetensors")
        certificate = _write(work, done, released, budget, relation, commitments)
    measured = {
        name: {part: accuracy(model, getattr(task, part), task.accuracy) for part in ("held_out", "forget")}
        for name, model in {"original": task.model, "released": released}.items()
    }
    claim = certificate.claim
    return {
        "folder": str(out),
        "epsilon": claim.epsilon,
        "delta": claim.delta,
        "mu": claim.mu,
        "relation": str(claim.relation),
        "kind": str(claim.kind),
        "start_clipped": done.start_clipped,
        "accuracy": measured,
    }


def run_head(where: str, out: Path, budget: Budget, *, ridge: float, previous: Path | None) -> dict[str, Any]:
    """Forget with an exact head on the task's feature map; returns a summary.

    The folder keeps the head's state and its key, both secret, for the next request. Without a previous folder the head
    learns the retained data; with one, its state forgets the forget set, and no retained data are read. The previous
    folder then still holds the forgotten rows' sums: delete it.

    Args:
        where: as in `run_task`; the task names `features` and their `provenance`.
        out: the folder to make.
        budget: what the certificate is to meet.
        ridge: of a new head.
        previous: the folder of an earlier call.

    Raises:
        TaskError: the task names no feature map, or its data are not rows with labels.
        StateError, ValueError: see `AnalyticHead`; nothing is left behind.
    """
    with _folder(out, resume=False) as work:
        task = load_task(where)
        if task.features is None:
            raise TaskError("an exact head needs task.features, a map from rows to features, and task.provenance")
        forget = _labelled(task, "forget")
        if previous is None:
            rows = _labelled(task, "retain")
            head = AnalyticHead(ridge=ridge, classes=outputs(task, rows), provenance=task.provenance)
            head.learn(featured(task, rows), rows.tensors[1], ids=rows.ids)
        else:
            head = _previous_head(previous)
            head.forget(featured(task, forget), forget.tensors[1], ids=forget.ids)
        done = head.unlearned()
        commitments = {"forget": commit(forget.ids, key=new_commitment_key(work / "commitment.key"))}
        certificate = _write(work, done, done.model, budget, Relation.RETRAINED, commitments)
        head.save(work / "head.state")
        write_new(work / "head.key", head.key.hex().encode() + b"\n", private=True)
    right = {
        part: float((head.predict(featured(task, rows)) == rows.tensors[1]).double().mean())
        for part, rows in ((part, _labelled(task, part)) for part in ("held_out", "forget"))
    }
    original = {part: accuracy(task.model, getattr(task, part), task.accuracy) for part in right}
    claim = certificate.claim
    return {
        "folder": str(out), "epsilon": claim.epsilon, "delta": claim.delta, "mu": claim.mu, "kind": str(claim.kind),
        "relation": str(claim.relation), "rows": len(head), "delete": None if previous is None else str(previous),
        "accuracy": {"original": original, "released": right},
    }  # fmt: skip


def _previous_head(folder: Path) -> AnalyticHead:
    try:
        key = bytes.fromhex((folder / "head.key").read_text(encoding="utf-8").strip())
    except (OSError, ValueError) as error:
        raise StateError(f"{folder} holds no key of a head (head.key): {error}") from error
    return AnalyticHead.load(folder / "head.state", key=key)


def _labelled(task: Task, part: str) -> Examples:
    rows = as_examples(getattr(task, part))
    if rows is None or len(rows.tensors) != 2 or rows.tensors[1].dim() != 1 or rows.tensors[1].is_floating_point():
        raise TaskError(f"an exact head needs task.{part} as Examples(x, y) with a label for each row")
    return rows


def run_audit(
    where: str,
    certificate: Path,
    out: Path,
    *,
    recipe: Recipe,
    recovery_epochs: int,
    training_epochs: int,
    rescale: bool,
    confidence: float,
    quick: bool,
    shadows: bool,
    seed: int,
) -> tuple[Audit, list[Finding]]:
    """Attack the mechanism of a certificate on a task, and write the audit; returns it with the findings that refute.

    Finished parts are kept in `<out>.partial` until all are: the same call goes on from there.

    Raises:
        OutputError: `out` exists.
        CertificateError: the certificate does not verify.
    """
    if out.exists():
        raise OutputError(f"{out} exists already and is not overwritten; choose another name or remove it")
    loaded = Certificate.load(certificate)
    verify(loaded)
    task, claim = load_task(where), loaded.claim
    effort = Effort.quick() if quick else Effort()
    done = audit_task(
        task, loaded.mechanism, certificate=loaded.content["digest"], delta=claim.delta or 1e-5, confidence=confidence,
        recipe=recipe, recovery_epochs=recovery_epochs, training_epochs=training_epochs, rescale=rescale,
        effort=effort if shadows else replace(effort, runs=0), seed=seed, state=out.with_name(out.name + ".partial"),
    )  # fmt: skip
    done.save(out)
    return done, done.refuting(claim)


def run_demo(
    out: Path, budget: Budget, *, seeds: int, epochs: int
) -> tuple[Comparison, list[dict[str, Any]], dict[str, Any]]:
    """Every method on scikit-learn's digits, several seeds each; certificates of the first seed, weights, report."""
    with _folder(out, resume=False) as work:
        chosen = mechanisms(budget)
        comparison = compare(
            digits, chosen, delta=budget.delta, epsilon=budget.epsilon, seeds=seeds, epochs=epochs, recipe=RECIPE,
            rescale=True, title=f"Forgetting a tenth of digits at ({budget.epsilon:g}, {budget.delta:g})", ridge=1.0,
        )  # fmt: skip
        task = digits(0)
        pages: dict[str, Certificate] = {}
        for name, mechanism in cast("dict[str, Mechanism]", {**chosen, "retrain": Retrain()}).items():
            folder = work / name
            folder.mkdir()
            done = _certified(task, mechanism, epochs=epochs, recipe=RECIPE, state=None)
            released = done.model if name == "retrain" else recover(
                done.model, task.retain, loss=task.loss, epochs=epochs, recipe=RECIPE, rescale=True
            )  # fmt: skip
            pages[name] = _write(folder, done, released, budget, Relation.RETRAINED, {}, comparison)
        write_new(work / "comparison.json", (json.dumps(comparison.to_dict(), indent=1) + "\n").encode())
        write_new(work / "report.html", render(pages["gradient_clipping"], comparison).encode())
    return comparison, table(comparison), control(comparison)


def _certified(task: Task, mechanism: Mechanism, *, epochs: float, recipe: Recipe, state: Path | None) -> Unlearned:
    if not isinstance(mechanism, Retrain):
        return unlearn(
            task.model, task.retain, mechanism, loss=task.loss, batch_size=recipe.batch_size, public=task.public,
            buffers=cast("Any", task.buffers), center=task.center, state=state,
        )  # fmt: skip
    if task.make_model is None:
        raise TaskError("retraining needs task.make_model, a function that builds a fresh model")
    return retrain(task.make_model, task.retain, loss=task.loss, epochs=epochs, recipe=recipe, state=state)


def _write(
    folder: Path,
    done: Unlearned,
    released: Any,
    budget: Budget,
    relation: Relation,
    commitments: Mapping[str, str],
    comparison: Comparison | None = None,
) -> Certificate:
    """Weights, certificate and page; the certificate is verified against the file that was written."""
    weights = folder / "model.safetensors"
    save_weights(released, weights)
    certificate = issue(done.record, released=weights, asked=budget, relation=relation, commitments=commitments)
    verify(certificate, weights=weights)
    certificate.save(folder / "certificate.json")
    write_new(folder / "report.html", render(certificate, comparison).encode())
    return certificate


@contextlib.contextmanager
def _folder(out: Path, *, resume: bool) -> Generator[Path]:
    """A private folder to work in, which becomes `out` at the end; after a failure only a state file is left of it."""
    work = out.with_name(out.name + ".partial")
    if out.exists():
        raise OutputError(f"{out} exists already and is not overwritten; choose another folder or remove it")
    if work.exists() and not resume:
        raise OutputError(f"{work} is left from an interrupted run: go on with --resume, or remove it")
    try:
        work.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {work}: {error.strerror}") from error
    try:
        yield work
    except BaseException:
        _leave_state_only(work)
        raise
    try:
        work.replace(out)
    except OSError as error:
        raise OutputError(f"cannot rename {work} to {out}: {error.strerror}") from error


def _leave_state_only(work: Path) -> None:
    for leftover in work.iterdir():
        if leftover.is_dir():
            shutil.rmtree(leftover)
        elif leftover.suffix != ".state":
            leftover.unlink()
    if not any(work.iterdir()):
        work.rmdir()
