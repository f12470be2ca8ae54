"""Commands that unlearn: compare the ways, take one."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

import expunge as ex
from expunge.certificate.commitments import read_ids
from expunge.cli.application import Option, Typed
from expunge.cli.parameters import (
    Delta,
    Epsilon,
    Ids,
    InRelation,
    Json,
    RecoveryName,
    Settings,
    Start,
    TaskName,
    budget_of,
)
from expunge.cli.tables import print_json, print_plan, print_summary
from expunge.cli.terminal import say
from expunge.errors import OutputError, RunError
from expunge.jobs.options import refuse_extreme
from expunge.unlearners.options import HEURISTICS, NAMES, OPTIONS, Options

__all__ = ["plan", "unlearn"]


@dataclass(frozen=True)
class Around:
    """What was given to stand before and after the mechanism of a noisy unlearner."""

    start: str | None = None
    settings: tuple[str, ...] = ()
    recovery: str | None = None

    @property
    def given(self) -> bool:
        """Whether anything was."""
        return self.start is not None or self.recovery is not None

    def of(self, way: Any) -> Any:
        """A noisy unlearner with both; any other as it is."""
        from expunge.recovery.loading import load_recovery
        from expunge.unlearners.noisy import Noisy
        from expunge.unlearners.table import heuristic

        if not (self.given and isinstance(way, Noisy)):
            return way
        return replace(
            way,
            start=None if self.start is None else heuristic(self.start, self.settings),
            recovery=None if self.recovery is None else load_recovery(self.recovery),
        )

    @property
    def words(self) -> list[str]:
        """As they are typed."""
        options = {"--start": [self.start], "--set": self.settings, "--recovery": [self.recovery]}
        return [word for name, values in options.items() for value in values if value for word in (name, value)]


def unlearn(
    task: TaskName,
    out: Annotated[Path, Option(help="The folder to make.")],
    options: Annotated[Any, Options],
    typed: Typed,
    unlearner: Annotated[
        str | None,
        Option(
            help=f"One of: {', '.join(NAMES)}. By default what `plan` recommends. Or a heuristic, of which nothing is proven: "
            f"{', '.join(HEURISTICS)}."
        ),
    ] = None,
    start: Start = None,
    settings: Settings = (),
    recovery: RecoveryName = None,
    mechanism: Annotated[str | None, Option(hidden=True, help="--unlearner, by its name of before.")] = None,
    ids: Ids = None,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.accounting.Relation.RETRAINED,
    resume: Annotated[bool, Option(help="Go on where an interrupted call stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Unlearn, recover, certify; writes certificate, weights and report into a new folder, keys into OUT.secret."""
    budget, given = budget_of(epsilon, delta), _given(options, typed)
    from expunge.jobs.folder import refuse_existing
    from expunge.jobs.unlearning import run_unlearner

    refuse_existing(out)
    request = _request(ids)
    if mechanism is not None and unlearner is not None:
        raise ValueError(
            "mechanism and unlearner are both given: leave --mechanism out, which is --unlearner by its name of before"
        )
    name = mechanism if unlearner is None else unlearner
    if name is None and (resume or start is not None or settings or recovery is not None):
        which = "resume" if resume else "start" if start is not None else "set" if settings else "recovery"
        raise ValueError(f"unlearner is not given: --{which} needs --unlearner")
    if name is None:
        found = _compared(task, request, budget, relation, given)
        if found.recommended is None:
            raise RunError(f"nothing is run: {found.reason}")
        if not as_json:
            say(f"Taking {found.name}. {found.reason}.")
        _named(found.name, given)  # an option that it takes none of would do nothing
        taken = found.recommended
    else:
        taken = _named(name, given, Around(start, settings, recovery))
        if name in HEURISTICS:
            _refuse_budget(name, typed)
    summary = run_unlearner(task, out, taken, budget, request=request, relation=relation, resume=resume)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)


