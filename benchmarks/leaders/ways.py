"""Every unlearner of the library, with the settings that the leaderboard runs; none was tuned on a set or request of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from compared.sets import NOISY, RADIUS, STEPS, Setting

import expunge as ex
from expunge.unlearners import heuristics as h
from leaders.requests import Posed

__all__ = ["WAYS"]

EPOCHS = 5  # of recovery, and of every heuristic that trains on the retained rows
MOST_PATCHED = 2_000  # rows: a linear program for each


def nothing(_posed: Posed) -> Any:
    """The trained model as it is."""
    return lambda _model, _retain, _forget: None


def retraining(posed: Posed) -> Any:
    """For as long as the original."""
    return _retraining(posed.setting, posed.setting.epochs)


def retraining_shortly(posed: Posed) -> Any:
    """For as many steps as the noisy unlearners take."""
    s = posed.setting
    return _retraining(s, EPOCHS + STEPS * s.recipe.batch_size / len(posed.task.retain))


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
    x, rows = posed.train.tensors[0], len(posed.task.forget)
    if rows > MOST_PATCHED:
        raise ex.errors.TaskError(f"not run: {rows:,} rows, a linear program for each; at most {MOST_PATCHED:,} here")
    return h.Patching(lowest=float(x.min().floor()), highest=float(x.max().ceil()))


def exact_head(_posed: Posed) -> Any:
    """The exact head on wide random features."""
    return ex.unlearners.ExactHead(ridge=1.0)


_STEPS: dict[str, Any] = {"init_clip": RADIUS, "steps": STEPS, "learning_rate": 0.01, **NOISY}
WAYS: dict[str, Callable[[Posed], Any]] = {
    "nothing": nothing,
    "retrain": retraining,
    "retrain_shortly": retraining_shortly,
    "grid_ridge": exact_head,
    "gradient_clipping": noisy(ex.unlearners.GradientClipping, **_STEPS),
    "gradient_clipping after neggrad_plus": noisy(
        ex.unlearners.GradientClipping, **_STEPS, start=h.NegGradPlus(epochs=1, batch_size=128)
    ),
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
