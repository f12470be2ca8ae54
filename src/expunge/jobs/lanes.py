"""One door to all lanes, for `unlearn` and for a plan that is carried out."""

from pathlib import Path
from typing import Any, cast

from expunge.accounting import Budget, Relation, Replay, Retrain
from expunge.jobs.heads import run_head
from expunge.jobs.networks import run_task
from expunge.jobs.options import HEADS, Settings, refuse_options
from expunge.jobs.replays import run_replay
from expunge.recovery import Recipe

__all__ = ["run_lane"]


def run_lane(
    where: str,
    out: Path,
    lane: str,
    budget: Budget,
    settings: Settings,
    *,
    relation: Relation = Relation.RETRAINED,
    resume: bool = False,
) -> dict[str, Any]:
    """Take a task through a lane to a verified certificate in a new folder; returns a summary.

    Args:
        where: see `load_task`.
        out: the folder to make.
        lane: one of `expunge.jobs.options.LANES`.
        budget: what the certificate is to meet.
        settings: of all lanes.
        relation: the reading that a noisy mechanism is calibrated to.
        resume: go on where an interrupted call stopped.

    Raises:
        ValueError: an unknown lane, a setting that it takes none of, or no `trace` where it needs one.
        ExpungeError, TypeError: see `run_task`, `run_head`, `run_replay`.
    """
    settings.refuse_foreign(lane)
    refuse_options(lane, [] if relation is Relation.RETRAINED else ["relation"])
    if lane in HEADS:
        return run_head(where, out, lane, budget, settings, resume=resume)
    if lane == Replay.name:
        return run_replay(where, out, budget, trace=cast("Path", settings.trace), resume=resume)
    recipe = Recipe(
        optimizer=cast("Any", settings.optimizer), learning_rate=settings.recovery_lr, batch_size=settings.batch_size
    )
    return run_task(
        where, out, Retrain() if lane == Retrain.name else settings.noisy.calibrated(lane, budget, relation), budget,
        relation=relation, epochs=settings.epochs, recipe=recipe, rescale=settings.rescale, resume=resume,
    )  # fmt: skip