def plan(
    task: TaskName,
    options: Annotated[Any, Options],
    typed: Typed,
    ids: Ids = None,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    training_epochs: Annotated[
        float | None, Option(help="Retraining: epochs; by default those that the task's training took.")
    ] = None,
    also: Annotated[
        tuple[str, ...],
        Option(("--also",), help=f"A heuristic to show beside the others; may be repeated: {', '.join(HEURISTICS)}."),
    ] = (),
    start: Start = None,
    settings: Settings = (),
    recovery: RecoveryName = None,
    run: Annotated[bool, Option(("--run",), help="Take the recommended way; needs --out.")] = False,
    out: Annotated[Path | None, Option(help="The folder to make, with --run.")] = None,
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
    request = _request(ids)
    if settings and start is None:
        raise ValueError(f"set={settings[0]} is an option of the heuristic of --start, which was not given")
    around = Around(start, settings, recovery)
    found = _compared(task, request, budget, ex.accounting.Relation.RETRAINED, given, training_epochs, also, around)
    if not as_json:
        from expunge.unlearners.table import made

        print_plan(found)
        if not run and found.recommended is not None:
            own = _own(found.name, given, training_epochs)
            taken = made(found.name, own)
            words = [] if around.of(taken) is taken else around.words
            say(_unlearn_command(task, ids, found.name, budget, own, words), whole=True)
    if not run:
        if as_json:
            print_json(found.to_dict())
        return
    if found.recommended is None:
        raise RunError(f"nothing is run: {found.reason}")
    from expunge.jobs.unlearning import run_unlearner

    summary = run_unlearner(task, cast("Path", out), found.recommended, budget, request=request)
    if as_json:
        print_json(found.to_dict() | {"run": summary})
    else:
        print_summary(summary)


def _given(options: Any, typed: frozenset[str]) -> dict[str, Any]:
    """The options that were typed, by name."""
    given = {name: getattr(options, name) for name in OPTIONS if name in typed}
    refuse_extreme(**given)
    return given


def _named(
    name: str,
    given: dict[str, Any],
    around: Around = Around(),
) -> Any:
    """The unlearner of a name with its options; a heuristic is that of `--unlearner` or that of `--start`, and has those of `--set`."""
    from expunge.unlearners.table import heuristic, made

    if name in HEURISTICS and not around.given and not given:
        return heuristic(name, around.settings)
    if around.settings and around.start is None and name not in HEURISTICS:
        raise ValueError(f"set={around.settings[0]} is an option of a heuristic, and {name!r} is none: leave it out")
    taken = made(name, given)
    told = around.of(taken)
    if around.given and told is taken:
        which = "start" if around.start is not None else "recovery"
        raise ValueError(
            f"unlearner {name!r} takes no --{which}, which was given and would do nothing: noisy unlearners do"
        )
    return told


def _refuse_budget(name: str, typed: frozenset[str]) -> None:
    for one in ("epsilon", "delta", "relation"):
        if one in typed:
            raise ValueError(
                f"{one} was given and would do nothing: no (epsilon, delta) is proven of {name!r}, whatever is asked"
            )


def _request(ids: Path | None) -> Any:
    """What leaves, where a file of ids names it; None where the task's own forget set does."""
    return None if ids is None else ex.Request.rows(read_ids(ids))


def _own(name: str, given: Mapping[str, Any], training_epochs: float | None = None) -> dict[str, Any]:
    """Those of the given options that an unlearner takes; how long a new model is trained is an option of its own in a plan."""
    from expunge.unlearners.capabilities import Fresh
    from expunge.unlearners.table import made
    from expunge.unlearners.table import options as taken

    own = {one: value for one, value in given.items() if one in taken(name)}
    if training_epochs is not None and isinstance(made(name, own), Fresh):
        own["epochs"] = training_epochs
    return own


def _compared(
    task: str,
    request: Any,
    budget: ex.Budget,
    relation: ex.accounting.Relation,
    given: Mapping[str, Any],
    epochs: float | None = None,
    also: tuple[str, ...] = (),
    around: Around = Around(),
) -> Any:
    """The plan of a task file's request over all unlearners of the table, and some heuristics beside them."""
    from expunge.jobs.planner import plan as compared
    from expunge.training.task import load_task
    from expunge.unlearners.table import heuristic, made

    ways = [*(around.of(made(name, _own(name, given, epochs))) for name in NAMES), *map(heuristic, also)]
    return compared(load_task(task, request), None, budget, unlearners=ways, relation=relation)


def _unlearn_command(
    task: str, ids: Path | None, name: str, budget: ex.Budget, given: Mapping[str, Any], around: list[str]
) -> str:
    """The call that takes this way with these options."""
    asked = {
        name: value
        for name, value, default in (("epsilon", budget.epsilon, 1.0), ("delta", budget.delta, 1e-5))
        if value != default
    }
    words = ["expunge", "unlearn", task, *([] if ids is None else ["--ids", str(ids)]), "--unlearner", name]
    for one, value in (asked | dict(given)).items():
        option = one.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return shlex.join([*words, *around, "--out", "unlearned"])
