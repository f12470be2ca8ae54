"""What commands print: tables, sentences about results, JSON."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, cast

from expunge.accounting import Bound, Budget, Claim, EpsilonDeltaClaim, ExactClaim, Kind, Mechanism, Relation, Remaining
from expunge.certificate import Certificate, Verdict
from expunge.cli.terminal import console, say

__all__ = [
    "fields_of",
    "print_audited",
    "print_calibrated",
    "print_composed",
    "print_demo",
    "print_json",
    "print_plan",
    "print_summary",
    "print_verified",
]


def print_json(content: Mapping[str, Any]) -> None:
    """Print JSON, in ASCII: an escape of JSON's own is the one that every reader undoes."""
    print(json.dumps(content, indent=2))


def fields_of(mechanism: Mechanism) -> dict[str, Any]:
    """A mechanism's fields and their values."""
    return asdict(cast("Any", mechanism))


def print_calibrated(found: Mechanism, proven: Sequence[Claim], lower: Mapping[Relation, float]) -> None:
    """A mechanism's fields and what they prove; `lower` holds proved lower bounds, where they were asked for."""
    rows = [_Row((name, f"{value:.9g}")) for name, value in fields_of(found).items()]
    for p in proven:
        bound = f"{p.epsilon:.6f} at delta={p.delta:g} (mu={p.mu:.6f})" if isinstance(p, Bound) else "nothing is proven"
        rows.append(_Row((f"epsilon ({p.relation})", bound)))
        if p.relation in lower:
            rows.append(_Row(("  proved lower", f"{lower[p.relation]:.6f}")))
    _print_table(("field", "value"), rows, title=found.name)


def print_composed(
    releases: Sequence[tuple[str, str, float]],
    together: Bound,
    budget: Budget | None,
    left: Remaining | None,
    *,
    limits: Sequence[str],
    assumed: Sequence[str],
) -> None:
    """What releases prove together, what they leave of a budget, and what is assumed.

    Args:
        releases: certificate, mechanism and ε of each alone.
        together: all of them.
        budget: what was asked of all together; None where nothing was.
        left: of the budget.
        limits: forget sets to which releases are limited, where they are.
        assumed: sentences.
    """
    rows = [_Row((path, name, f"{epsilon:.6g}")) for path, name, epsilon in releases]
    _print_table(("certificate", "mechanism", "epsilon alone"), rows, title=f"releases: {len(rows)}")
    numbers = f"epsilon={together.epsilon:.6g} at delta={together.delta:g}, relation '{together.relation}'"
    say(f"Together they prove {'exact' if isinstance(together, ExactClaim) else numbers}.")
    say(*(f"They speak of {limit} only." for limit in limits))
    if budget is not None and left is not None:
        asked = f"the budget (epsilon={budget.epsilon:g}, delta={budget.delta:g})"
        if not together.meets(budget):
            say(f"They exceed {asked}.", style="red")
        elif left.retrain:
            say(f"Nothing is left of {asked}: serve the next request by retraining, which starts a new account.")
        else:
            say(f"Left of {asked}: one more release of at most epsilon={left.epsilon:.6g} (mu={left.mu:.6g}).")
    say("Assumed, as no certificate shows it:", *(f"- {sentence}" for sentence in assumed))


def print_verified(certificate: Certificate, found: Verdict, *, weights: bool, untested: str | None) -> None:
    """What `verify` found: the claim, the verdict in plain words, warnings, and an audit that tested nothing."""
    claim = certificate.claim
    what = "claim and weights" if weights else "claim only: give --weights to compare the weights"
    say(f"verified ({what})", style="green")
    if isinstance(claim, EpsilonDeltaClaim):
        say(f"{claim.kind}: epsilon={claim.epsilon:.6g}, delta={claim.delta:g}, relation '{claim.relation}'")
    else:
        others = {Kind.EXACT: "exact", Kind.BEHAVIOURAL: "behavioural: answers on stated inputs, and no law"}
        say(others.get(claim.kind, f"{claim.kind}: nothing is proven"))
    say(found.headline, found.meaning, *found.checks)
    for text in found.warnings:
        say(f"Warning: {text}", style="yellow")
    say(certificate.content["claim"]["proves"])
    if untested is not None:
        say(f"{untested}.", style="red")


def print_summary(summary: Mapping[str, Any]) -> None:
    """What a job made: accuracies, the claim, where secrets lie, what is to be deleted."""
    rows = [
        _Row((name, *(_share(summary["accuracy"][name].get(part)) for part in ("held_out", "forget"))))
        for name in ("original", "released")
    ]
    _print_table(("accuracy", "held out", "forgotten data"), rows)
    proven = summary["kind"]
    if proven == "epsilon_delta":
        proven = f"epsilon={summary['epsilon']:.6g} at delta={summary['delta']:g}, relation '{summary['relation']}'"
    say(f"{proven}; see {summary['folder']}/report.html")
    say(f"Keys, and the state of a head, are in {summary['secret']}: do not publish them.")
    say(*summary["told"])


