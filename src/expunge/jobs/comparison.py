"""Every method on the same task, several seeds each, with retraining at equal compute and the null-start control."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn

from expunge import _validate
from expunge._progress import track
from expunge.accounting import Mechanism, guarantee
from expunge.data import Examples
from expunge.errors import TaskError
from expunge.heads import AnalyticHead
from expunge.recovery import Recipe
from expunge.recovery.fine_tuning import recover
from expunge.report.curves import Comparison, Lane
from expunge.training.task import Task, accuracies, accuracy, featured, outputs
from expunge.unlearners.null_start import null_start
from expunge.unlearners.retrain import retrain
from expunge.unlearners.run import unlearn

__all__ = ["accuracies", "accuracy", "compare"]

LABELS = {
    "gradient_clipping": "Gradient clipping",
    "model_clipping": "Model clipping",
    "output_perturbation": "Output perturbation",
    "null_start": "Null-start control",
    "retrain": "Retraining, equal steps",
    "exact_ridge": "Exact head",
}


def compare(
    make_task: Callable[[int], Task],
    mechanisms: Mapping[str, Mechanism],
    *,
    delta: float,
    epsilon: float,
    seeds: int,
    epochs: int,
    recipe: Recipe,
    rescale: bool,
    title: str,
    ridge: float | None = None,
) -> Comparison:
    """Run all lanes for each seed.

    Args:
        make_task: from a seed to a task (split, initialisation and training of its own), with `make_model`.
        mechanisms: by name; "gradient_clipping" must be among them, the null start goes through it.
        delta: of the budget that the mechanisms were calibrated to.
        epsilon: of that budget.
        seeds: how many.
        epochs: of recovery.
        recipe: of recovery and retraining alike.
        rescale: see `recover`.
        title: for the report.
        ridge: of an exact head on the tasks' feature map, which is compared too where this is given.
    """
    _validate.whole(seeds=seeds, epochs=epochs)
    curves: dict[str, tuple[list[list[float]], list[list[float]]]] = {}
    steps: dict[str, int] = {}
    seconds: dict[str, list[float]] = {}
    positions: dict[str, list[float]] = {}
    names = (*mechanisms, "null_start", "retrain", *(() if ridge is None else ("exact_ridge",)))
    jobs = [(seed, name) for seed in range(seeds) for name in names]
    tasks: dict[int, Task] = {}

    def run() -> Iterator[None]:
        for seed, name in jobs:
            if seed not in tasks:
                tasks.clear()
                tasks[seed] = _checked(make_task(seed))
            if name == "exact_ridge":
                points, took = _head(tasks[seed], cast("float", ridge), epochs)
                steps[name] = 0
            else:
                points, steps[name], took = _lane(
                    tasks[seed], name, mechanisms, seed=seed, epochs=epochs, recipe=recipe, rescale=rescale
                )
            last = steps[name] / _per_epoch(tasks[seed], recipe) if name == "retrain" else epochs
            positions[name] = [min(epoch, last) for epoch in range(len(points))]
            held_out, forget = curves.setdefault(name, ([], []))
            held_out.append([h for h, _ in points])
            forget.append([f for _, f in points])
            seconds.setdefault(name, []).append(took)
            yield None

    with _quiet():
        for _ in track(run(), total=len(jobs), label="compare"):
            pass
    lanes: list[Lane] = []
    for name, (held_out, forget) in curves.items():
        mechanism = mechanisms["gradient_clipping"] if name == "null_start" else mechanisms.get(name)
        proven = None if mechanism is None else guarantee(mechanism, delta=delta)
        lanes.append(
            Lane(
                name=name,
                label=LABELS.get(name, name),
                kind="exact" if proven is None else "none" if name == "null_start" else str(proven.kind),
                epsilon=0.0 if proven is None or name == "null_start" else proven.epsilon,
                mu=0.0 if proven is None else proven.mu,
                steps=steps[name],
                held_out=held_out,
                forget=forget,
                seconds=seconds[name],
                at=positions.get(name, ()),
                null_of="gradient_clipping" if name == "null_start" else None,
            )
        )
    environment = {"torch": torch.__version__.partition("+")[0], "threads": str(torch.get_num_threads())}
    return Comparison(
        title=title, epsilon=epsilon, delta=delta, seeds=seeds, epochs=epochs, lanes=lanes, environment=environment
    )


def _checked(task: Task) -> Task:
    if task.held_out is None:
        raise TaskError("a comparison needs task.held_out, data that no training saw: accuracy is measured on them")
    return task.parts()


def _lane(
    task: Task, name: str, mechanisms: Mapping[str, Mechanism], *, seed: int, epochs: int, recipe: Recipe, rescale: bool
) -> tuple[list[tuple[float, float]], int, float]:
    """One run: (accuracy on held-out, on forgotten data) before and after each epoch, gradient steps, and seconds."""
    points: list[tuple[float, float]] = []
    begun, measuring = time.perf_counter(), [0.0]

    def measure(_epoch: int, model: nn.Module) -> None:
        now = time.perf_counter()
        held_out = accuracy(model, task.held_out, task.accuracy)
        points.append((held_out, accuracy(model, task.forget, task.accuracy)))
        measuring.append(time.perf_counter() - now)

    def elapsed() -> float:
        return time.perf_counter() - begun - sum(measuring)

    def coins(use: int) -> torch.Generator:
        return torch.Generator().manual_seed(10_000 * (seed + 1) + use)

    retain = task.retain
    assert isinstance(retain, Examples)
    assert task.make_model is not None
    per_epoch = _per_epoch(task, recipe)
    if name == "retrain":
        extra = max(m.gradient_steps for m in mechanisms.values()) / per_epoch
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
            measure(0, task.make_model())
        retrain(
            task.make_model,
            retain,
            loss=task.loss,
            epochs=epochs + extra,
            recipe=recipe,
            generator=coins(0),
            on_epoch=measure,
        )
        return points, round((epochs + extra) * per_epoch), elapsed()
    mechanism = mechanisms["gradient_clipping" if name == "null_start" else name]
    model: dict[str, Any] = {"public": task.public, "buffers": cast("Any", task.buffers), "center": task.center}
    start = null_start(task.model, **model) if name == "null_start" else task.model
    done = unlearn(start, retain, mechanism, loss=task.loss, generator=coins(1), **model)
    measure(0, done.model)
    recover(
        done.model,
        retain,
        loss=task.loss,
        epochs=epochs,
        recipe=recipe,
        rescale=rescale,
        public=task.public,
        generator=coins(2),
        on_epoch=measure,
    )
    return points, mechanism.gradient_steps + epochs * per_epoch, elapsed()


def _per_epoch(task: Task, recipe: Recipe) -> int:
    return max(1, len(cast("Examples", as_examples(task.retain))) // recipe.batch_size)


def _head(task: Task, ridge: float, epochs: int) -> tuple[list[tuple[float, float]], float]:
    """A head that learned everything forgets the forget set; the same points at every epoch, and its seconds."""
    parts = {name: cast("Examples", getattr(task, name)) for name in ("retain", "forget", "held_out")}
    wide = {name: featured(task, rows) for name, rows in parts.items()}
    labels = {name: rows.tensors[1] for name, rows in parts.items()}
    head = AnalyticHead(ridge=ridge, classes=outputs(task, parts["retain"]), provenance=task.provenance)
    for name in ("retain", "forget"):
        head.learn(wide[name], labels[name], ids=parts[name].ids)
    begun = time.perf_counter()
    head.forget(wide["forget"], labels["forget"], ids=parts["forget"].ids)
    weights = head.weights
    seconds = time.perf_counter() - begun
    hits = {name: (wide[name] @ weights).argmax(1) == labels[name] for name in ("held_out", "forget")}
    point = (float(hits["held_out"].double().mean()), float(hits["forget"].double().mean()))
    return [point] * (epochs + 1), seconds


class _quiet:  # noqa: N801  a context manager reads as a verb
    """The warning that a start was clipped helps once, not forty times."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("expunge")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
