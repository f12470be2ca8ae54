"""The report's plots, as SVG text (matplotlib, imported late)."""

import io
from math import log10
from typing import Any

from expunge.accounting import Kind, Mechanism, Relation
from expunge.report.curves import Comparison, interval

__all__ = ["accuracy_curves", "privacy_profile"]

_COLOURS = ("#0b6e99", "#b8500c", "#5b8c2a", "#7a7a7a", "#8a3ffc")


def accuracy_curves(comparison: Comparison) -> str:
    """Held-out accuracy over epochs of recovery, mean and 95 % interval over seeds."""
    figure, axes = _figure()
    for colour, lane in zip(_COLOURS, comparison.lanes, strict=False):
        columns = list(zip(*lane.held_out, strict=True))
        points = [interval(column) for column in columns]
        means, halves = [m for m, _ in points], [h for _, h in points]
        epochs = range(len(points))
        style = "--" if lane.name in ("null_start", "retrain") else "-"
        axes.plot(epochs, means, style, color=colour, label=lane.label, linewidth=1.8)
        low, high = zip(*((m - h, m + h) for m, h in zip(means, halves, strict=True)), strict=True)
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("epochs of training on the retained data")
    axes.set_ylabel("accuracy on held-out data")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return _svg(figure, "accuracy-curves")


def privacy_profile(mechanism: Mechanism, *, epsilon: float, delta: float) -> str:
    """δ over ε, both relations, with the claimed point."""
    if mechanism.kind is Kind.EXACT:
        return ""
    figure, axes = _figure()
    most = max(2.0, 2.5 * epsilon)
    grid = [most * k / 100 for k in range(101)]
    for relation, colour in zip(Relation, _COLOURS, strict=False):
        logs = [mechanism.log_delta(e, relation) / 2.302585092994046 for e in grid]
        axes.plot(grid, logs, color=colour, label=f"relation '{relation}'", linewidth=1.8)
    axes.plot([epsilon], [log10(delta)], "o", color="#111", label="claimed")
    axes.set_ylim(max(-40.0, 3 * log10(delta)), 0.5)
    axes.set_xlabel("ε")
    axes.set_ylabel("log₁₀ δ (upper bound)")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "privacy-profile")


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes: Any = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    return figure, axes


def _svg(figure: Any, salt: str) -> str:
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
