"""Commands that unlearn: compare the lanes, take one."""

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

import expunge as ex
from expunge.cli.application import Typed
from expunge.cli.parameters import Delta, Epsilon, InRelation, Json, TaskName, budget_of
from expunge.cli.tables import print_json, print_plan, print_summary
from expunge.cli.terminal import say
from expunge.errors import OutputError, RunError
from expunge.jobs.options import COMPARED, FAMILIES, HEADS, LANES, Settings, refuse_extreme, refuse_options

__all__ = ["plan", "unlearn"]


def unlearn(
    task: TaskName,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    settings: Settings,
    typed: Typed,
    mechanism: Annotated[str, typer.Option(help=f"One of: {', '.join(LANES)}.")] = "gradient_clipping",
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.Relation.RETRAINED,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted call stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Unlearn, recover, certify; writes certificate, weights and report into a new folder, keys into OUT.secret."""
    settings.refuse_foreign(mechanism, typed)
    budget = budget_of(epsilon, delta)
    from expunge.jobs.lanes import run_lane

    summary = run_lane(task, out, mechanism, budget, settings, relation=relation, resume=resume)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)


def plan(
    task: TaskName,
    settings: Settings,
    typed: Typed,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    training_epochs: Annotated[float, typer.Option(help="Retraining: epochs.")] = 30,
    run: Annotated[bool, typer.Option("--run", help="Take the recommended lane; needs --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder to make, with --run.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the lanes for a task's forget set before anything is run: guarantee, cost, what they read."""
    refuse_extreme(training_epochs=training_epochs)
    if run and out is None:
        raise ValueError("out is not given: --run needs --out, the folder to make")
    if out is not None and not run:
        raise ValueError(f"out={out} is of use with --run alone: without it nothing is written")
    if out is not None and os.path.lexists(out):
        raise OutputError(f"{out} exists already and is not overwritten; choose another name or remove it")
    budget = budget_of(epsilon, delta)
    noisy = {name: settings.noisy.calibrated(name, budget, ex.Relation.RETRAINED) for name in FAMILIES}
    from expunge.jobs.heads import load_head
    from expunge.jobs.lanes import run_lane
    from expunge.jobs.planner import plan as compare_lanes
    from expunge.jobs.replays import open_trace
    from expunge.training.task import load_task

    traced = None if settings.trace is None else open_trace(settings.trace)
    head = None if settings.head is None else load_head(settings.head)
    found = compare_lanes(
        load_task(task), budget, mechanisms=noisy, recipe=ex.Recipe(batch_size=settings.batch_size),
        recovery_epochs=settings.epochs, training_epochs=training_epochs, ridge=settings.ridge,
        grid=settings.grid, trace=traced if isinstance(traced, ex.Trace) else None,
        shards=traced if isinstance(traced, ex.Shards) else None, head=head,
    )  # fmt: skip
    lane, chosen = found.lane, settings.for_lane(found.lane)
    if lane == ex.Retrain.name:
        chosen = replace(chosen, epochs=training_epochs)
    if lane in HEADS and isinstance(head, ex.AnalyticHead) is not (lane == ex.ExactRidge.name):
        chosen = replace(chosen, head=None)  # a head of the other kind: this one is new
    if not as_json:
        print_plan(found)
        if not run and lane in LANES:
            say(_unlearn_command(task, lane, budget, chosen), whole=True)
    if lane in LANES:
        refuse_options(lane, typed, also=COMPARED)  # what the comparison read was of use
    if not run:
        if as_json:
            print_json(found.to_dict())
        return
    if lane not in LANES:
        raise RunError(f"nothing is run: {found.reason}")
    summary = run_lane(task, cast("Path", out), lane, budget, chosen)
    if as_json:
        print_json(found.to_dict() | {"run": summary})
    else:
        print_summary(summary)


def _unlearn_command(task: str, lane: str, budget: ex.Budget, settings: Settings) -> str:
    """The call that takes this lane with these settings."""
    asked = {
        name: value
        for name, value, default in (("epsilon", budget.epsilon, 1.0), ("delta", budget.delta, 1e-5))
        if value != default
    }
    words = ["expunge", "unlearn", task, "--mechanism", lane]
    for name, value in (asked | settings.changed()).items():
        option = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return shlex.join([*words, "--out", "unlearned"])
