"""Audits of the unlearners that keep the model, on the demo's digits, and of two heads that forget too little.

    python benchmarks/digits_audits.py --json benchmarks/results/digits_audits.json

Exact head, convex head at a true (1, 1e-5), replay: every attack that applies, as `expunge audit --recovery-lr 0.4` makes
them. Of the exact head also the bits that rounding leaves, on the demo's features and with each row divided by its norm.
"""

import argparse
import json
import time
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from environment import environment
from rich.console import Console
from rich.table import Table

import expunge as ex
from expunge.attacks import HeadArena, audit_task, head_membership
from expunge.attacks.heads import bits, exact
from expunge.attacks.on_features import head_arena
from expunge.audit import Finding
from expunge.jobs.digits_task import RECIPE, digits
from expunge.unlearners.recalled import Procedure
from expunge.unlearners.table import recalled

DELTA, RIDGE, LEFT = 1e-5, 1.0, 5
RUNS = 128


def mechanisms(provenance: str) -> dict[str, ex.accounting.Mechanism]:
    """By name."""

    def convex(noise_std: float) -> ex.accounting.MeasuredResidual:
        return ex.accounting.MeasuredResidual(
            residual=1e-9, strong_convexity=1e-4, noise_std=noise_std, provenance=provenance
        )

    return {
        "exact head": ex.accounting.GridRidge(ridge=RIDGE, grid=2.0**-12, rounding=1e-9, provenance=provenance),
        "convex head": ex.accounting.calibrate(convex, ex.Budget(epsilon=1.0, delta=DELTA)),
        "replay": ex.accounting.Replay(),
    }


def nothing(_head: ex.heads.AnalyticHead, _own: ex.Examples) -> None:
    """A head that forgets nothing."""


def all_but_five(head: ex.heads.AnalyticHead, own: ex.Examples) -> None:
    """A head that keeps five of the rows it should forget."""
    rest = own.take(range(LEFT, len(own)))
    head.forget(*rest.tensors, ids=rest.ids)


def row(
    name: str, of: ex.accounting.Mechanism, findings: tuple[Finding, ...], details: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """One line of the result."""
    claim = ex.accounting.guarantee(of, delta=DELTA)
    return {
        "unlearner": name, "mechanism": repr(of), "epsilon": claim.epsilon, "mu": claim.mu,
        "refuted_by": [f.attack for f in findings if f.refutes(claim)],
        "findings": [f.to_dict() for f in findings], "details": details, "seconds": round(seconds, 1),
    }  # fmt: skip


def normalised(arena: HeadArena) -> HeadArena:
    """With each row divided by its norm."""
    parts = {}
    for name in ("retain", "candidates", "population"):
        x, y = getattr(arena, name).tensors
        parts[name] = ex.Examples(x / x.norm(dim=1, keepdim=True), y, ids=getattr(arena, name).ids)
    return replace(arena, **parts)


def audited() -> dict[str, Any]:
    """All three, then the faulty heads, then the bits."""
    task, rows = digits(), []
    for name, of in mechanisms(task.declared).items():
        begun = time.perf_counter()
        way = recalled(of, Procedure(recipe=RECIPE)).unlearner
        found = audit_task(task, way, of, delta=DELTA, procedure=Procedure(recipe=RECIPE))
        rows.append(row(name, of, found.findings, dict(found.details), time.perf_counter() - begun))
    arena, of = head_arena(task, runs=RUNS, seed=0), mechanisms(task.declared)["exact head"]
    for name, forget in {"forgets nothing": nothing, "forgets all but five rows": all_but_five}.items():
        begun = time.perf_counter()
        seen = head_membership(arena, exact(arena, ridge=RIDGE, forget=forget), delta=DELTA)
        rows.append(row(f"exact head, {name}", of, seen.findings, seen.details, time.perf_counter() - begun))
    left = {"demo's features": bits(arena, ridge=RIDGE), "unit rows": bits(normalised(arena), ridge=RIDGE)}
    return {"data": "digits", "delta": DELTA, "rows": rows, "bits": left}


def show(result: dict[str, Any]) -> None:
    """The tables."""
    table = Table(
        "unlearner",
        "claims ε",
        "two worlds: ε ≥",
        "membership: ε ≥ (could show)",
        "AUC (null)",
        "canaries: ε ≥",
        "refuted",
        "seconds",
    )
    for r in result["rows"]:
        best = {kind: strongest(r, kind) for kind in ("two worlds", "membership", "canaries")}
        inside = r["details"].get("membership", r["details"])
        aucs = [
            (v["attack"]["auc"], v["null"]["auc"]) for v in inside.values() if isinstance(v, dict) and "attack" in v
        ]
        most = max(aucs, default=None)
        auc = "" if most is None else f"{most[0]:.3f} ({most[1]:.3f})"
        table.add_row(
            r["unlearner"], f"{r['epsilon']:.3g}", best["two worlds"], best["membership"], auc, best["canaries"],
            "yes" if r["refuted_by"] else "no", f"{r['seconds']:g}",
        )  # fmt: skip
    Console(width=150).print(table)
    for rows, kinds in result["bits"].items():
        for kind in ("float64", "grid"):
            left = kinds[kind]
            Console().print(
                f"bits, {rows}, {kind}: {left['differ']:.1%} differ by up to {left['largest']:.2g} (bound {left['error_bound']:.2g})"
            )


def strongest(r: dict[str, Any], kind: str) -> str:
    """The largest bound of a kind of attack, and what it could have shown."""
    found = [f for f in r["findings"] if f["attack"].startswith(kind)]
    if not found:
        return ""
    epsilon, ceiling = max([number(f["bounds"][name]) for name in ("epsilon", "ceiling")] for f in found)
    return f"{epsilon:.3f} ({ceiling:.2f})"


def number(value: float | str) -> float:
    """Of a bound."""
    return inf if value == "infinite" else float(value)


def main() -> None:
    """Run, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    result = audited()
    if arguments.json:
        result |= environment()
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result)


if __name__ == "__main__":
    main()
