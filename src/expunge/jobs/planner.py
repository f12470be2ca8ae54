"""Which lane to take: what each would prove, cost and read, before anything is run."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil, inf, sqrt
from typing import Any, cast

import torch
from torch import Tensor

from expunge import _validate
from expunge.accounting import Budget, Guarantee, Kind, Mechanism, Replay, delta_at, guarantee
from expunge.data import Batches, Examples, as_examples
from expunge.errors import ExpungeError
from expunge.heads import AnalyticHead, ConvexHead
from expunge.heads.analytic import GRID
from expunge.recovery import Recipe
from expunge.trace import Cost, Shards, ShardsCost, Trace, cost
from expunge.training.loss import backward
from expunge.training.randomness import mode
from expunge.training.task import Task, outputs
from expunge.training.weights import FlatWeights

__all__ = ["Option", "Plan", "plan"]

# A gap between trained and null start below this leaves a mechanism nothing that training from scratch has not.
_WORTHWHILE = 0.5
_LARGEST = 1e300  # of a ratio that is still a number
_TIMED_STEPS, _TIMED_ROWS = 5, 1024
# Passes over the features that a convex head takes: a rule of thumb, rounded up from the 31 and 225 Hessian products that
# benchmarks/convex_head.py counts on CIFAR-10 features, and the gradients between them.
_PASSES_KEPT, _PASSES_NEW = 40, 250


@dataclass(frozen=True, kw_only=True)
class Option:
    """One lane.

    Args:
        lane: "retrain", "exact_ridge", "measured_residual", "replay", "shards", or the name of a mechanism.
        applies: whether it can be run on this task and meets the budget.
        why: what speaks for it, or why it does not apply.
        kind: of its guarantee.
        epsilon: of its guarantee; None where there is none.
        delta: the same.
        steps: gradient steps on batches, recovery among them.
        seconds: about, on this machine, from a short timing; None where it does not apply.
        gap: the most by which a mean accuracy from the trained start can exceed that from the null start; None for lanes
            that do not start from a ball.
        noise_to_weight: norm of the noise over the most that survives of the weights, least over the layers; infinite
            where nothing survives (null in JSON).
        reads: which data it must read.
    """

    lane: str
    applies: bool
    why: str
    kind: str = "none"
    epsilon: float | None = None
    delta: float | None = None
    steps: int = 0
    seconds: float | None = None
    gap: float | None = None
    noise_to_weight: float | None = None
    reads: str = ""

    @property
    def keeps(self) -> bool:
        """Whether what it keeps of the training is worth something: no control that never saw data is as good."""
        return self.gap is None or self.gap >= _WORTHWHILE


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All lanes, and the one to take.

    Args:
        options: one a lane.
        recommended: its name.
        reason: why, in a sentence.
    """

    options: tuple[Option, ...]
    recommended: str
    reason: str

    @property
    def lane(self) -> str:
        """The mechanism that takes the recommended lane: shards are replayed as one model is."""
        return Replay.name if self.recommended == "shards" else self.recommended

    def option(self, lane: str) -> Option:
        """By name; raises `KeyError`."""
        return {option.lane: option for option in self.options}[lane]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "recommended": self.recommended, "reason": self.reason,
            "options": [
                {name: None if value == inf else value for name, value in asdict(o).items()} for o in self.options
            ],
        }  # fmt: skip


