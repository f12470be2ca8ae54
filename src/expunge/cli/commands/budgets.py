"""Commands about budgets, before any run. They need no torch."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

import expunge as ex
from expunge.cli.application import Typed
from expunge.cli.parameters import Delta, Epsilon, InRelation, Json, budget_of
from expunge.cli.tables import fields_of, print_calibrated, print_json
from expunge.jobs.options import FAMILIES, Noisy, calibrated

__all__ = ["calibrate"]


def calibrate(
    noisy: Annotated[Any, Noisy],
    typed: Typed,
    mechanism: Annotated[str, typer.Option(help=f"One of: {', '.join(FAMILIES)}.")] = "gradient_clipping",
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.Relation.RETRAINED,
    interval: Annotated[
        bool, typer.Option(help="Also a proved lower bound: what an adversary attains. Seconds for many steps.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The least noise that meets a budget. Needs no torch."""
    given = {name: value for name, value in vars(noisy).items() if name in typed}
    found = calibrated(mechanism, given, budget_of(epsilon, delta), relation)
    proven = [ex.guarantee(found, delta=delta, relation=r) for r in ex.Relation]
    lower = {r: ex.interval(found, delta=delta, relation=r, tolerance=1e-4)[0] for r in ex.Relation if interval}
    if as_json:
        guarantees = [asdict(p) | ({"epsilon_lower": lower[p.relation]} if interval else {}) for p in proven]
        print_json({"mechanism": {"name": found.name} | fields_of(found), "guarantees": guarantees})
        return
    print_calibrated(found, proven, lower)
