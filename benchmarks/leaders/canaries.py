"""Tables and figure of docs/comparison.md: the request of canaries."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from leaders.sets import SETS
from leaders.tables import between, line, proven, told
from leaders.ways import CONTROLS, WAYS

__all__ = ["write_canaries"]

HEAD = (
    "unlearner", "guarantee", "test, %", "forgotten, %", "retained, %", "canaries' true label, %", "relearning, epochs", "s",
    "one row, s", "kept, MB", "guessing: ε ≥", "AUC", "two worlds: ε ≥",
)  # fmt: skip
ACCURACIES = ("accuracy on test", "accuracy on forget", "accuracy on retain", "true label on forget")
COLOURS = {
    "untouched": ("#cc79a7", "*"), "null start (control)": ("#999999", "x"), "heads": ("#0072b2", "o"),
    "retraining, replay": ("#222222", "s"), "noise": ("#d55e00", "v"), "heuristics": ("#009e73", "+"),
}  # fmt: skip
Row = dict[str, Any]


def write_canaries(rows: list[Row], results: Path, docs: Path) -> None:
    """Write the tables between the markers of `comparison.md`, and draw the figure."""
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    if not names:
        return
    own = {name: [row for row in rows if row["set"] == name] for name in names}
    between(docs / "comparison.md", "\n\n".join(_table(name, own[name], results) for name in names))
    _draw(own, docs / "comparison.svg")


def _table(name: str, rows: list[Row], results: Path) -> str:
    words = f"{name} canaries".lower().replace(" ", "-")
    first = json.loads(min(results.glob(f"{words}-*.json")).read_text(encoding="utf-8"))
    sizes, setting = first["sizes"], SETS[name]
    weights = sum(p.numel() for p in setting.make_model().parameters())
    lines = [
        f"### {name}\n\n{sizes['retain']:,} rows stay, about {sizes['forget']:,} are forgotten; network of {weights:,} weights, "
        f"{setting.epochs} epochs; {max(row['seeds'] for row in rows)} seeds.\n",
        line(list(HEAD)),
        line(["---"] * len(HEAD)),
    ]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(row: Row) -> str:
    if "refused" in row:
        return line([row["unlearner"], "refused", row["refused"].replace("|", "\\|"), *[""] * (len(HEAD) - 3)])
    accuracies = [told(row[c], 100.0, 1) for c in ACCURACIES]
    single, worlds = ("" if row[c] is None else f"{row[c]:.2g}" for c in ("one row, s", "two worlds"))
    kept = f"{row['kept, bytes'] / 1e6:.3g}" if row["kept, bytes"] else "0"
    seen = [f"{row['canary bound']:.2f}", told(row["canary AUC"], 1.0, 3)]
    return line(
        [
            row["unlearner"], proven(row), *accuracies, told(row["relearning"], 1.0, 1), f"{row['seconds'][0]:.2g}", single, kept,
            *seen, worlds,
        ]
    )  # fmt: skip


def _group(row: Row) -> str:
    name = row["unlearner"]
    if name == "nothing":
        return "untouched"
    if name in CONTROLS:
        return "null start (control)"
    if name in ("grid_ridge", "measured_residual"):
        return "heads"
    return {"exact": "retraining, replay", "epsilon_delta": "noise"}.get(row["kind"], "heuristics")


def _draw(own: dict[str, list[Row]], path: Path) -> None:
    """Test accuracy against seconds, a panel a data set."""
    mpl.rcParams["svg.hashsalt"] = "expunge"
    figure, axes = plt.subplots(1, len(own), figsize=(max(3.2 * len(own), 6.4), 3.6), squeeze=False)
    for axis, (name, rows) in zip(axes[0], own.items(), strict=True):
        ran = [row for row in sorted(rows, key=lambda row: list(WAYS).index(row["unlearner"])) if row["seeds"]]
        for label, (colour, marker) in COLOURS.items():
            points = [(row["seconds"][0], 100 * row["accuracy on test"][0]) for row in ran if _group(row) == label] or [
                (float("nan"), float("nan"))
            ]
            axis.scatter(*zip(*points, strict=True), color=colour, marker=marker, s=36, label=label, alpha=0.85)
        axis.set_xscale("log")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("seconds from request to model")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.13, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