def plan(
    task: Task,
    budget: Budget,
    *,
    mechanisms: Mapping[str, Mechanism],
    recipe: Recipe | None = None,
    recovery_epochs: float = 5,
    training_epochs: float = 30,
    ridge: float = 1.0,
    grid: float = GRID,
    trace: Trace | None = None,
    shards: Shards | None = None,
    head: AnalyticHead | ConvexHead | None = None,
) -> Plan:
    """Compare the lanes for one request: the task's forget set.

    Nothing is changed. A few training steps, and features, sums and products over at most 1,024 rows, are timed; a convex
    head's number of passes over the features is a rule of thumb, and the option says so.

    Args:
        task: model, data and loss; `features` and `provenance` for a head, `make_model` for retraining.
        budget: what is asked.
        mechanisms: noisy ones, by name, calibrated.
        recipe: of training and recovery.
        recovery_epochs: after a noisy mechanism.
        training_epochs: of retraining.
        ridge: of the head.
        grid: the step to which features are rounded, of an exact head that is new.
        trace: of `train_traced`, where the model was trained so.
        shards: of `train_shards`, likewise.
        head: one that has learned the forget set. A lane of heads is costed as a request to such a head in any case; where
            none is given, `why` says what a first one costs.

    Raises:
        ValueError: the forget set is not `Examples`.
    """
    _validate.positive(recovery_epochs=recovery_epochs, training_epochs=training_epochs, ridge=ridge, grid=grid)
    how = recipe or Recipe()
    forget = as_examples(task.forget)
    if forget is None:
        raise ValueError("task.forget must be Examples: the plan counts and times its rows")
    per_epoch = Batches(task.retain, batch_size=how.batch_size, seed=0).per_epoch
    step = _seconds_of_a_step(task, how.batch_size)
    options = [
        _retrain(task, round(training_epochs * per_epoch), step),
        *_heads(task, forget, budget, (ridge, grid), head),
        _replay(task, trace, forget),
        _shards(task, shards, forget),
    ]
    recovery = round(recovery_epochs * per_epoch)
    for name, mechanism in mechanisms.items():
        options.append(_noisy(name, mechanism, task, budget, recovery, step))
    return _recommend(tuple(options), budget)


def _recommend(options: tuple[Option, ...], budget: Budget) -> Plan:
    open_to_us = [o for o in options if o.applies and o.keeps and o.seconds is not None]
    if not open_to_us:
        return Plan(options=options, recommended="none", reason="no lane applies; see the reasons")
    best = min(open_to_us, key=lambda o: cast("float", o.seconds))
    retraining = next((o for o in options if o.lane == "retrain" and o.applies), None)
    if best.lane == "retrain":
        reason = f"nothing that proves ({budget.epsilon:g}, {budget.delta:g}) and keeps anything is cheaper: {best.why}"
    elif retraining is None or not best.seconds:
        reason = best.why
    else:
        times = cast("float", retraining.seconds) / best.seconds
        reason = f"about {times:.0f} times as fast as retraining: {best.why}"
    return Plan(options=options, recommended=best.lane, reason=reason)


def _retrain(task: Task, steps: int, step: float) -> Option:
    if task.make_model is None:
        return Option(lane="retrain", applies=False, why="the task has no make_model", reads="retained data")
    return Option(
        lane="retrain", applies=True, why="any model", kind=str(Kind.EXACT), epsilon=0.0, delta=0.0,
        steps=steps, seconds=steps * step, reads="retained data",
    )  # fmt: skip


def _heads(
    task: Task, forget: Examples, budget: Budget, new: tuple[float, float], head: AnalyticHead | ConvexHead | None
) -> tuple[Option, Option]:
    """The exact head and the convex one: both need a feature map."""
    lanes, why = ("exact_ridge", "measured_residual"), _no_head(task, forget)
    if why:
        return Option(lane=lanes[0], applies=False, why=why), Option(lane=lanes[1], applies=False, why=why)
    exact = head if isinstance(head, AnalyticHead) else None
    convex = head if isinstance(head, ConvexHead) else None
    strangers = 0 if head is None else sum(name not in head for name in forget.ids)
    unknown = (
        f"{strangers} of the {len(forget)} forgotten rows were never learned by the head, or are forgotten already"
    )
    return (
        Option(lane=lanes[0], applies=False, why=unknown)
        if exact is not None and strangers
        else _ridge(task, forget, new, exact),
        Option(lane=lanes[1], applies=False, why=unknown)
        if convex is not None and strangers
        else _convex(task, budget, kept=convex is not None),
    )


def _no_head(task: Task, forget: Examples) -> str:
    if task.features is None:
        return "the task names no feature map (features): a head alone is no whole network"
    if not task.provenance:
        return "where the feature map comes from is not declared (provenance): nothing would be proven"
    retain = as_examples(task.retain)
    if retain is None:
        return "it needs task.retain as Examples"
    for rows in (retain, forget):
        labels = rows.tensors[1] if len(rows.tensors) == 2 else None
        if labels is None or labels.dim() != 1 or labels.is_floating_point():
            return "it needs Examples(x, y) with a label for each row"
        width = outputs(task, retain)
        if int(labels.max()) >= width:
            return f"the network has {width} outputs, and labels reach {int(labels.max())}: a head needs one for each label"
    return ""


