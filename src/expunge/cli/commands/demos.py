"""Commands for a first look."""

import shlex
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from expunge._files import write_new
from expunge.cli.application import Argument, Option
from expunge.cli.parameters import Delta, Epsilon, Json, budget_of
from expunge.cli.tables import print_demo, print_json
from expunge.cli.terminal import say

__all__ = ["Starter", "demo", "init"]


class Starter(StrEnum):
    """What the data of a new task file are."""

    VISION = "vision"
    TABULAR = "tabular"
    DICT = "dict"


def init(
    out: Annotated[Path, Argument(help="The file to write, which ends in .py.")] = Path("task.py"),
    kind: Annotated[Starter, Option(help="The data: pictures, a table, or batches that are dicts.")] = Starter.VISION,
) -> None:
    """Write a commented task file that runs as it stands. Needs no torch."""
    if out.suffix != ".py":
        raise ValueError(f"out must end in .py, not be {str(out)!r}")
    write_new(out, (files("expunge.cli.starters") / f"{kind}.py").read_bytes())
    named = shlex.quote(f"{out}:task")
    say(f"wrote {out}; it runs as it stands. Next:")
    say(f"  expunge plan {named}", f"  expunge unlearn {named} --out unlearned", whole=True)


def demo(
    out: Annotated[Path, Option(help="The folder to make.")] = Path("demo"),
    seeds: Annotated[int, Option(help="Runs of each method.")] = 5,
    epochs: Annotated[int, Option(help="Epochs of recovery.")] = 5,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    as_json: Json = False,
) -> None:
    """Forget a tenth of scikit-learn's digits with every method; certify, verify, compare, report."""
    from expunge.jobs.demos import run_demo

    comparison, rows, control = run_demo(out, budget_of(epsilon, delta), seeds=seeds, epochs=epochs)
    if as_json:
        print_json(comparison.to_dict())
    else:
        print_demo(comparison.title, rows, control, out, spread=seeds > 1)
