"""The report's plots, as SVG text (matplotlib, imported late)."""

import io
from collections.abc import Mapping, Sequence
from math import isfinite, log10
from typing import Any

from expunge.accounting import Kind, Mechanism, Relation
from expunge.audit import Finding
from expunge.report.curves import Comparison, interval

__all__ = ["accuracy_curves", "audit_bounds", "privacy_profile", "roc_curves", "world_histograms"]

_COLOURS = ("#0b6e99", "#b8500c", "#5b8c2a", "#7a7a7a", "#8a3ffc", "#c2185b")


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
    if mechanism.kind in (Kind.EXACT, Kind.NONE):
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


def audit_bounds(findings: Sequence[Finding], *, claimed: float) -> str:
    """What every attack shows, what it could show at most, its null, and the claim."""
    figure, axes = _figure(height=0.9 + 0.28 * len(findings))
    places = range(len(findings), 0, -1)
    # Bars end where the plot does: a joint audit could show hundreds, beside which a claim of 1 would not be seen.
    shown = max(3 * claimed, 1.5 * max(f.epsilon for f in findings), 6.0)
    most = min(shown, max([claimed, *(f.ceiling for f in findings if isfinite(f.ceiling))]))
    for place, found in zip(places, findings, strict=True):
        axes.plot([0, min(found.ceiling, most * 1.1)], [place, place], color="#ddd", linewidth=5, solid_capstyle="butt")
        axes.plot([found.epsilon], [place], "o", color=_COLOURS[1] if found.epsilon > claimed else _COLOURS[0])
        if found.null_epsilon is not None:
            axes.plot([found.null_epsilon], [place], "x", color="#555", markersize=5)
    axes.axvline(claimed, color="#111", linewidth=1.2)
    axes.set_yticks(list(places), [f.attack for f in findings], fontsize=8)
    axes.set_xlabel("ε")
    return _svg(figure, "audit-bounds")


def world_histograms(worlds: Mapping[str, Any]) -> str:
    """Outputs of the two worlds, one panel a loss."""
    shown = {name: held for name, held in worlds.items() if isinstance(held, dict) and "edges" in held}
    if not shown:
        return ""
    figure, panels = _figure(columns=len(shown), height=2.4)
    for axes, (name, held) in zip(panels if len(shown) > 1 else [panels], shown.items(), strict=True):
        for world, colour in (("p", _COLOURS[0]), ("q", _COLOURS[1])):
            axes.stairs(held[world], held["edges"], color=colour, label=f"world {world.upper()}", fill=True, alpha=0.4)
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("weight at the end", fontsize=8)
        axes.tick_params(labelsize=7)
    (panels[0] if len(shown) > 1 else panels).legend(frameon=False, fontsize=7)
    return _svg(figure, "world-histograms")


def roc_curves(attacks: Mapping[str, Any]) -> str:
    """Membership attacks on logarithmic axes, their nulls dashed."""
    shown = {name: held for name, held in attacks.items() if isinstance(held, dict) and "attack" in held}
    if not shown:
        return ""
    figure, axes = _figure()
    for colour, (name, held) in zip(_COLOURS, shown.items(), strict=False):
        axes.plot(*held["attack"]["roc"], color=colour, linewidth=1.6, label=f"{name}: AUC {held['attack']['auc']:.3f}")
        axes.plot(*held["null"]["roc"], "--", color=colour, linewidth=0.8)
    axes.plot([1e-4, 1], [1e-4, 1], ":", color="#555")
    least = min(point for held in shown.values() for point in held["attack"]["roc"][0] if point > 0)
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.1))
    axes.set_xlabel("false positive rate (dashed: the null, retrained models)")
    axes.set_ylabel("true positive rate")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure, "roc-curves")


def _figure(*, columns: int = 1, height: float = 3.6) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, height), layout="constrained")
    panels: Any = figure.subplots(1, columns)
    for axes in panels if columns > 1 else [panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    return figure, panels


def _svg(figure: Any, salt: str) -> str:
    import matplotlib as mpl

    _take_names_as_they_are(figure)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _take_names_as_they_are(figure: Any) -> None:
    """Names of lanes, attacks and losses are the users': a dollar is a dollar in them, and no formula begins there."""
    for axes in figure.axes:
        legend = axes.get_legend()
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *(legend.get_texts() if legend else [])]
        named = [tick for axis in (axes.xaxis, axes.yaxis) if _is_named(axis) for tick in axis.get_ticklabels()]
        for text in (*texts, *named):
            text.set_parse_math(False)


def _is_named(axis: Any) -> bool:
    """Whether the ticks were given names, and are no numbers, whose powers of ten are formulas."""
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    return isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter)