def _convex(task: Task, budget: Budget, *, kept: bool) -> Option:
    """Features of the retained rows, and as many passes of two products over them as the rule of thumb says."""
    retain = cast("Examples", as_examples(task.retain))
    x, wide = retain.tensors[0][:_TIMED_ROWS], list[Tensor]()
    classes = outputs(task, retain)
    if classes < 2:
        return Option(
            lane="measured_residual", applies=False, why=f"it needs 2 outputs at least, the network has {classes}"
        )

    def features() -> None:
        with torch.no_grad():
            wide.append(cast("Any", task.features)(x).double())

    mapping = min(_timed(features) for _ in range(2))
    weights = torch.zeros(wide[0].shape[1], classes, dtype=torch.float64)
    product = min(_timed(lambda: wide[0].T @ (wide[0] @ weights)) for _ in range(3))
    seconds = [(mapping + passes * product) * len(retain) / len(x) for passes in (_PASSES_KEPT, _PASSES_NEW)]
    first = "" if kept else f"; a first one is fitted in about {_PASSES_NEW}: {seconds[1]:.2g} s"
    return Option(
        lane="measured_residual", applies=True, kind=str(Kind.EPSILON_DELTA), epsilon=budget.epsilon, delta=budget.delta,
        seconds=seconds[0], reads="the head's state and the retained features",
        why=f"a convex head on the feature map, from where it stands: features of {len(retain)} rows, timed on {len(x)}, and "
        f"about {_PASSES_KEPT} passes over them, a rule of thumb{first}",
    )  # fmt: skip


def _ridge(task: Task, forget: Examples, new: tuple[float, float], head: AnalyticHead | None) -> Option:
    retain = cast("Examples", as_examples(task.retain))
    ridge, grid = new if head is None else (head.ridge, head.grid)
    if grid is None:
        why = "the head's sums are in floating point, from which nothing exact follows: fit a new one"
        return Option(lane="exact_ridge", applies=False, why=why)
    fresh = partial(AnalyticHead, ridge=ridge, classes=outputs(task, retain), grid=grid)
    try:
        row, solving, width = _seconds_of_sums(cast("Any", task.features), forget, fresh)
    except (ValueError, ExpungeError) as error:
        return Option(lane="exact_ridge", applies=False, why=f"its sums cannot be made: {error}")
    first = (
        ""
        if head is not None
        else f"; a first one sums the {len(retain)} retained rows: {len(retain) * row + solving:.2g} s"
    )
    return Option(
        lane="exact_ridge", applies=True, kind=str(Kind.EXACT), epsilon=0.0, delta=0.0,
        seconds=len(forget) * row + solving, reads="the head's state and the forgotten rows",
        why=f"subtract {len(forget)} rows from sums of width {width}, and solve; a head on the feature map, not the "
        f"network{first}",
    )  # fmt: skip


def _replay(task: Task, trace: Trace | None, forget: Examples) -> Option:
    if trace is None:
        return Option(lane="replay", applies=False, why="the training left no trace (train_traced)")
    found = _replay_cost(task, lambda: cost(trace, forget.ids))
    if isinstance(found, str):
        return Option(lane="replay", applies=False, why=found)
    return Option(
        lane="replay", applies=True, kind=str(Kind.EXACT), epsilon=0.0, delta=0.0, steps=found.steps,
        seconds=_seconds_of_a_replay(task, found), reads="retained data and a checkpoint",
        why=f"{found.steps} of {found.total} steps are repeated, from the first use of a forgotten record",
    )  # fmt: skip


def _shards(task: Task, shards: Shards | None, forget: Examples) -> Option:
    if shards is None:
        return Option(lane="shards", applies=False, why="the model was not trained in shards (train_shards)")
    found = _replay_cost(task, lambda: shards.cost(forget.ids))
    if isinstance(found, str):
        return Option(lane="shards", applies=False, why=found)
    assert isinstance(found, ShardsCost)
    average = shards.plan.expected_steps(len(forget))
    return Option(
        lane="shards", applies=True, kind=str(Kind.EXACT), epsilon=0.0, delta=0.0, steps=found.steps,
        seconds=_seconds_of_a_replay(task, found), reads="retained data and checkpoints of the shards that are hit",
        why=f"{found.steps} of {found.total} steps are repeated, in {len(found.hit)} of {shards.plan.shards} shards; for as "
        f"many records at random {average:.0f} on average",
    )  # fmt: skip


