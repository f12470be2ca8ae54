"""Commands for a first look."""

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.parameters import Delta, Epsilon, Json, budget_of
from expunge.cli.tables import print_demo, print_json

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(help="Runs of each method.")] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs of recovery.")] = 5,
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
