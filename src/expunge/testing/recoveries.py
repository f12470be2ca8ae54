"""The contract of a recovery: what it counts, keeps and reads; and that what voids a certificate is refused with it."""

import contextlib
import copy
import io
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.accounting import Budget, Relation
from expunge.data import Examples
from expunge.errors import ExpungeError, ModelRefused, StillRetained
from expunge.recovery import Recovery
from expunge.recovery.procedure import stated
from expunge.recovery.verbs import underway
from expunge.testing.contract import ContractViolation, require
from expunge.training.randomness import mode
from expunge.training.statistics import norms_to_estimate, statistics_of
from expunge.training.task import Task
from expunge.training.tensors import named_buffers, named_parameters
from expunge.training.weights import public_names
from expunge.unlearners.output_perturbation import OutputPerturbation
from expunge.unlearners.working import Run

__all__ = ["check_recovery"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)
_FAR = 512.0  # beyond all rows of a task


def check_recovery(recovery: Recovery, task: Task | None = None, *, seed: int = 0) -> None:
    """Hold a recovery of one's own against its contract, on a small task.

    It runs the recovery some ten times. Checked are: its settings are public and can be written into a record; its steps
    count up by one to `total`; the same coins give the same bits, interrupted or not; it changes weights in place, and neither
    names, shapes, types, frozen weights nor public buffers; all that it shows to the model is made of the batches it is given,
    or of `Examples` among its settings (seen where rows hold real numbers).
    Then each of four things that void a certificate is hidden in a copy of it, and the run must refuse every one: statistics
    of the trained model, the trained model as teacher, forgotten rows, and trained tensors put into the outcome.

    Args:
        recovery: of the protocol `expunge.recovery.Recovery`.
        task: with `retain` and `forget` as `Examples`, `retain` of two batches or more, for a recovery that needs a model or
            rows of its own; by default a network of six layers, the first two of them public and frozen, with BatchNorm.
        seed: of the runs.

    Raises:
        ContractViolation: a contract is broken; the message begins with its name.
    """
    _is_a_value(recovery)
    own = _small_task(recovery.batch_size, seed) if task is None else task
    if not isinstance(own.retain, Examples):
        raise ValueError("check_recovery needs task.retain as Examples")
    way = OutputPerturbation(init_clip=1e6, noise_std=0.01, batch_size=recovery.batch_size, recovery=recovery)
    trial = _Trial(recovery=recovery, task=own, way=way, seed=seed)
    certified = _completes(trial)
    whole = _trains_in_place(trial, certified)
    again = trial.run(certified, coins=seed)[0]
    require(_same(whole, again), "replay", "the same coins gave other weights", recovery)
    _resumes(trial, certified, whole)
    _reads_its_batches(trial, certified)
    _refuses_what_voids(trial)


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """One recovery on one task, behind a run of output perturbation."""

    recovery: Recovery
    task: Task
    way: OutputPerturbation
    seed: int

    @property
    def public(self) -> Collection[str]:
        return public_names(self.task.model, self.task.public)

    def run(
        self, certified: nn.Module, *, coins: int, saved: Any = None, stop: int | None = None, retain: Any = None
    ) -> tuple[nn.Module, Any]:
        """The recovery on a copy of the certified model; stopped after a step, with the state that a file would hold."""
        model, generator = copy.deepcopy(certified), torch.Generator().manual_seed(coins)
        rows = self.task.retain if retain is None else retain
        how: dict[str, Any] = {"public": self.public, "saved": saved}
        with underway(model, rows, self.task.loss, self.recovery, generator, **how) as (progress, steps):
            for done in steps:
                if done == stop:
                    return model, _through_a_file(progress.state(), self.recovery)
        return model, progress.total


