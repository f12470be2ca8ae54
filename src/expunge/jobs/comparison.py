"""Ways to unlearn beside one another on one request: several seeds each, with null starts and retraining as controls."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from expunge import _validate
from expunge._progress import track
from expunge._workers import refuse_workers
from expunge.accounting import Bound, Budget, Mechanism, Relation, guarantee
from expunge.data import Examples, Request, as_examples
from expunge.data.joins import joined
from expunge.errors import TaskError
from expunge.jobs.unlearning import Way, chosen, released_accuracies
from expunge.report.comparisons import save_comparison
from expunge.report.curves import Comparison, Curve
from expunge.training.task import Task, accuracies
from expunge.training.unlearned import Unlearned
from expunge.unlearners.capabilities import Fresh
from expunge.unlearners.centre import null_start
from expunge.unlearners.costs import Costs
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.retrain import Retraining
from expunge.unlearners.working import Run

__all__ = ["Metric", "compare"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)
_NULL_START = "null start"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that is measured of every released model.

    Args:
        measure: (what an unlearner returned, the task with its request resolved) -> the number.
        unit: e.g. "nats"; "" for a share.
        better: whether a higher or a lower number is better.
    """

    measure: Callable[[Unlearned, Task], float]
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"


@dataclass
class _Runs:
    """What was seen of one way, seed by seed."""

    way: Unlearner
    null_of: str | None = None
    steps: int = 0
    mechanism: Mechanism | None = None
    at: list[float] = field(default_factory=list[float])
    held_out: list[list[float]] = field(default_factory=list[list[float]])
    forget: list[list[float]] = field(default_factory=list[list[float]])
    seconds: list[float] = field(default_factory=list[float])
    metrics: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    @property
    def fresh(self) -> bool:
        """Whether it trains a new model, as retraining does."""
        return isinstance(self.way, Fresh)


def compare(
    task: Task | Callable[[int], Task],
    request: Request | None = None,
    *,
    unlearners: Mapping[str, Way],
    metrics: Mapping[str, Metric] | None = None,
    seeds: int = 5,
    budget: Budget = _BUDGET,
    relation: Relation = Relation.RETRAINED,
    controls: bool = True,
    title: str = "",
    out: str | os.PathLike[str] | None = None,
) -> Comparison:
    """Run several ways to unlearn on one request, several seeds each, and measure what they release.

    Beside them, unless `controls` is off: retraining with as many steps as the longest of them takes, and for each one that
    starts from a ball the same run from the null start, a model that never saw data. A certificate allows a trained start
    only so much more than the null start reaches.

    Args:
        task: model, data and loss; or a function from a seed to a task, where training and split change with it.
        request: what is to be forgotten; None where the task's own `forget` says it.
        unlearners: name -> an unlearner, its name in the table, a finished mechanism, a pair (mechanism, executor), or a plain
            function `unlearn(model, retain, forget)`.
        metrics: name -> `Metric`, measured of what is released, beside accuracy.
        seeds: how many.
        budget: that they are run for.
        relation: the reading that is certified.
        controls: run null starts and retraining too.
        title: of tables and plots.
        out: a folder for `comparison.json`, `.csv`, `.txt` and `.svg`.

    Returns:
        Accuracies and metrics for each seed: `print` it, take `to_dict()` or `to_csv()`, or give `out`.

    Raises:
        ValueError: no unlearner, or none of its options is right.
        ExpungeError, TypeError: what an unlearner refuses.
    """
    refuse_workers("compare")
    _validate.whole(seeds=seeds)
    if not isinstance(unlearners, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"unlearners must be a mapping from names to ways to unlearn, not {_validate.shown(unlearners)}"
        )
    if not unlearners:
        raise ValueError("unlearners must name at least one way to unlearn")
    make = _same(task) if isinstance(task, Task) else task
    ways = {name: chosen(way) for name, way in unlearners.items()}
    first = make(0).parts(request)
    if first.held_out is None:
        raise TaskError("a comparison measures accuracy on data that no training saw: give task.held_out")
    runs = {name: _Runs(way, mechanism=way.mechanism(first, budget, relation)) for name, way in ways.items()}
    _count(runs, first, budget, relation)
    if controls:
        runs = _with_controls(runs, first, budget, relation)
    jobs = [(seed, name) for seed in range(seeds) for name in runs]
    with _quiet():
        for _ in track(
            _run_all(runs, jobs, make, request, metrics or {}, budget, relation), total=len(jobs), label="compare"
        ):
            pass
    environment = {"torch": torch.__version__.partition("+")[0], "threads": str(torch.get_num_threads())}
    longest = max((at for own in runs.values() for at in own.at), default=0.0)
    found = Comparison(
        title=title or f"{', '.join(ways)} at epsilon={budget.epsilon:g}, delta={budget.delta:g}", epsilon=budget.epsilon,
        delta=budget.delta, seeds=seeds, epochs=round(longest), environment=environment,
        curves=[_curve(name, own, budget, relation, longest) for name, own in runs.items()],
        metrics={name: {"unit": own.unit, "better": own.better} for name, own in (metrics or {}).items()},
    )  # fmt: skip
    if out is not None:
        save_comparison(found, out)
    return found


def _same(task: Task) -> Callable[[int], Task]:
    return lambda _seed: task


