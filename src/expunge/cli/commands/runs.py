"""Commands that unlearn: compare the ways, take one."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

import expunge as ex
from expunge.cli.application import Typed
from expunge.cli.parameters import Delta, Epsilon, InRelation, Json, TaskName, budget_of
from expunge.cli.tables import print_json, print_plan, print_summary
from expunge.cli.terminal import say
from expunge.errors import OutputError, RunError
from expunge.jobs.options import refuse_extreme
from expunge.unlearners.options import NAMES, OPTIONS, Options

__all__ = ["plan", "unlearn"]


def unlearn(
    task: TaskName,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    options: Annotated[Any, Options],
    typed: Typed,
    mechanism: Annotated[str, typer.Option(help=f"One of: {', '.join(NAMES)}.")] = "gradient_clipping",
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.Relation.RETRAINED,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted call stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Unlearn, recover, certify; writes certificate, weights and report into a new folder, keys into OUT.secret."""
    budget, given = budget_of(epsilon, delta), _given(options, typed)
    from expunge.jobs.unlearning import run_unlearner
    from expunge.unlearners.table import made

    summary = run_unlearner(task, out, made(mechanism, given), budget, relation=relation, resume=resume)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)


def plan(
    task: TaskName,
    options: Annotated[Any, Options],
    typed: Typed,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    training_epochs: Annotated[float, typer.Option(help="Retraining: epochs.")] = 30,
    run: Annotated[bool, typer.Option("--run", help="Take the recommended way; needs --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder to make, with --run.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the ways to carry out a task's request before anything is run: guarantee, cost, what they read."""
    refuse_extreme(training_epochs=training_epochs)
    if run and out is None:
        raise ValueError("out is not given: --run needs --out, the folder to make")
    if out is not None and not run:
        raise ValueError(f"out={out} is of use with --run alone: without it nothing is written")
    if out is not None and os.path.lexists(out):
        raise OutputError(f"{out} exists already and is not overwritten; choose another name or remove it")
    budget, given = budget_of(epsilon, delta), _given(options, typed)
    from expunge.jobs.planner import plan as compared
    from expunge.jobs.unlearning import run_unlearner
    from expunge.training.task import load_task
    from expunge.unlearners.table import options as taken

    own = {name: {one: value for one, value in given.items() if one in taken(name)} for name in NAMES}
    own[ex.Retrain.name]["epochs"] = training_epochs
    found = compared(load_task(task), None, budget, unlearners=[_made(name, own[name]) for name in NAMES])
    if not as_json:
        print_plan(found)
        if not run and found.recommended is not None:
            say(_unlearn_command(task, found.name, budget, own[found.name]), whole=True)
    if not run:
        if as_json:
            print_json(found.to_dict())
        return
    if found.recommended is None:
        raise RunError(f"nothing is run: {found.reason}")
    summary = run_unlearner(task, cast("Path", out), found.recommended, budget)
    if as_json:
        print_json(found.to_dict() | {"run": summary})
    else:
        print_summary(summary)


def _given(options: Any, typed: frozenset[str]) -> dict[str, Any]:
    """The options that were typed, by name."""
    given = {name: getattr(options, name) for name in OPTIONS if name in typed}
    refuse_extreme(**given)
    return given


def _made(name: str, given: dict[str, Any]) -> Any:
    from expunge.unlearners.table import made

    return made(name, given)


def _unlearn_command(task: str, name: str, budget: ex.Budget, given: Mapping[str, Any]) -> str:
    """The call that takes this way with these options."""
    asked = {
        name: value
        for name, value, default in (("epsilon", budget.epsilon, 1.0), ("delta", budget.delta, 1e-5))
        if value != default
    }
    words = ["expunge", "unlearn", task, "--mechanism", name]
    for one, value in (asked | dict(given)).items():
        option = one.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return shlex.join([*words, "--out", "unlearned"])