def _is_a_value(recovery: Recovery) -> None:
    try:
        told = stated(recovery)
        json.dumps(told, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractViolation(f"settings: {error}") from error
    reads = isinstance(recovery.reads, str) and bool(recovery.reads)  # pyright: ignore[reportUnnecessaryIsInstance]
    require(reads, "settings", f"reads={recovery.reads!r} must say which data it reads", recovery)


def _completes(trial: _Trial) -> nn.Module:
    """The whole way of an unlearner; returns the certified model."""
    try:
        done = trial.way.forget(trial.task, _BUDGET, Relation.RETRAINED, Run(seed=trial.seed))
    except (ExpungeError, TypeError, ValueError) as error:
        raise ContractViolation(f"runs behind an unlearner: {error}") from error
    told = done.record.procedure["recovery"]
    require(told == stated(trial.recovery), "record", f"the record states {told}", trial.recovery)
    assert done.certified is not None
    return done.certified


def _trains_in_place(trial: _Trial, certified: nn.Module) -> nn.Module:
    model, generator = copy.deepcopy(certified), torch.Generator().manual_seed(trial.seed)
    before = dict((*named_parameters(model), *named_buffers(model)))
    places = {name: t.detach() for name, t in before.items()}  # held, so that no other tensor takes their memory
    loss = trial.task.loss
    with underway(model, trial.task.retain, loss, trial.recovery, generator, public=trial.public) as (progress, steps):
        counted = sum(1 for _ in steps)
    enough = counted == progress.total >= 2
    say = f"{counted} step of it is all there is on this task: nothing can be interrupted; give one with more"
    require(enough, "steps", say, trial.recovery)
    after = dict((*named_parameters(model), *named_buffers(model)))
    for name, tensor in before.items():
        stays = after.get(name) is tensor and tensor.data_ptr() == places[name].data_ptr()
        require(stays, "in place", f"'{name}' is another object, or lies elsewhere in memory", trial.recovery)
    require(len(after) == len(before), "in place", "the model has tensors that it had not", trial.recovery)
    first = dict((*named_parameters(certified), *named_buffers(certified)))
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, first[name])}
    require(bool(changed), "changes the model", "no tensor is another one: nothing was tested", trial.recovery)
    for name, tensor in after.items():
        fixed = not tensor.requires_grad if isinstance(tensor, nn.Parameter) else name in trial.public
        say = f"'{name}' is frozen or public, and was changed"
        require(not (fixed and name in changed), "frozen and public parts stay", say, trial.recovery)
    return model


