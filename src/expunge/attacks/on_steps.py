"""The parts of an audit for unlearners whose runs can be stacked: steps on a vector from any start, or a fresh training."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from expunge._progress import track
from expunge.attacks.arena import Arena, mechanism, retraining
from expunge.attacks.parts import How, Part, left_out
from expunge.attacks.shadow_models import membership
from expunge.attacks.worlds import two_worlds
from expunge.audit.beside_null_start import null_start
from expunge.data import Examples
from expunge.errors import ExpungeError, ModelRefused, TaskError
from expunge.recovery import FineTuning, Recipe, rescale_
from expunge.replicates import Rows, RunBatches, Stack, accuracy_runs, recover_runs, unlearn_runs
from expunge.training.task import Task, accuracy
from expunge.unlearners.capabilities import Fresh, StartsInBall, Steps
from expunge.unlearners.centre import null_start as at_the_centre
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.working import Run

__all__ = ["fresh_membership", "starts_part", "steps_membership", "steps_worlds"]

_SLOW, _SLOWEST = 16, 8  # runs from each start where none can be stacked; of models too large for shadow models


def steps_worlds(how: How) -> Part:
    """One weight from both ends of the ball."""
    steps, coins = cast("Steps", how.unlearner), torch.Generator().manual_seed(how.seed)
    try:
        found = two_worlds(
            steps.on_one_weight(how.mechanism), executor=steps.executor, replicates=how.effort.replicates,
            delta=how.delta, confidence=how.confidence, generator=coins,
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        return left_out(error)
    return list(found.findings), found.details


def starts_part(how: How) -> Part:
    """Accuracy on held-out data after recovery, from the trained model and from the centre, over many seeds.

    As one stack of runs where the model is made of plain weights; else by the unlearner, one run after the other and fewer.
    """
    if not isinstance(how.unlearner, StartsInBall):
        return left_out(f"'{how.unlearner.name}' has no start in a ball")
    try:
        trained, null = _stacked_starts(how)
        slow = {}
    except (ExpungeError, ValueError, TypeError) as why:
        try:
            trained, null = _single_starts(how)
        except (ExpungeError, ValueError, TypeError) as error:
            return left_out(error)
        slow = {"one by one": f"{len(trained)} runs from each start: {why}"}
    found = null_start(
        trained, null, delta=how.delta, generator=np.random.default_rng(how.seed), confidence=how.confidence,
        metric="held-out accuracy",
    )  # fmt: skip
    return found, {"trained": trained, "null": null, "unit": "share of right answers"} | slow


def _stacked_starts(how: How) -> tuple[list[float], list[float]]:
    steps = how.unlearner
    if not isinstance(steps, Steps):
        raise TypeError(f"the runs of '{steps.name}' cannot be stacked")
    tuning, (data, rows) = _fine_tuning(steps), _held(how.task)
    one, n = Stack.of([how.task.model]), how.effort.seeds
    stack = one.with_theta(torch.cat([one.theta.expand(n, -1), torch.zeros(n, one.theta.shape[1])]).contiguous())
    retain, recipe = rows["retain"].expand(2 * n, -1), tuning.recipe
    batches = RunBatches(data, retain, batch_size=steps.batch_size, seed=how.seed + 1)
    coins = torch.Generator().manual_seed(how.seed + 2)
    loss = cast("Any", how.task.loss)
    unlearn_runs(stack, batches, how.mechanism, loss=loss, generator=coins, executor=steps.executor)
    if tuning.rescale:
        stack = Stack.of([rescale_(stack.model(run)) for run in range(stack.runs)])
    recovery = RunBatches(data, retain, batch_size=recipe.batch_size, seed=how.seed + 6)
    recover_runs(
        stack, recovery, loss=loss, steps=tuning.total(recovery.per_epoch), optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
    )  # fmt: skip
    found = accuracy_runs(stack, [data.batch(rows["held_out"])]).tolist()
    return found[:n], found[n:]


def _single_starts(how: How) -> tuple[list[float], list[float]]:
    task = how.task
    if task.held_out is None:
        raise TaskError("the task has no held_out, data that no training saw, to measure accuracy on")
    n = min(how.effort.seeds, _SLOW if how.effort.runs else _SLOWEST)
    centre = at_the_centre(task.model, public=task.public, buffers=cast("Any", task.buffers), center=task.center)
    starts = [(start, run) for run in range(n) for start in (task.model, centre)]
    found: list[float] = []
    for start, run in track(iter(starts), total=len(starts), label="null start"):
        seed = 1000 * how.seed + 10 * run + (start is centre)
        found.append(accuracy(_released(how, start, seed), task.held_out, task.accuracy))
    return found[::2], found[1::2]


def _released(how: How, start: nn.Module, seed: int) -> nn.Module:
    """What the unlearner makes of a start; of the trained model all that it does, a heuristic before its steps too."""
    starts = cast("StartsInBall", how.unlearner)
    own = how.unlearner if start is how.task.model else cast("Unlearner", starts.starting_from(start))
    return own.forget(how.task, how.budget, how.relation, Run(seed=seed)).model


def steps_membership(how: How) -> Part:
    """Many trainings, as a stack, then the steps and recovery."""
    steps = cast("Steps", how.unlearner)
    try:
        tuning = _fine_tuning(steps)
    except TypeError as error:
        return left_out(error)
    unlearner = mechanism(how.mechanism, rescale=tuning.rescale, executor=steps.executor, batch_size=steps.batch_size)
    return _membership(how, unlearner, tuning.recipe, steps.learns_for, tuning.epochs)


def _fine_tuning(steps: Steps) -> FineTuning:
    """The recovery, where runs of it can be stacked."""
    if type(steps.recovers) is not FineTuning:
        raise TypeError(f"runs of recovery '{steps.recovers.name}' cannot be stacked: fine-tuning alone can")
    if getattr(steps, "start", None) is not None:
        raise TypeError("runs with a heuristic before their steps cannot be stacked: they would start elsewhere")
    return steps.recovers


def fresh_membership(how: How) -> Part:
    """Many trainings, as a stack, and as many anew."""
    epochs, recipe = cast("Fresh", how.unlearner).fresh(how.task)
    return _membership(how, retraining(), recipe, epochs, epochs)


def _membership(how: How, unlearner: Any, recipe: Recipe, epochs: float, recovery_epochs: float) -> Part:
    if how.task.make_model is None:
        return left_out("the task has no make_model: shadow models cannot be trained")
    try:
        data, rows = _held(how.task)
        Stack.of([how.task.model])
        arena = Arena(
            data=data, retain=rows["retain"], candidates=rows["forget"], population=rows["held_out"],
            runs=how.effort.runs, make_model=how.task.make_model, loss=cast("Any", how.task.loss), recipe=recipe,
            epochs=epochs, recovery_epochs=recovery_epochs, seed=how.seed + 3,
        )  # fmt: skip
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    found = membership(arena, unlearner, delta=how.delta, confidence=how.confidence)
    return list(found.findings), found.details


def _held(task: Task) -> tuple[Rows, Mapping[str, Tensor]]:
    """The task's data in one set, and the rows of its parts.

    Raises:
        ValueError: it does not come as Examples(x, y) of floats and labels.
        ModelRefused: parts of the model are public, or the ball has a centre: a stack starts from zero.
    """
    if task.public or task.center is not None:
        raise ModelRefused(
            "a stack of runs covers all weights and a ball around zero; this task has public parts or a centre"
        )
    held: dict[str, Examples] = {}
    for name in ("retain", "forget", "held_out"):
        rows = getattr(task, name)
        if (
            not isinstance(rows, Examples)
            or rows.fields
            or len(rows.values) != 2
            or rows.values[0].dtype != torch.float32
        ):
            raise ValueError(f"task.{name} must be Examples(x, y), x float32, to be run many times at once")
        held[name] = rows
    x, y = (torch.cat([e.tensors[k] for e in held.values()]) for k in (0, 1))
    rows = dict(zip(held, torch.arange(len(y)).split([len(e) for e in held.values()]), strict=True))
    return Rows(x, y), rows
