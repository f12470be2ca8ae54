"""A task's network, by a noisy mechanism and recovery, or by retraining."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from expunge import _validate
from expunge.accounting import Budget, Mechanism, Relation, Retrain
from expunge.data import Batches, as_examples, check_disjoint, commit, new_commitment_key
from expunge.errors import TaskError
from expunge.jobs.folder import keys_in, summary, working_folder, write
from expunge.randomness.generators import secret_generator
from expunge.record import RunRecord, mechanism_to_dict
from expunge.recovery import Recipe
from expunge.recovery.fine_tuning import recover
from expunge.training.interruption import state_file
from expunge.training.randomness import build
from expunge.training.state import StateFile
from expunge.training.task import Task, accuracies, load_task
from expunge.training.tensors import named_parameters
from expunge.training.unlearned import Unlearned
from expunge.training.weights import public_names, save_weights
from expunge.unlearners.retrain import retrain
from expunge.unlearners.run import unlearn

__all__ = ["certified", "run_task", "with_recovery"]

_KEPT = "certified.state"


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
    its state files stay, and the same call with `resume` goes on from them: in the midst of unlearning, recovery or
    retraining. With a loader of batches, whose order and content are not known, nothing is kept.

    Raises:
        OutputError: `out` exists, or `<out>.partial` does and `resume` is not set.
    """
    with working_folder(out, resume=resume) as work:
        task = load_task(where)
        original = accuracies(task, task.model)  # first: what cannot be measured is refused before hours of work
        done, released = _run(task, mechanism, work, epochs=epochs, recipe=recipe, rescale=rescale)
        key = new_commitment_key(keys_in(work) / "commitment.key")
        commitments = {"forget": commit(task.forget, key=key)}
        save_weights(done.model, work / "certified.safetensors")
        certificate = write(work, done, released, budget, relation, commitments)
        (work / _KEPT).unlink(
            missing_ok=True
        )  # last: whatever fails before, a disk that is full too, can go on from it
    measured = {"original": original, "released": accuracies(task, released)}
    return summary(out, certificate, measured, start_clipped=done.start_clipped)


def _run(
    task: Task, mechanism: Mechanism, work: Path, *, epochs: float, recipe: Recipe, rescale: bool
) -> tuple[Unlearned, nn.Module]:
    """The certified and the released model; what an interrupted call finished is taken from its state files."""
    _refuse_unfit(task, mechanism, epochs=epochs, recipe=recipe)
    goes_on = as_examples(task.retain) is not None
    running, kept_in, recovering = (work / name if goes_on else None for name in ("run.state", _KEPT, "recovery.state"))
    if isinstance(mechanism, Retrain):
        done = certified(task, mechanism, epochs=epochs, recipe=recipe, state=running)
        return done, done.model
    settings = {
        "mechanism": mechanism_to_dict(mechanism), "batch": recipe.batch_size, "public": list(task.public),
        "buffers": task.buffers,
    }  # fmt: skip
    code = {"loss": task.loss, "center": task.center}
    kept = state_file(kept_in, "certified", task.model, task.retain, settings, code=code)
    done = _finished(kept, task.model)
    if done is None:
        done = certified(task, mechanism, epochs=epochs, recipe=recipe, state=running)
        _keep(kept, done)
    else:  # the forget set may be another one by now
        done = replace(done, record=replace(done.record, coverage=check_disjoint(task.retain, task.forget)))
    released = recover(
        done.model, task.retain, loss=task.loss, epochs=epochs, recipe=recipe, rescale=rescale, public=task.public,
        state=recovering,
    )  # fmt: skip
    return with_recovery(done, epochs=epochs, recipe=recipe, rescale=rescale), released


def with_recovery(done: Unlearned, *, epochs: float, recipe: Recipe, rescale: bool) -> Unlearned:
    """The same run, its record telling how it was recovered, so that an audit need not be told."""
    recovery = {"epochs": epochs, "rescale": rescale, "recipe": recipe.to_dict()}
    return replace(done, record=replace(done.record, procedure={**done.record.procedure, "recovery": recovery}))


def _refuse_unfit(task: Task, mechanism: Mechanism, *, epochs: float, recipe: Recipe) -> None:
    """What would otherwise be found after the mechanism has run."""
    _validate.positive(epochs=epochs)
    Batches(task.retain, batch_size=recipe.batch_size, seed=0).per_epoch  # noqa: B018  raises where there is no length
    if isinstance(mechanism, Retrain):
        _refuse_trained(task)


def _refuse_trained(task: Task) -> None:
    """Raise `TaskError` where the model that a retraining would start from holds the trained weights."""
    if task.make_model is None:
        raise TaskError("retraining needs task.make_model, a function that builds a fresh model")
    trained = dict(named_parameters(task.model))
    public = public_names(task.model, task.public)
    for name, fresh in named_parameters(build(task.make_model, secret_generator())):
        same = trained.get(name)
        # Of one value, as a bias that starts at zero, tells nothing.
        telling = fresh.requires_grad and name not in public and bool((fresh != fresh.reshape(-1)[:1]).any())
        if telling and same is not None and torch.equal(fresh.detach().cpu(), same.detach().cpu().to(fresh.dtype)):
            raise TaskError(
                f"task.make_model builds '{name}' with the values that task.model has: a retraining starts from weights that "
                "ignore the forgotten data. Build new ones; what no such data touched is named in task.public"
            )


def _keep(kept: StateFile | None, done: Unlearned) -> None:
    if kept is not None:
        record = json.dumps(done.record.to_dict())
        kept.save({"weights": done.model.state_dict(), "record": record, "start_clipped": done.start_clipped})


def _finished(kept: StateFile | None, model: nn.Module) -> Unlearned | None:
    """What the mechanism made before recovery was interrupted."""
    saved = kept.load() if kept is not None else None
    if saved is None:
        return None
    work = copy.deepcopy(model)
    work.load_state_dict(saved["weights"])
    return Unlearned(work, RunRecord.from_dict(json.loads(saved["record"])), saved["start_clipped"])


def certified(task: Task, mechanism: Mechanism, *, epochs: float, recipe: Recipe, state: Path | None) -> Unlearned:
    """What the certificate speaks of, before recovery."""
    if not isinstance(mechanism, Retrain):
        return unlearn(
            task.model, task.retain, mechanism, loss=task.loss, forget=task.forget, batch_size=recipe.batch_size, public=task.public,
            buffers=cast("Any", task.buffers), center=task.center, state=state,
        )  # fmt: skip
    if task.make_model is None:
        raise TaskError("retraining needs task.make_model, a function that builds a fresh model")
    return retrain(
        task.make_model, task.retain, loss=task.loss, forget=task.forget, epochs=epochs, recipe=recipe, state=state
    )  # fmt: skip
