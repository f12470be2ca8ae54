"""The parts of an audit for a network that a mechanism starts from, or that is retrained."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from expunge._progress import track
from expunge.accounting import Mechanism, Retrain
from expunge.attacks.arena import Arena, mechanism, retraining
from expunge.attacks.candidates import candidates_of, enough, named
from expunge.attacks.membership import membership
from expunge.attacks.one_training import canaries, losses
from expunge.attacks.parts import How, Part, left_out
from expunge.attacks.worlds import two_worlds
from expunge.audit.null_start import null_start
from expunge.data import Examples
from expunge.data.joins import joined
from expunge.errors import ExpungeError, ModelRefused, TaskError
from expunge.recovery import rescale_
from expunge.recovery.fine_tuning import recover
from expunge.replicates import Pictures, RunBatches, Stack, accuracy_runs, recover_runs, unlearn_runs
from expunge.training.task import Task, accuracy
from expunge.training.tensors import named_buffers, named_parameters
from expunge.training.weights import public_names
from expunge.unlearners.executors import EXECUTORS
from expunge.unlearners.null_start import null_start as at_the_centre
from expunge.unlearners.retrain import retrain
from expunge.unlearners.run import unlearn

__all__ = ["network_canaries", "network_membership", "network_null_start", "network_worlds"]

_SLOW, _SLOWEST = 16, 8  # runs from each start where none can be stacked; of models too large for shadow models


def network_worlds(how: How) -> Part:
    """One weight from both ends of the ball."""
    if isinstance(how.mechanism, Retrain):
        return left_out("retraining is exact: no output depends on the start")
    coins = torch.Generator().manual_seed(how.seed)
    try:
        found = two_worlds(
            how.mechanism, replicates=how.effort.replicates, delta=how.delta, confidence=how.confidence, generator=coins
        )
    except TypeError as error:
        return left_out(error)
    return list(found.findings), found.details


def network_null_start(how: How) -> Part:
    """Accuracy on held-out data after recovery, from the trained model and from the centre, over many seeds.

    As one stack of runs where the model is made of plain weights; else with the verbs, one run after the other and fewer.
    """
    if type(how.mechanism) not in EXECUTORS:
        return left_out(f"'{how.mechanism.name}' has no start in a ball")
    try:
        pictures, rows = _held(how.task)
        trained, null = _stacked_starts(how, pictures, rows)
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


def _stacked_starts(how: How, pictures: Pictures, rows: Mapping[str, Tensor]) -> tuple[list[float], list[float]]:
    one, n = Stack.of([how.task.model]), how.effort.seeds
    stack = one.with_theta(torch.cat([one.theta.expand(n, -1), torch.zeros(n, one.theta.shape[1])]).contiguous())
    batches = RunBatches(
        pictures, rows["retain"].expand(2 * n, -1), batch_size=how.batches, seed=how.seed + 1
    )  # fmt: skip
    coins = torch.Generator().manual_seed(how.seed + 2)
    unlearn_runs(stack, batches, how.mechanism, loss=cast("Any", how.task.loss), generator=coins)
    if how.rescale:
        stack = Stack.of([rescale_(stack.model(run)) for run in range(stack.runs)])
    recovery = RunBatches(
        pictures, rows["retain"].expand(2 * n, -1), batch_size=how.recipe.batch_size, seed=how.seed + 6
    )  # fmt: skip
    recover_runs(
        stack, recovery, loss=cast("Any", how.task.loss), steps=max(1, round(how.recovery_epochs * recovery.per_epoch)),
        optimizer=how.recipe.optimizer, learning_rate=how.recipe.learning_rate, momentum=how.recipe.momentum,
        weight_decay=how.recipe.weight_decay, max_grad_norm=how.recipe.max_grad_norm,
    )  # fmt: skip
    found = accuracy_runs(stack, [pictures.batch(rows["held_out"])]).tolist()
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
        released = _released(how, start, seed=1000 * how.seed + 10 * run + (start is centre))
        found.append(accuracy(released, task.held_out, task.accuracy))
    return found[::2], found[1::2]


def network_membership(how: How) -> Part:
    """Many trainings, as a stack."""
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


def network_canaries(how: How) -> Part:
    """One training with the verbs that a user has, so for any model and data that they take.

    Public parts are those of the task's model and are not trained; where the ball has a centre, training starts there.
    """
    task = how.task
    if not _can_be_run(how.mechanism):
        return left_out(f"'{how.mechanism.name}' does not start from a trained model and its retained data")
    if task.make_model is None:
        return left_out("the task has no make_model: no model can be trained with half of the candidates")
    coins = torch.Generator().manual_seed(how.seed + 4)

    def learn(own: Examples | None) -> nn.Module:
        rows = joined(retain, own)
        with _public_parts(task) as build:
            return retrain(
                build,
                rows,
                loss=task.loss,
                epochs=how.training_epochs,
                recipe=how.recipe,
                generator=coins,
            ).model

    def release(model: nn.Module, _own: Examples | None) -> nn.Module:
        return learn(None) if isinstance(how.mechanism, Retrain) else _released(how, model, seed=how.seed + 5)

    try:
        retain = named("retain", task.retain)
        candidates, where = enough(*candidates_of(task))
        found = canaries(
            learn, release, candidates, score=partial(losses, loss=task.loss), delta=how.delta,
            confidence=how.confidence, generator=coins,
        )  # fmt: skip
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    return list(found.findings), found.details | {"candidates": where}


def _released(how: How, model: nn.Module, *, seed: int) -> nn.Module:
    """What the certificate's run makes of a trained model: the mechanism, then recovery."""
    task, device = how.task, next(model.parameters()).device
    done = unlearn(
        model, task.retain, how.mechanism, loss=task.loss, batch_size=how.batches, public=task.public,
        buffers=cast("Any", task.buffers), center=task.center, generator=torch.Generator(device).manual_seed(seed),
    )  # fmt: skip
    return recover(
        done.model, task.retain, loss=task.loss, epochs=how.recovery_epochs, recipe=how.recipe, rescale=how.rescale,
        public=task.public, generator=torch.Generator().manual_seed(seed + 500_000),
    )  # fmt: skip


@contextmanager
def _public_parts(task: Task) -> Generator[Callable[[], nn.Module]]:
    """A builder of models that start from the centre, with the task's public parts, which training leaves alone."""
    assert task.make_model is not None
    make_model = task.make_model
    names = set(public_names(task.model, task.public))
    held = {name: t for name, t in (*named_parameters(task.model), *named_buffers(task.model)) if name in names}
    built: list[nn.Module] = []

    def put(model: nn.Module) -> None:
        own = dict((*named_parameters(model), *named_buffers(model)))
        with torch.no_grad():
            for name, tensor in held.items():
                if name not in own or own[name].shape != tensor.shape:
                    raise ModelRefused(f"make_model builds no '{name}' of shape {tuple(tensor.shape)}, which is public")
                own[name].copy_(tensor)

    def build() -> nn.Module:
        model = make_model()
        if task.center is not None:
            state = task.center.state_dict() if isinstance(task.center, nn.Module) else task.center
            model.load_state_dict(state, strict=False)
        for name, parameter in named_parameters(model):
            if name in names:
                parameter.requires_grad_(False)
        put(model)
        built.append(model)
        return model

    yield build
    put(built[-1])  # public statistics that training moved


def _can_be_run(of: Mechanism) -> bool:
    return isinstance(of, Retrain) or type(of) in EXECUTORS


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
    return Pictures(x, y), rows
