"""Commands about budgets: what meets one, what several releases leave of it. They need no torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import expunge as ex
from expunge.accounting import Bound, Claim, numbers_of
from expunge.accounting.mechanisms.assumptions import ANY_FORGET_SET
from expunge.certificate.composition import ASSUMED
from expunge.cli.application import Argument, Option, Typed
from expunge.cli.parameters import Delta, Epsilon, InRelation, Json, budget_of
from expunge.cli.tables import fields_of, print_calibrated, print_composed, print_json
from expunge.exits import REFUSED
from expunge.jobs.options import FAMILIES, Noisy, calibrated, refuse_extreme

__all__ = ["calibrate", "compose"]


def calibrate(
    noisy: Annotated[Any, Noisy],
    typed: Typed,
    mechanism: Annotated[str, Option(help=f"One of: {', '.join(FAMILIES)}.")] = next(iter(FAMILIES)),
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.accounting.Relation.RETRAINED,
    interval: Annotated[
        bool, Option(help="Also a proved lower bound: what an adversary attains. Seconds for many steps.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The least noise that meets a budget. Needs no torch."""
    given = {name: value for name, value in vars(noisy).items() if name in typed}
    found = calibrated(mechanism, given, budget_of(epsilon, delta), relation)
    proven = [ex.accounting.guarantee(found, delta=delta, relation=r) for r in ex.accounting.Relation]
    lower = {
        r: ex.accounting.interval(found, delta=delta, relation=r, tolerance=1e-4)[0]
        for r in ex.accounting.Relation
        if interval
    }
    if as_json:
        guarantees = [_told(p) | ({"epsilon_lower": lower[p.relation]} if interval else {}) for p in proven]
        print_json({"mechanism": {"name": found.name} | fields_of(found), "guarantees": guarantees})
        return
    print_calibrated(found, proven, lower)


def compose(
    certificates: Annotated[list[Path], Argument(help="One of each release from the same original model.")],
    epsilon: Annotated[
        float | None, Option(help="Budget for all releases together: epsilon; says what is left of it.")
    ] = None,
    delta: Annotated[float, Option(help="Delta of the joint claim, and of the budget.")] = 1e-5,
    relation: InRelation = ex.accounting.Relation.RETRAINED,
    as_json: Json = False,
) -> None:
    """What several certificates prove together, and what is left of a budget.

    Exit code 1 where a certificate does not verify, or where all together exceed the budget.
    """
    refuse_extreme(delta=delta)
    budget = None if epsilon is None else budget_of(epsilon, delta)
    together = ex.certificate.compose(certificates, delta=delta, relation=relation)  # verifies each
    loaded = {str(path): ex.Certificate.load(path) for path in certificates}
    spent = [made.mechanism for made in loaded.values()]
    left = None if budget is None else ex.certificate.remaining(budget, spent, relation=relation)
    alone = {path: _alone(made, delta, relation) for path, made in loaded.items()}
    exceeded = budget is not None and not together.meets(budget)
    if as_json:
        releases = [
            {
                "certificate": path,
                "mechanism": made.mechanism.name,
                "epsilon": alone[path],
                "covers": _covers(made),
            }
            for path, made in loaded.items()
        ]
        told = {"releases": releases, "together": _told(together), "assumed": list(ASSUMED)}
        asked = None if budget is None else asdict(budget)
        print_json(told | {"budget": asked, "remaining": left and asdict(left), "exceeded": exceeded})
    else:
        rows = [(path, made.mechanism.name, alone[path]) for path, made in loaded.items()]
        limits = sorted({_covers(made) for made in loaded.values()} - {ANY_FORGET_SET})
        print_composed(rows, together, budget, left, limits=limits, assumed=ASSUMED)
    if exceeded:
        raise SystemExit(REFUSED)


def _alone(certificate: ex.Certificate, delta: float, relation: ex.accounting.Relation) -> float:
    """The ε of one release."""
    claim = ex.accounting.guarantee(certificate.mechanism, delta=delta, relation=relation)
    assert isinstance(claim, Bound)  # `compose` has refused the others
    return claim.epsilon


def _told(claim: Claim) -> dict[str, Any]:
    """A claim, JSON-ready."""
    return {"kind": str(claim.kind), **numbers_of(claim), **asdict(claim)}


def _covers(certificate: ex.Certificate) -> str:
    """The forget sets of which a certificate speaks."""
    return certificate.mechanism.covers.format(**fields_of(certificate.mechanism))