def _resumes(trial: _Trial, certified: nn.Module, whole: nn.Module) -> None:
    total = trial.run(certified, coins=trial.seed)[1]
    for k in sorted({1, total // 2, total - 1}):
        _, state = trial.run(certified, coins=trial.seed, stop=k)
        model, _ = trial.run(certified, coins=trial.seed + 1, saved=state)  # a restart has other coins
        say = (
            f"interrupted after {k} of {total} steps and resumed, the run ends at other bits: what changes in the loop goes to "
            "progress.keep, and no batch is taken ahead"
        )
        require(_same(model, whole), "resume", say, trial.recovery)


def _through_a_file(state: dict[str, Any], recovery: Recovery) -> Any:
    buffer = io.BytesIO()
    try:
        torch.save(state, buffer)
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    except Exception as error:  # of pickle and of torch, several kinds
        raise ContractViolation(f"resume: the state cannot be kept in a file: {error} [{recovery!r}]") from error


def _reads_its_batches(trial: _Trial, certified: nn.Module) -> None:
    """On rows far from all others: what the model is shown must be as far."""
    own = {f.name: getattr(trial.recovery, f.name) for f in fields(cast("Any", trial.recovery))}
    moved = {name: _far(value) for name, value in own.items() if isinstance(value, Examples)}
    recovery: Recovery = replace(cast("Any", trial.recovery), **moved) if moved else trial.recovery
    given = _far(trial.task.retain)
    near: list[bool] = []

    def look(_module: nn.Module, positional: tuple[Any, ...], by_name: dict[str, Any]) -> None:
        shown = [t for t in (*positional, *by_name.values()) if isinstance(t, Tensor) and t.is_floating_point()]
        near.extend([not any(bool((t.abs() > _FAR).any()) for t in shown)] if shown else [])

    model, generator = copy.deepcopy(certified), torch.Generator().manual_seed(trial.seed)
    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    with (
        contextlib.suppress(ExpungeError),  # such rows may be too much for a learning rate
        underway(model, given, trial.task.loss, recovery, generator, public=trial.public) as (_, steps),
    ):
        for _ in steps:
            pass
    handle.remove()
    say = f"{sum(near)} of {len(near)} forward passes were of rows that no batch held"
    require(not any(near), "reads its batches", say, trial.recovery)


def _far(rows: Examples) -> Examples:
    """The same rows, beyond all others of a task."""
    far = [t + 2 * _FAR if t.is_floating_point() else t for t in rows.values]
    named: dict[str, Any] = dict(zip(rows.fields, far, strict=True)) if rows.fields else {}
    return Examples(*(() if rows.fields else far), **named)


def _refuses_what_voids(trial: _Trial) -> None:
    task = trial.task
    trained = {name: t.detach().clone() for name, t in named_parameters(task.model) if name not in trial.public}
    norms = statistics_of(task.model, norms_to_estimate(task.model, trial.public)) if task.buffers == "reset" else ()
    statistics = {name: t.detach().clone() for name, t in named_buffers(task.model) if name in norms}
    plants: dict[str, Recovery] = {
        "the trained model as teacher": _holding(trial.recovery, copy.deepcopy(task.model)),
        "forgotten rows": _holding(trial.recovery, task.forget),
        "trained weights put into the outcome": _carrying(trial.recovery, trained),
    }
    if statistics:
        plants["statistics of the trained model"] = _holding(trial.recovery, statistics)
        plants["trained statistics put into the outcome"] = _carrying(trial.recovery, statistics)
    for what, planted in plants.items():
        way = replace(trial.way, recovery=planted)
        try:
            way.forget(task, _BUDGET, Relation.RETRAINED, Run(seed=trial.seed))
        except (ModelRefused, StillRetained):
            continue
        say = f"{what}: hidden in a copy of it, and run all the same; what it holds cannot be seen, or is too short to be known"
        require(False, "refuses what voids a certificate", say, trial.recovery)


def _holding(recovery: Recovery, thing: object) -> Recovery:
    """A copy that holds something beside its settings."""
    return _copied(recovery, {}, thing)


def _carrying(recovery: Recovery, tensors: dict[str, Tensor]) -> Recovery:
    """A copy that puts tensors into the model behind its steps, from a file that no search opens."""
    file = io.BytesIO()
    torch.save(tensors, file)
    content = file.getvalue()

    def steps(_self: Any, model: nn.Module, *given: Any) -> Iterator[int]:
        yield from recovery.steps(model, *given)
        own = dict((*named_parameters(model), *named_buffers(model)))
        with torch.no_grad():
            for name, tensor in torch.load(io.BytesIO(content), weights_only=True).items():
                own[name].copy_(tensor)

    return _copied(recovery, {"steps": steps}, None)


def _copied(recovery: Recovery, methods: dict[str, Callable[..., Any]], thing: object) -> Recovery:
    kind = type("Planted", (type(recovery),), {"name": "planted", **methods})
    made = object.__new__(kind)
    held = {f.name: getattr(recovery, f.name) for f in fields(cast("Any", recovery))}
    for name, value in {**held, **getattr(recovery, "__dict__", {}), "planted": thing}.items():
        object.__setattr__(made, name, value)
    return cast("Recovery", made)


def _same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _small_task(batch_size: int, seed: int) -> Task:
    """Three batches of rows of 8 numbers and 3 classes."""
    coins = torch.Generator().manual_seed(seed)
    n = max(64, 3 * batch_size)
    x, y = torch.randn(n + 8, 8, generator=coins), torch.randint(3, (n + 8,), generator=coins)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(OrderedDict(
            body=nn.Linear(8, 24), fixed=nn.BatchNorm1d(24), hidden=nn.Linear(24, 32), norm=nn.BatchNorm1d(32),
            drop=nn.Dropout(0.2), head=nn.Linear(32, 3),
        ))  # fmt: skip
    with mode(model, training=True), torch.no_grad(), torch.random.fork_rng(devices=[]):
        model(x)  # statistics of all rows
    public = ("body.*", "fixed.*")
    for name, parameter in named_parameters(model):
        parameter.requires_grad_(name.partition(".")[0] not in ("body", "fixed"))
    return Task(
        model=model,
        loss=_loss,
        retain=Examples(x[8:], y[8:]),
        forget=Examples(x[:8], y[:8]),
        public=public,
        buffers="reset",
    )


def _loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])
