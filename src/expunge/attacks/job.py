"""The audit of a task: every attack that applies to it, in parts that an interruption does not lose."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.accounting import Mechanism, Retrain
from expunge.attacks.arena import Arena, mechanism, retraining
from expunge.attacks.lanes import LANES, lane_canaries, lane_membership, lane_worlds
from expunge.attacks.membership import membership
from expunge.attacks.one_training import canaries, losses
from expunge.attacks.parts import Effort, How, Kept, Part, left_out
from expunge.attacks.worlds import two_worlds
from expunge.audit.finding import Finding
from expunge.audit.null_start import null_start
from expunge.audit.report import Audit
from expunge.data import Examples, as_examples
from expunge.errors import ExpungeError, ModelRefused
from expunge.methods import EXECUTORS
from expunge.pipeline import recover, retrain, unlearn
from expunge.recovery import Recipe, rescale_
from expunge.replicates import Pictures, RunBatches, Stack, accuracy_runs, recover_runs, unlearn_runs
from expunge.task import Task

__all__ = ["Effort", "audit_task"]


def audit_task(
    task: Task,
    attacked: Mechanism,
    *,
    certificate: str | None = None,
    delta: float = 1e-5,
    confidence: float = 0.95,
    recipe: Recipe,
    recovery_epochs: int,
    training_epochs: int,
    rescale: bool = True,
    effort: Effort | None = None,
    seed: int = 0,
    state: Path | None = None,
) -> Audit:
    """Attack a mechanism on a task: in two worlds, from the null start, by membership, and by canaries of one training.

    A part that does not apply to the task is left out, and the audit says why.

    Args:
        task: trained model and data; `make_model` for the membership attacks and for a replay, `features` for heads.
        attacked: the mechanism of the certificate.
        certificate: its content digest.
        delta: δ at which ε is bounded.
        confidence: of each part.
        recipe: of recovery; and of training, for the membership attacks.
        recovery_epochs: after unlearning.
        training_epochs: for the membership attacks.
        rescale: whether recovery first rescales the layers.
        effort: by default `Effort()`.
        seed: of everything.
        state: a file that keeps finished parts; a call with the same settings goes on from it. Deleted at the end.

    Raises:
        StateError: the state file is damaged or belongs to another audit.
    """
    _validate.whole(recovery_epochs=recovery_epochs, training_epochs=training_epochs)
    spend = effort or Effort()
    settings = [repr(attacked), certificate, delta, confidence, repr(recipe), recovery_epochs, training_epochs]
    kept = Kept(state, repr([*settings, rescale, spend, seed]))
    how = How(task, attacked, delta, confidence, recipe, recovery_epochs, training_epochs, rescale, spend, seed)
    parts: dict[str, Callable[[How], Part]] = {
        "two worlds": _worlds,
        "null start": _null_start,
        "membership": _membership,
        "canaries": _canaries,
    }
    findings: list[Finding] = []
    details: dict[str, Any] = {"effort": asdict(spend), "seed": seed}
    for name, run in parts.items():
        found = kept.get(name)
        if found is None:
            found = run(how)
            kept.put(name, found)
        findings += found[0]
        details[name] = found[1]
    kept.remove()
    return Audit(certificate=certificate, findings=tuple(findings), details=details)


def _worlds(how: How) -> Part:
    if isinstance(how.mechanism, Retrain):
        return left_out("retraining is exact: no output depends on the start")
    if isinstance(how.mechanism, LANES):
        return lane_worlds(how)
    coins = torch.Generator().manual_seed(how.seed)
    try:
        found = two_worlds(
            how.mechanism, replicates=how.effort.replicates, delta=how.delta, confidence=how.confidence, generator=coins
        )
    except TypeError as error:
        return left_out(error)
    return list(found.findings), found.details


def _null_start(how: How) -> Part:
    """Accuracy on held-out data after recovery, from the trained model and from zero, as one stack of runs."""
    if type(how.mechanism) not in EXECUTORS:
        return left_out(f"'{how.mechanism.name}' has no start in a ball")
    try:
        pictures, rows = _held(how.task)
        one = Stack.of([how.task.model])
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    n = how.effort.seeds
    stack = one.with_theta(torch.cat([one.theta.expand(n, -1), torch.zeros(n, one.theta.shape[1])]).contiguous())
    retain = rows["retain"].expand(2 * n, -1)
    batches = RunBatches(pictures, retain, batch_size=how.recipe.batch_size, seed=how.seed + 1)
    coins = torch.Generator().manual_seed(how.seed + 2)
    unlearn_runs(stack, batches, how.mechanism, loss=cast("Any", how.task.loss), generator=coins)
    if how.rescale:
        stack = Stack.of([rescale_(stack.model(run)) for run in range(stack.runs)])
    recover_runs(
        stack, batches, loss=cast("Any", how.task.loss), steps=how.recovery_epochs * batches.per_epoch,
        optimizer=how.recipe.optimizer, learning_rate=how.recipe.learning_rate, momentum=how.recipe.momentum,
        weight_decay=how.recipe.weight_decay,
    )  # fmt: skip
    accuracy = accuracy_runs(stack, [pictures.batch(rows["held_out"])]).tolist()
    rng = np.random.default_rng(how.seed)
    found = null_start(
        accuracy[:n],
        accuracy[n:],
        delta=how.delta,
        generator=rng,
        confidence=how.confidence,
        metric="held-out accuracy",
    )
    return found, {"trained": accuracy[:n], "null": accuracy[n:], "unit": "share of right answers"}


def _membership(how: How) -> Part:
    if how.effort.runs == 0:
        return left_out("no shadow models were asked for")
    if isinstance(how.mechanism, LANES):
        return lane_membership(how)
    if not _can_be_run(how.mechanism):
        return left_out(f"'{how.mechanism.name}' does not start from trained models and their retained data")
    if how.task.make_model is None:
        return left_out("the task has no make_model: shadow models cannot be trained")
    try:
        pictures, rows = _held(how.task)
        Stack.of([how.task.model])
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    arena = Arena(
        pictures=pictures, retain=rows["retain"], candidates=rows["forget"], population=rows["held_out"],
        runs=how.effort.runs, make_model=how.task.make_model, loss=cast("Any", how.task.loss), recipe=how.recipe,
        epochs=how.training_epochs, recovery_epochs=how.recovery_epochs, seed=how.seed + 3,
    )  # fmt: skip
    unlearner = retraining() if isinstance(how.mechanism, Retrain) else mechanism(how.mechanism, rescale=how.rescale)
    found = membership(arena, unlearner, delta=how.delta, confidence=how.confidence)
    return list(found.findings), found.details


def _canaries(how: How) -> Part:
    """One training with the verbs that a user has, so for any model and data that they take."""
    if isinstance(how.mechanism, LANES):
        return lane_canaries(how)
    task, make_model = how.task, how.task.make_model
    if not _can_be_run(how.mechanism):
        return left_out(f"'{how.mechanism.name}' does not start from a trained model and its retained data")
    if make_model is None:
        return left_out("the task has no make_model: no model can be trained with half of the forget set")
    if task.center is not None:
        return left_out("the ball has a centre: a fresh training would need one of its own")
    retain, forget = as_examples(task.retain), as_examples(task.forget)
    if retain is None or forget is None or len(forget) < 20:
        return left_out("it needs task.retain and task.forget as Examples, at least 20 to forget")
    coins = torch.Generator().manual_seed(how.seed + 4)

    def learn(own: Examples | None) -> nn.Module:
        rows = (
            retain if own is None else Examples(*(torch.cat(t) for t in zip(retain.tensors, own.tensors, strict=True)))
        )
        return retrain(
            make_model, rows, loss=task.loss, epochs=how.training_epochs, recipe=how.recipe, generator=coins
        ).model

    def release(model: nn.Module, _own: Examples | None) -> nn.Module:
        if isinstance(how.mechanism, Retrain):
            return learn(None)
        noise = torch.Generator(next(model.parameters()).device).manual_seed(how.seed + 5)
        done = unlearn(
            model, retain, how.mechanism, loss=task.loss, batch_size=how.recipe.batch_size, public=task.public,
            buffers=cast("Any", task.buffers), generator=noise,
        )  # fmt: skip
        return recover(
            done.model, retain, loss=task.loss, epochs=how.recovery_epochs, recipe=how.recipe, rescale=how.rescale,
            public=task.public, generator=coins,
        )  # fmt: skip

    score = partial(losses, loss=task.loss)
    try:
        found = canaries(
            learn, release, forget, score=score, delta=how.delta, confidence=how.confidence, generator=coins
        )
    except ModelRefused as error:
        return left_out(error)
    return list(found.findings), found.details


def _can_be_run(mechanism: Mechanism) -> bool:
    return isinstance(mechanism, Retrain) or type(mechanism) in EXECUTORS


def _held(task: Task) -> tuple[Pictures, dict[str, Tensor]]:
    """The task's data in one set, and the rows of its parts.

    Raises:
        ValueError: it does not come as Examples(x, y) of floats and labels, or the task needs more than plain weights.
        ModelRefused: parts of the model are public, or the ball has a centre: a stack starts from zero.
    """
    if task.public or task.center is not None:
        raise ModelRefused(
            "a stack of runs covers all weights and a ball around zero; this task has public parts or a centre"
        )
    parts = {name: as_examples(getattr(task, name)) for name in ("retain", "forget", "held_out")}
    for name, examples in parts.items():
        if examples is None or len(examples.tensors) != 2 or examples.tensors[0].dtype != torch.float32:
            raise ValueError(f"task.{name} must be Examples(x, y), x float32, to be run many times at once")
    held = cast("dict[str, Examples]", parts)
    x, y = (torch.cat([e.tensors[k] for e in held.values()]) for k in (0, 1))
    rows = dict(zip(held, torch.arange(len(y)).split([len(e) for e in held.values()]), strict=True))
    return Pictures(x, y), rows
