"""Tables of docs/leaderboard.md, and the same as CSV and JSON, from the results that are there."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compared.sets import SETS

from expunge.report.curves import interval
from leaders.requests import REQUESTS
from leaders.ways import WAYS

__all__ = ["COLUMNS", "rows_of", "write_page"]

DOCS = Path(__file__).parents[2] / "docs"
START, END = "<!-- tables: benchmarks/leaderboard.py -->", "<!-- end of tables -->"
COLUMNS = {
    "accuracy on test": ("test, %", 100.0, 1), "accuracy on forget": ("forgotten, %", 100.0, 1),
    "accuracy on retain": ("retained, %", 100.0, 1), "true label on forget": ("true label, %", 100.0, 1),
    "membership": ("AUC", 1.0, 3), "information": ("I, nats", 1.0, 4), "relearning": ("relearning, epochs", 1.0, 1),
}  # fmt: skip
"""Of what is measured: the heading, the factor, the digits."""
Row = dict[str, Any]


def rows_of(results: Path) -> list[Row]:
    """One row an unlearner and request: kind, mean and half-width of every number over the seeds."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        runs.setdefault((found["set"], found["request"]), []).append(found)
    order = [(name, kind) for name in SETS for kind in REQUESTS if (name, kind) in runs]
    return [row for key in order for row in _rows(*key, runs[key])]


def _rows(name: str, kind: str, runs: list[Row]) -> Iterator[Row]:
    for way in WAYS:
        seen = [r["unlearners"][way] for r in runs if way in r["unlearners"]]
        ran = [one for one in seen if "refused" not in one]
        if not seen:
            continue
        row: Row = {"set": name, "request": kind, "unlearner": way, "seeds": len(ran)}
        if not ran:
            yield row | {"kind": "", "refused": seen[0]["refused"]}
            continue
        row |= {
            "kind": ran[0]["kind"],
            "epsilon": ran[0]["epsilon"],
            "seconds": interval([one["seconds"] for one in ran]),
        }
        for measure in COLUMNS:
            values = [one["measured"][measure] for one in ran if one["measured"].get(measure) is not None]
            row[measure] = interval(values) if values else None
        yield row


def write_page(results: Path, docs: Path = DOCS) -> None:
    """Write the tables between the markers of `leaderboard.md`, `leaderboard.csv` and `leaderboard.json`."""
    rows = rows_of(results)
    if not rows:
        return
    page = docs / "leaderboard.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(_tables(rows))
    page.write_text(f"{before}{START}\n\n{tables}\n\n{END}{after}", encoding="utf-8")
    (docs / "leaderboard.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    with (docs / "leaderboard.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            [
                "set",
                "request",
                "unlearner",
                "kind",
                "epsilon",
                "seeds",
                "seconds",
                *COLUMNS,
                *(f"{c}, ±" for c in COLUMNS),
            ]
        )
        for row in rows:
            values = [row.get(c) for c in COLUMNS]
            means, halves = ([("" if v is None else v[k]) for v in values] for k in (0, 1))
            seconds = "" if "seconds" not in row else row["seconds"][0]
            told = [
                row["set"],
                row["request"],
                row["unlearner"],
                row["kind"],
                row.get("epsilon") or "",
                row["seeds"],
                seconds,
            ]
            writer.writerow([*told, *means, *halves])


def _tables(rows: list[Row]) -> Iterator[str]:
    for name in SETS:
        own = [row for row in rows if row["set"] == name]
        if own:
            yield f"### {name}"
        for kind in REQUESTS:
            part = [row for row in own if row["request"] == kind]
            if part:
                yield _table(kind, part)


def _table(kind: str, rows: list[Row]) -> str:
    columns = [c for c in COLUMNS if any(row.get(c) for row in rows)]
    head = ["unlearner", "kind", *(COLUMNS[c][0] for c in columns), "s"]
    lines = [f"**{kind}**, {max(row['seeds'] for row in rows)} seeds\n", _line(head), _line(["---"] * len(head))]
    for row in rows:
        if "refused" in row:
            lines.append(
                _line([row["unlearner"], "refused", row["refused"].replace("|", "\\|"), *[""] * (len(head) - 3)])
            )
            continue
        told = [_told(row.get(c), *COLUMNS[c][1:], spread=kind != "one row") for c in columns]
        proven = f"ε = {row['epsilon']:.3g}" if row["kind"] == "epsilon_delta" else row["kind"]
        lines.append(_line([row["unlearner"], proven, *told, f"{row['seconds'][0]:.2g}"]))
    return "\n".join(lines)


def _told(value: Any, factor: float, digits: int, *, spread: bool) -> str:
    """Mean and interval; of a single row the mean of three coins says all there is."""
    if value is None:
        return ""
    mean, half = (factor * part for part in value)
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if half and spread else f"{mean:.{digits}f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