def _count(runs: Mapping[str, _Runs], task: Task, budget: Budget, relation: Relation) -> None:
    """The gradient steps of each, recovery among them."""
    costs = Costs(task)
    for own in runs.values():
        own.steps = own.way.quote(task, budget, relation, costs).steps


def _with_controls(runs: Mapping[str, _Runs], task: Task, budget: Budget, relation: Relation) -> dict[str, _Runs]:
    """With null starts behind the ways that clip their start to a ball, and retraining with as many steps as the longest way."""
    found: dict[str, _Runs] = {}
    for name, own in runs.items():
        found[name] = own
        if own.mechanism is not None and own.mechanism.noise_draws and isfinite(own.mechanism.start_radius):
            control = _Runs(own.way, null_of=name, steps=own.steps, mechanism=own.mechanism)
            found[f"{_NULL_START}: {name}"] = control
    steps = max(own.steps for own in runs.values())
    if not any(own.fresh for own in runs.values()) and task.make_model is not None and steps:
        way = _retraining(runs, task, steps)
        found[way.name] = _Runs(way, steps=steps, mechanism=way.mechanism(task, budget, relation))
    return found


def _retraining(runs: Mapping[str, _Runs], task: Task, steps: int) -> Retraining:
    """With the first recipe among the ways, and so many steps."""
    recipe = next((r for own in runs.values() if (r := getattr(own.way, "recipe", None)) is not None), None)
    how: dict[str, Any] = {}
    if recipe is not None:
        how = {"recovery_lr": recipe.learning_rate, "optimizer": recipe.optimizer, "batch_size": recipe.batch_size}
    way = Retraining(**how)
    return replace(way, epochs=steps / Costs(task).per_epoch(way.batch_size))


def _run_all(
    runs: Mapping[str, _Runs],
    jobs: list[tuple[int, str]],
    make: Callable[[int], Task],
    request: Request | None,
    metrics: Mapping[str, Metric],
    budget: Budget,
    relation: Relation,
) -> Iterator[int]:
    held: tuple[int, Task] | None = None
    for done, (seed, name) in enumerate(jobs, 1):
        if held is None or held[0] != seed:
            held = (seed, make(seed).parts(request))
        _run_one(runs[name], held[1], seed, metrics, budget, relation)
        yield done


def _run_one(
    own: _Runs, task: Task, seed: int, metrics: Mapping[str, Metric], budget: Budget, relation: Relation
) -> None:
    points: list[tuple[float, dict[str, float]]] = []
    measuring = 0.0

    def measure(epoch: int, model: nn.Module) -> None:
        nonlocal measuring
        begun = time.perf_counter()
        longest = own.way.fresh(task)[0] if isinstance(own.way, Fresh) else getattr(own.way, "epochs", epoch)
        points.append((min(epoch, longest), accuracies(task, model)))
        measuring += time.perf_counter() - begun

    started = _started(own, task)
    with tempfile.TemporaryDirectory() as folder:
        way = _learned(own.way, started, Run(folder=Path(folder) / "kept", seed=seed))
        begun = time.perf_counter()
        done = way.forget(started, budget, relation, Run(seed=seed, on_epoch=measure))
        own.seconds.append(time.perf_counter() - begun - measuring)
        released = (0.0, released_accuracies(task, done))
    if len(points) < 2:  # no epochs to look at: a level line
        points = [released, released]
    own.at = [epoch for epoch, _ in points]
    own.held_out.append([at["held_out"] for _, at in points])
    own.forget.append([at["forget"] for _, at in points])
    for name, metric in metrics.items():
        own.metrics.setdefault(name, []).append(float(metric.measure(done, task)))


def _started(own: _Runs, task: Task) -> Task:
    if own.null_of is None:
        return task
    model: dict[str, Any] = {"public": task.public, "buffers": task.buffers, "center": task.center}
    return replace(task, model=null_start(task.model, **model))


def _learned(way: Unlearner, task: Task, run: Run) -> Unlearner:
    """An unlearner that goes on from what it kept of a training gets one on all rows; others start from the task's model."""
    if not getattr(way, "keeps", False):
        return way
    parts = [as_examples(part) for part in (task.retain, task.forget)]
    if not all(isinstance(part, Examples) for part in parts):
        raise TypeError(f"'{way.name}' learns rows: task.retain and task.forget must be Examples")
    return way.learn(task, joined(*parts), run)  # pyright: ignore[reportArgumentType]


def _curve(name: str, own: _Runs, budget: Budget, relation: Relation, longest: float) -> Curve:
    proven = None
    if own.mechanism is not None and not own.null_of:
        proven = guarantee(own.mechanism, delta=budget.delta, relation=relation)
    bound = proven if isinstance(proven, Bound) else None
    level = len(set(own.at)) == 1
    return Curve(
        name=name, label=name.replace("_", " "), kind="none" if proven is None else str(proven.kind),
        epsilon=None if bound is None else bound.epsilon,
        mu=bound.mu if bound is not None and isfinite(bound.mu) else None, steps=own.steps, held_out=own.held_out,
        forget=own.forget, seconds=own.seconds, at=(0.0, longest or 1.0) if level else own.at, null_of=own.null_of,
        fresh=own.fresh, metrics=own.metrics,
    )  # fmt: skip


@contextmanager
def _quiet() -> Generator[None]:
    """The warning that a start was clipped helps once, not forty times."""
    logger = logging.getLogger("expunge")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
