"""Markdown of both pages."""

from pathlib import Path
from typing import Any

__all__ = ["END", "START", "between", "line", "proven", "told"]

START, END = "<!-- tables: benchmarks/leaderboard.py -->", "<!-- end of tables -->"


def between(page: Path, tables: str) -> None:
    """Put tables between the markers of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{START}\n\n{tables}\n\n{END}{after}", encoding="utf-8")


def line(cells: list[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cells) + " |"


def proven(row: dict[str, Any]) -> str:
    """What is proven: ε where there is one, else the kind."""
    return f"ε = {row['epsilon']:.3g}" if row["kind"] == "epsilon_delta" else row["kind"]


def told(value: Any, factor: float, digits: int, *, spread: bool = True) -> str:
    """Mean and interval; of a single row the mean of three coins says all there is."""
    if value is None:
        return ""
    mean, half = (factor * part for part in value)
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if half and spread else f"{mean:.{digits}f}"
