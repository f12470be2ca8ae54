"""Every unlearner of the library, with the settings that the leaderboard runs; none was tuned on a set or request of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

import expunge as ex
from expunge.jobs.unlearning import chosen
from expunge.unlearners import Run
from expunge.unlearners import heuristics as h
from leaders.requests import Coined, Posed
from leaders.sets import BUDGET, NOISY, RADIUS, STEPS, Setting

__all__ = ["CONTROLS", "WAYS", "Forgot", "forgotten", "keeps", "one_more"]

EPOCHS = 5  # of recovery, and of every heuristic that trains on the retained rows
MOST_PATCHED = 700  # rows: a linear program for each
SHARDS, SLICES = 5, 4


def nothing(_posed: Posed) -> Any:
    """The trained model as it is."""
    return lambda _model, _retain, _forget: None


def retraining(posed: Posed) -> Any:
    """For as long as the original."""
    return _retraining(posed.setting, posed.setting.epochs)


def retraining_shortly(posed: Posed) -> Any:
    """For as many steps as the noisy unlearners take."""
    s = posed.setting
    return _retraining(s, EPOCHS + STEPS * s.recipe.batch_size / len(posed.parts[0]))


def _retraining(s: Setting, epochs: float) -> Any:
    return ex.unlearners.Retraining(epochs=epochs, recovery_lr=s.recipe.learning_rate, batch_size=s.recipe.batch_size)


def noisy(kind: type[Any], **own: Any) -> Callable[[Posed], Any]:
    """A noisy unlearner, calibrated to the budget."""

    def made(posed: Posed) -> Any:
        recipe = posed.setting.recipe
        return kind(epochs=EPOCHS, recovery_lr=recipe.learning_rate, batch_size=recipe.batch_size, **own)

    return made


def null_start(posed: Posed) -> Any:
    """Gradient clipping from the model that never saw data: the control of all noisy ones."""
    way = WAYS["gradient_clipping"](posed)
    return way.starting_from(ex.unlearners.null_start(posed.task.model))


def heuristic(kind: type[Any], **own: Any) -> Callable[[Posed], Any]:
    """A heuristic; `rate`: as a share of the training's learning rate."""
    share = own.pop("rate", None)

    def made(posed: Posed) -> Any:
        s = posed.setting
        way = kind(batch_size=s.recipe.batch_size, **own)
        return way if share is None else replace(way, learning_rate=share * s.recipe.learning_rate)

    return made


def patches(posed: Posed) -> Any:
    """PRUNE on the box that the rows span, widened to round numbers."""
    x, rows = posed.train.tensors[0], len(posed.parts[1])
    if rows > MOST_PATCHED:
        raise ex.errors.TaskError(f"not run: {rows:,} rows, a linear program for each; at most {MOST_PATCHED:,} here")
    return h.Patching(lowest=float(x.min().floor()), highest=float(x.max().ceil()))


def exact_head(_posed: Posed) -> Any:
    """The exact head on wide random features."""
    return ex.unlearners.ExactHead(ridge=1.0)


@dataclass(frozen=True, kw_only=True)
class NarrowHead(ex.unlearners.NoisyHead):
    """The convex head on features of its own, narrower than those of the exact head.

    Args:
        features: from rows to features.
        provenance: of these features.
    """

    features: Callable[[Tensor], Tensor]
    provenance: str

    def mechanism(self, task: ex.Task, budget: ex.Budget, relation: Any) -> Any:
        """As of the task's features."""
        return super().mechanism(self._own(task), budget, relation)

    def learn(self, task: ex.Task, rows: ex.Examples, run: Any) -> "NarrowHead":
        """As on the task's features."""
        return super().learn(self._own(task), rows, run)  # pyright: ignore[reportReturnType]  replace keeps the class

    def forget(self, task: ex.Task, budget: ex.Budget, relation: Any, run: Any) -> ex.Unlearned:
        """As on the task's features."""
        return super().forget(self._own(task), budget, relation, run)

    def _own(self, task: ex.Task) -> ex.Task:
        return replace(task, features=self.features, provenance=self.provenance)


def convex_head(posed: Posed) -> Any:
    """A logistic head, brought to the retained rows from where it stands, with noise."""
    s = posed.setting
    return NarrowHead(
        loss="logistic",
        regularization=s.regularization,
        residual=s.residual,
        features=s.features,
        provenance=s.provenance,
    )


def replaying(posed: Posed) -> Any:
    """Replay of a traced training."""
    return ex.unlearners.Replaying(epochs=posed.setting.epochs, recipe=posed.setting.recipe)