def _share(value: float | None) -> str:
    return "none given" if value is None else f"{value:.3f}"


def print_plan(found: Any) -> None:
    """The ways beside one another, why each applies or not, and the one to take."""
    rows: list[_Row] = []
    for q in found.quotes:
        seconds = "" if q.seconds is None else f"{q.seconds:.3g}{' *' if q.assumed else ''}"
        noise = "" if q.noise_to_weight is None else f"{q.noise_to_weight:.3g}"
        told = (q.guarantee, str(q.steps), seconds, noise) if q.costed else ("no",)
        style = "bold green" if q.unlearner == found.name else None if q.applies and q.keeps else "dim"
        rows.append(_Row((q.unlearner, *told), style))
    _print_table(("unlearner", "guarantee", "steps", "seconds", "noise / weights"), rows)
    say(*found.why)
    say(f"Recommended: {found.name}. {found.reason}.")


def print_audited(found: Any, out: Path) -> None:
    """An audit's findings, what was left out, and whether the claim stands."""
    done, refuted = found.audit, found.refuting
    rows: list[_Row] = []
    for f in done.findings:
        told = (
            f"{f.epsilon:.3f}",
            "" if f.null_epsilon is None else f"{f.null_epsilon:.3f}",
            "no limit" if f.ceiling == math.inf else f"{f.ceiling:.2f}",
            f"{f.confidence:.4g}",
        )
        rows.append(_Row((f.attack, *told), "red" if f in refuted else None))
    if rows:
        names = ("attack", "epsilon at least", "null", "could show", "confidence")
        _print_table(names, rows, title="lower bounds on epsilon")
    say(*(f"left out, {name}: {reason}" for name, reason in done.left_out.items()))
    say(f"{found.verdict}. See {out}")


_NULL_START = "null start: "
"""How the label of a null start begins, see `expunge.jobs.comparison`."""


def print_demo(
    title: str, rows: Sequence[Mapping[str, Any]], control: Mapping[str, Any], out: Path, *, spread: bool
) -> None:
    """The demo's methods beside one another; `spread` where each ran more than once."""
    told: list[_Row] = []
    for row in rows:
        proven = f"eps={row['epsilon']:.3g}" if row["kind"] == "epsilon_delta" else row["kind"]
        measured = (row["held_out"], row["forget"])  # one run has no spread that is known
        shown = [f"{mean:.3f}±{half:.3f}" if spread else f"{mean:.3f}" for mean, half in measured]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.2g}"
        label = "  its null start" if row["label"].startswith(_NULL_START) else row["label"]
        told.append(_Row((label, proven, str(row["steps"]), seconds, *shown)))
    _print_table(("method", "guarantee", "steps", "sec", "held out", "forgotten"), told, title=title)
    verdict = "refuted" if control["refuted"] else "not refuted"
    say(
        f"Control: null start {control['null'][0]:.3f}, trained start {control['trained'][0]:.3f}; "
        f"a mean above {control['bound']:.3f} would refute the certificate: {verdict}.",
        f"All certificates verified. Open {out}/report.html",
    )


_LEAST = 8  # columns for names, on a terminal that is too narrow for a table


class _Row(NamedTuple):
    """Cells of a table, fewer than it has columns where the rest is empty; and a style of the terminal."""

    cells: tuple[str, ...]
    style: str | None = None


def _print_table(columns: Sequence[str], rows: Sequence[_Row], *, title: str | None = None) -> None:
    """A table whose names are never cut; where they leave the numbers no room they go on in the next line, as headings do."""
    from rich.cells import cell_len  # late: most commands print no table
    from rich.table import Column, Table

    cells = [[row.cells[k] for row in rows if k < len(row.cells)] for k in range(len(columns))]
    names, *least = (
        max(map(cell_len, (*column, *(heading.split() if k else (heading,)))))
        for k, (heading, column) in enumerate(zip(columns, cells, strict=True))
    )
    room = console().width - sum(least) - 3 * len(columns) - 1
    if names <= room:
        shaped = [Column(columns[0], no_wrap=True, min_width=names), *(Column(c, overflow="fold") for c in columns[1:])]
    else:
        widths = (max(room, _LEAST), *least)
        shaped = [Column(c, overflow="fold", width=width) for c, width in zip(columns, widths, strict=True)]
    table = Table(*shaped, title=title)
    for row in rows:
        table.add_row(*row.cells, style=row.style)
    console().print(table)
