"""A comparison as files: numbers for machines, a table and a plot for people."""

import json
import os
from pathlib import Path

from expunge._files import write_new
from expunge.report.curves import Comparison
from expunge.report.plots import accuracy_curves

__all__ = ["save_comparison"]


def save_comparison(comparison: Comparison, folder: str | os.PathLike[str]) -> None:
    """Write `comparison.json`, `.csv`, `.txt` (the table) and `.svg` (accuracy by epoch) into a new folder.

    Raises:
        OutputError: something is there already or cannot be written.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_new(place / "comparison.json", (json.dumps(comparison.to_dict(), indent=1) + "\n").encode())
    write_new(place / "comparison.csv", comparison.to_csv().encode())
    write_new(place / "comparison.txt", f"{comparison}\n".encode())
    write_new(place / "comparison.svg", accuracy_curves(comparison).encode())
