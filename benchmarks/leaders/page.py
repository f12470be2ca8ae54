"""Tables of docs/leaderboard.md, and of all requests as CSV and JSON, from the results that are there."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.audit import JointGuesses
from expunge.report.curves import interval
from leaders.canaries import write_canaries
from leaders.measures import CONFIDENCE
from leaders.requests import REQUESTS
from leaders.sets import BUDGET, SETS
from leaders.tables import between, line, proven, told
from leaders.ways import WAYS

__all__ = ["COLUMNS", "MODELS", "rows_of", "write_pages"]

DOCS = Path(__file__).parents[2] / "docs"
COLUMNS = {
    "accuracy on test": ("test, %", 100.0, 1), "accuracy on forget": ("forgotten, %", 100.0, 1),
    "accuracy on retain": ("retained, %", 100.0, 1), "true label on forget": ("true label, %", 100.0, 1),
    "membership": ("AUC", 1.0, 3), "information": ("I, nats", 1.0, 4), "relearning": ("relearning, epochs", 1.0, 1),
}  # fmt: skip
"""Of what is measured: the heading, the factor, the digits."""
COINED = ("canary AUC", "canary bound", "two worlds", "kept, bytes", "one row, s")
"""Of the canaries alone."""
MODELS = ("KLOM", "challenge score", "U-LiRA")
"""Of many models, each with its null value."""
Row = dict[str, Any]


def rows_of(results: Path) -> list[Row]:
    """One row an unlearner and request: kind, mean and half-width of every number over the seeds, and what many models give."""
    runs, many = _read(results), _read(results / "models")
    order = [(name, kind) for name in SETS for kind in REQUESTS if (name, kind) in runs or (name, kind) in many]
    return [row for key in order for row in _rows(*key, runs.get(key, []), many.get(key, []))]


def _read(folder: Path) -> dict[tuple[str, str], list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for path in sorted(folder.glob("*.json")):
        one = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault((one["set"], one["request"]), []).append(one)
    return found


def _rows(name: str, kind: str, runs: list[Row], many: list[Row]) -> Iterator[Row]:
    for way in WAYS:
        seen = [r["unlearners"][way] for r in runs if way in r["unlearners"]]
        ran = [one for one in seen if "refused" not in one]
        models = [r | r["unlearners"][way] for r in many if "KLOM" in r["unlearners"].get(way, {})]
        if not seen and not models:
            continue
        row: Row = {"set": name, "request": kind, "unlearner": way, "seeds": len(ran)}
        if models:
            row["models"] = {key: models[0][key] for key in ("models", "seconds", *MODELS)}
        yield row | (_measured(ran) if ran else {"kind": "", "refused": seen[0]["refused"]} if seen else {"kind": ""})


def _measured(ran: list[Row]) -> Row:
    row: Row = {
        "kind": ran[0]["kind"],
        "epsilon": ran[0]["epsilon"],
        "seconds": interval([one["seconds"] for one in ran]),
    }
    for measure in COLUMNS:
        values = [one["measured"][measure] for one in ran if one["measured"].get(measure) is not None]
        row[measure] = interval(values) if values else None
    return row | (_coined(ran) if all("guessing" in one for one in ran) else {})


def _coined(ran: list[Row]) -> Row:
    """ε at least is that of the strongest of the seeds' releases, which pays for their number."""
    each = [JointGuesses(**one["guessing"]["joint"]) for one in ran]
    bounds = [replace(e, share=e.share / len(ran)).epsilon(delta=BUDGET.delta, confidence=CONFIDENCE) for e in each]
    once = [one["one row"] for one in ran if one["one row"] is not None]
    return {
        "canary AUC": interval([one["guessing"]["auc"] for one in ran]), "canary bound": max(bounds),
        "two worlds": ran[0]["worlds"], "kept, bytes": ran[0]["kept"], "one row, s": min(once) if once else None,
    }  # fmt: skip


def write_pages(results: Path, docs: Path = DOCS) -> None:
    """Write the tables between the markers of both pages, the figure of the canaries, `leaderboard.csv` and `leaderboard.json`."""
    rows = rows_of(results)
    if not rows:
        return
    between(docs / "leaderboard.md", "\n\n".join(_tables([row for row in rows if row["request"] != "canaries"])))
    write_canaries([row for row in rows if row["request"] == "canaries"], results, docs)
    (docs / "leaderboard.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with (docs / "leaderboard.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        own = ("set", "request", "unlearner", "kind", "epsilon", "seeds", "seconds")
        nulls = [f"{m}{end}" for m in MODELS for end in ("", ", null")]
        writer.writerow([*own, *COLUMNS, *(f"{c}, ±" for c in COLUMNS), *COINED, "models", *nulls])
        writer.writerows(_cells(row, own) for row in rows)


def _cells(row: Row, own: tuple[str, ...]) -> Iterator[Any]:
    def one(value: Any, part: int = 0) -> Any:
        value = value[part] if isinstance(value, list | tuple) else value
        return "" if value is None else value

    yield from (one(row.get(c)) if c != "epsilon" else row.get(c) or "" for c in own)
    yield from (one(row.get(c), part) for part in (0, 1) for c in COLUMNS)
    yield from (one(row.get(c)) for c in COINED)
    many = row.get("models")
    yield many["models"] if many else ""
    yield from (many[m][part] if many else "" for m in MODELS for part in ("value", "null"))


def _tables(rows: list[Row]) -> Iterator[str]:
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        if own:
            yield f"### {name}"
        for kind in REQUESTS:
            part = [row for row in own if row["request"] == kind]
            if any(row["seeds"] for row in part):
                yield _table(kind, [row for row in part if row["seeds"] or "refused" in row])
            many = [row for row in part if "models" in row]
            if many:
                yield _many(kind, many)


def _table(kind: str, rows: list[Row]) -> str:
    columns = [c for c in COLUMNS if any(row.get(c) for row in rows)]
    head = ["unlearner", "kind", *(COLUMNS[c][0] for c in columns), "s"]
    lines = [f"**{kind}**, {max(row['seeds'] for row in rows)} seeds\n", line(head), line(["---"] * len(head))]
    for row in rows:
        if "refused" in row:
            lines.append(
                line([row["unlearner"], "refused", row["refused"].replace("|", "\\|"), *[""] * (len(head) - 3)])
            )
            continue
        cells = [told(row.get(c), *COLUMNS[c][1:], spread=kind != "one row") for c in columns]
        lines.append(line([row["unlearner"], proven(row), *cells, f"{row['seconds'][0]:.2g}"]))
    return "\n".join(lines)


def _many(kind: str, rows: list[Row]) -> str:
    """What takes many models."""
    count = rows[0]["models"]["models"]
    head = ["unlearner", *(part for m in MODELS for part in (m, "null")), "s a model"]
    lines = [f"**{kind}, {count} models of every unlearner**\n", line(head), line(["---"] * len(head))]
    for row in rows:
        many = row["models"]
        cells = [f"{many[m][part]:.3f}" for m in MODELS for part in ("value", "null")]
        lines.append(line([row["unlearner"], *cells, f"{many['seconds'] / count:.2g}"]))
    return "\n".join(lines)