def _replay_cost(task: Task, look: Callable[[], Cost | ShardsCost]) -> Cost | ShardsCost | str:
    """The cost, exactly; or why there is no replay."""
    if task.make_model is None:
        return "the task has no make_model"
    try:
        return look()
    except (ExpungeError, ValueError) as error:
        return str(error)


def _seconds_of_a_replay(task: Task, found: Cost | ShardsCost) -> float:
    """Its steps, timed with batches of their mean size and with the augmentation."""
    size = max(1, ceil(found.gradients / max(1, found.steps)))
    return found.steps * _seconds_of_a_step(task, size, augmented=True)


def _noisy(name: str, mechanism: Mechanism, task: Task, budget: Budget, recovery: int, step: float) -> Option:
    proven = guarantee(mechanism, delta=budget.delta)
    gap = delta_at(mechanism, 0.0)  # total variation: the most by which the chance of any event can differ
    try:
        weights = FlatWeights(
            copy.deepcopy(task.model), public=task.public, center=task.center, reset_buffers=task.buffers == "reset"
        )
    except ExpungeError as error:
        return Option(lane=name, applies=False, why=str(error))
    steps = mechanism.gradient_steps + recovery
    return Option(
        lane=name, applies=proven.epsilon <= budget.epsilon, why=_words(proven, budget, gap), kind=str(proven.kind),
        epsilon=proven.epsilon, delta=proven.delta, steps=steps, seconds=steps * step, gap=gap,
        noise_to_weight=_noise_to_weight(mechanism, weights.sizes),
        reads="retained data",
    )  # fmt: skip


def _noise_to_weight(mechanism: Mechanism, sizes: Iterable[int]) -> float:
    """Infinite where nothing survives of the weights: steps that decay all of it, or so many that it underflows."""
    noise, survives = mechanism.output_noise_std * sqrt(min(sizes)), mechanism.surviving_norm
    return noise / survives if survives > noise / _LARGEST else inf


def _words(proven: Guarantee, budget: Budget, gap: float) -> str:
    if proven.epsilon > budget.epsilon:
        return f"proves epsilon={proven.epsilon:.4g} only, {budget.epsilon:g} is asked"
    if gap < _WORTHWHILE:
        return (
            f"saves nothing: a start that never saw data comes within {gap:.3f} of its mean accuracy, so training from "
            "scratch for as long is as good, and exact"
        )
    return "keeps some of the trained weights: any loss, any architecture"


def _seconds_of_a_step(task: Task, batch_size: int, *, augmented: bool = False) -> float:
    """One training step, forward and backward, the median of five."""
    model = copy.deepcopy(task.model)
    batches = iter(Batches(task.retain, batch_size=batch_size, seed=0))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-9)

    def step() -> None:
        batch = next(batches)
        if augmented and task.augment is not None:
            batch = task.augment(batch, torch.Generator(batch[0].device).manual_seed(0))
        optimizer.zero_grad()
        backward(task.loss, model, batch)
        optimizer.step()  # pyright: ignore[reportUnknownMemberType]

    with mode(model, training=True), torch.random.fork_rng():
        step()
        return sorted(_timed(step) for _ in range(_TIMED_STEPS))[_TIMED_STEPS // 2]


def _seconds_of_sums(
    features: Callable[[Tensor], Tensor], rows: Examples, fresh: Callable[[], AnalyticHead]
) -> tuple[float, float, int]:
    """Features and sums, a row, timed on the first 1,024; of a solution; and the width. The better of two."""
    x, y = (t[:_TIMED_ROWS] for t in rows.tensors)
    ids = rows.ids[: len(x)]

    def once() -> tuple[float, float, int]:
        head = fresh()
        wide: list[Tensor] = []

        def sums() -> None:
            with torch.no_grad():
                wide.append(features(x))
            head.learn(wide[0], y, ids=ids)

        return _timed(sums) / len(x), _timed(lambda: head.weights), wide[0].shape[1]

    return min(once(), once())


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