def sharding(posed: Posed) -> Any:
    """Five models on a fifth of the rows each, in four slices; as many gradients in training as the one model takes."""
    passes = max(1, round(posed.setting.epochs * 2 / (SLICES + 1)))
    return ex.unlearners.Replaying(shards=SHARDS, epochs=SLICES * passes, recipe=posed.setting.recipe)


_STEPS: dict[str, Any] = {"init_clip": RADIUS, "steps": STEPS, "learning_rate": 0.01, **NOISY}
WAYS: dict[str, Callable[[Posed], Any]] = {
    "nothing": nothing,
    "retrain": retraining,
    "retrain_shortly": retraining_shortly,
    "grid_ridge": exact_head,
    "measured_residual": convex_head,
    "replay": replaying,
    "shards": sharding,
    "gradient_clipping": noisy(ex.unlearners.GradientClipping, **_STEPS),
    "gradient_clipping after neggrad_plus": noisy(
        ex.unlearners.GradientClipping, **_STEPS, start=h.NegGradPlus(epochs=1, batch_size=128)
    ),
    "scheduled_gradient_clipping": noisy(
        ex.unlearners.ScheduledGradientClipping, **_STEPS | {"learning_rate": 0.02, "last_rate": 0.1}
    ),
    "blockwise_gradient_clipping": noisy(ex.unlearners.BlockwiseGradientClipping, **_STEPS, blind=True),
    "model_clipping": noisy(
        ex.unlearners.ModelClipping, model_clip=RADIUS, steps=STEPS, learning_rate=0.1, weight_decay=0.0
    ),
    "output_perturbation": noisy(ex.unlearners.OutputPerturbation, init_clip=RADIUS),
    "null_start": null_start,
    "fine_tune": heuristic(h.FineTune, epochs=EPOCHS, rate=0.2),
    "gradient_ascent": heuristic(h.GradientAscent, epochs=1, rate=0.02),
    "neggrad_plus": heuristic(h.NegGradPlus, epochs=EPOCHS, rate=0.2),
    "scrub": heuristic(h.Scrub, epochs=EPOCHS, rate=0.1),
    "selective_dampening": heuristic(h.SelectiveDampening),
    "salun": heuristic(h.Saliency, epochs=EPOCHS, rate=0.2),
    "jit": heuristic(h.JustInTime, epochs=1, rate=0.02, noise=0.1),
    "gradient_difference": heuristic(h.GradientDifference, epochs=1, rate=0.05),
    "negative_preference": heuristic(h.NegativePreference, epochs=EPOCHS, rate=0.05, next_token=False, retention=1.0),
    "information": lambda _posed: h.InformationPenalty(epochs=EPOCHS, gamma=1.5),
    "prune": patches,
}
"""By the name on the page."""
CONTROLS = ("null_start",)
"""Of which nothing is proven, whatever the mechanism that it runs."""


@dataclass(frozen=True)
class Forgot:
    """What an unlearner made of a request.

    Args:
        way: the unlearner, with what it keeps of the training now.
        done: what it released.
        seconds: of processor time, from the request to the release.
        kept: bytes that it kept of the training, beside model and data; counted where the request is of canaries.
    """

    way: Any
    done: ex.Unlearned
    seconds: float
    kept: int


def forgotten(posed: Posed, name: str, folder: Path) -> Forgot:
    """Carry a request out; what is kept from the training is made before the clock starts.

    Args:
        posed: the request.
        name: of `WAYS`.
        folder: an empty one, for what is kept.

    Raises:
        ExpungeError: it is refused.
    """
    task = posed.task
    way, kept = chosen(WAYS[name](posed)), 0
    if keeps(way):
        traced = isinstance(way, ex.unlearners.Replaying)
        way = way.learn(task, task.retain + task.forget, Run(folder=folder if traced else None, seed=posed.run))
        if isinstance(posed, Coined):
            if not traced:
                way.learned.save(folder / "head.state")
            kept = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    done, seconds = _timed(way, task, posed.run)
    return Forgot(way, done, seconds, kept)


def keeps(way: Any) -> bool:
    """Whether an unlearner keeps something of the training for requests: it goes on from that, not from the network."""
    return getattr(way, "keeps", False)


def one_more(posed: Posed, forgot: Forgot) -> float | None:
    """Seconds of a second request, for a single retained row; None where nothing is kept, since they are those of the first."""
    if not keeps(forgot.way):
        return None
    rows = posed.task.retain
    task = replace(posed.task, retain=rows.take(range(1, len(rows))), forget=rows.take([0]))
    return _timed(forgot.way, task, posed.run + 1)[1]


def _timed(way: Any, task: ex.Task, seed: int) -> tuple[ex.Unlearned, float]:
    begun = time.process_time()
    done = way.forget(task, BUDGET, ex.accounting.Relation.RETRAINED, Run(seed=seed))
    return done, time.process_time() - begun
