"""Table and figure of docs/performance.md, from the results that are there."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib.figure import Figure

from performance import GPU, GROUPS

__all__ = ["write"]

START, END = "<!-- table: benchmarks/performance -->", "<!-- end of table -->"
_HEAD = "| work | before | now | peer | ratio | limit | target |\n| --- | --- | --- | --- | --- | --- | --- |"
_REACHED, _MISSED = "#009e73", "#d55e00"


def write(results: Path, docs: Path) -> None:
    """Write the table between the markers of `performance.md`, and draw the figure."""
    found = [json.loads(path.read_text("utf-8")) for g in (*GROUPS, GPU) if (path := results / f"{g}.json").exists()]
    rows = [row for one in found for row in one["rows"]]
    page = docs / "performance.md"
    before, _, rest = page.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    reached = sum(row["reached"] for row in rows)
    told = f"{reached} of {len(rows)} targets reached."
    lines = "\n".join([_HEAD, *(_line(row) for row in rows)])
    notes = "\n".join(f"- {row['work']}: {row['note']}" for row in rows if row["note"])
    ran = sorted({_ran(one["environment"]) for one in found})
    parts = (told, lines, notes, "Measured with " + "; ".join(ran) + ".")
    page.write_text(f"{before}{START}\n\n" + "\n\n".join(p for p in parts if p) + f"\n\n{END}{after}", encoding="utf-8")
    _draw(rows, docs / "performance.svg")


def _line(row: dict[str, Any]) -> str:
    peer = "–" if row["peer"] is None else f"{_number(row['peer'])} {row['unit']}, {row['peer_is']}"
    ratio = "–" if row["peer"] is None else f"{_number(row['ours'] / row['peer'])} ×"
    limit = "–" if row["limit"] is None else f"{_number(row['limit'])} {row['unit']}, {row['limit_is']}"
    target = f"{row['target']:g} {'×' if row['ratio'] else row['unit']}"
    mark = "reached" if row["reached"] else "**not reached**"
    now = f"{_number(row['ours'])} {row['unit']}"
    return f"| {row['work']} | {row['before']} | {now} | {peer} | {ratio} | {limit} | {target}, {mark} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ran(environment: dict[str, Any]) -> str:
    names = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    return f"{names}, {environment['cores']} cores of {environment['processor']}"


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One bar a row: what was reached over its target, on a logarithmic axis; left of 1 is better than the target."""
    with mpl.rc_context({"svg.hashsalt": path.name, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 0.6 + 0.28 * len(rows)), layout="constrained")
        axes = figure.subplots()
        shares = [row["judged"] / row["target"] for row in rows]
        colors = [_REACHED if row["reached"] else _MISSED for row in rows]
        axes.barh(range(len(rows)), [share - 1 for share in shares], left=1, color=colors)
        axes.set_xscale("log")
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [row["work"] for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("reached over target; left of 1 is better than asked")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
