"""The report's plots, as SVG text (matplotlib, imported late)."""

import io
from collections.abc import Mapping, Sequence
from math import isfinite, log10
from typing import Any

from expunge.accounting import Mechanism, Relation
from expunge.audit import Finding
from expunge.report.curves import Comparison, interval

__all__ = ["accuracy_curves", "audit_bounds", "privacy_profile", "roc_curves", "world_histograms"]

_COLOURS = ("#0b6e99", "#b8500c", "#4b7a1f", "#6b6b6b", "#8a3ffc", "#c2185b")
_DASHES = ("-", "--", ":", "-.")


def _look(place: int) -> dict[str, str]:
    """Colour and dashes of the curve, attack or loss at this place: each its own, up to twenty-four."""
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": _DASHES[place // len(_COLOURS) % len(_DASHES)]}


def accuracy_curves(comparison: Comparison) -> str:
    """Held-out accuracy over epochs of recovery, mean and 95 % interval over seeds."""
    figure, axes = _figure(height=3.6 + 0.1 * len(comparison.curves))
    for place, curve in enumerate(comparison.curves):
        points = [interval(column) for column in zip(*curve.held_out, strict=True)]
        means = [mean for mean, _ in points]
        look = _look(place)
        # A curve that does not move, or was measured once, is a point that a line would not show.
        axes.plot(curve.epochs, means, **look, label=curve.label, linewidth=1.8, marker="o", markersize=3)
        low, high = zip(*((mean - half, mean + half) for mean, half in points), strict=True)
        axes.fill_between(curve.epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 1.02))  # intervals of few seeds are wider than accuracies can be
    axes.set_xlabel("epochs of training on the retained data")
    axes.set_ylabel("accuracy on held-out data")
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2, handlelength=4)
    return _svg(figure, "accuracy-curves")


def privacy_profile(mechanism: Mechanism, *, epsilon: float, delta: float) -> str:
    """δ over ε, both relations, with the claimed point."""
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


def audit_bounds(findings: Sequence[Finding], *, claimed: float | None) -> str:
    """What every attack shows, what it could show at most, its null, and the ε that is claimed, where one is."""
    figure, axes = _figure(height=0.9 + 0.28 * len(findings))
    places = range(len(findings), 0, -1)
    # Bars end where the plot does: a joint audit could show hundreds, beside which a claim of 1 would not be seen.
    shown = max(3 * (claimed or 0.0), 1.5 * max(f.epsilon for f in findings), 6.0)
    most = 1.1 * min(shown, max([claimed or 0.0, *(f.ceiling if isfinite(f.ceiling) else shown for f in findings)]))
    most = most or 1.0  # nothing is claimed and nothing could be shown
    for place, found in zip(places, findings, strict=True):
        end = min(found.ceiling, most)
        axes.plot([0, end], [place, place], color="#ddd", linewidth=5, solid_capstyle="butt")
        if found.ceiling > most:  # an arrow, and no end: what it could show lies beyond, or has no limit
            axes.plot([most], [place], ">", color="#999", markersize=7, clip_on=False)
            says = "no limit" if not isfinite(found.ceiling) else f"to {found.ceiling:.3g}"
            axes.annotate(says, (most, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=7)
        exceeds = claimed is not None and found.epsilon > claimed
        axes.plot([found.epsilon], [place], "o", color=_COLOURS[1] if exceeds else _COLOURS[0])
        if found.null_epsilon is not None:
            axes.plot([found.null_epsilon], [place], "x", color="#555", markersize=5)
    axes.set_xlim(-0.02 * most, most)
    if claimed is not None:
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
    for place, (name, held) in enumerate(shown.items()):
        look = _look(place)
        axes.plot(*held["attack"]["roc"], **look, linewidth=1.6, label=f"{name}: AUC {held['attack']['auc']:.3f}")
        axes.plot(*held["null"]["roc"], **look, linewidth=0.7, alpha=0.7)
    axes.plot([1e-4, 1], [1e-4, 1], ":", color="#555")
    least = min(point for held in shown.values() for point in held["attack"]["roc"][0] if point > 0)
    axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.1))
    axes.set_xlabel("false positive rate (thin: the null, retrained models)")
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
    """Names of curves, attacks and losses are the users': a dollar is a dollar in them, and no formula begins there."""
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        for text in legend.get_texts() if legend else []:
            text.set_parse_math(False)
    for axes in figure.axes:
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label]
        named = [tick for axis in (axes.xaxis, axes.yaxis) if _is_named(axis) for tick in axis.get_ticklabels()]
        for text in (*texts, *named):
            text.set_parse_math(False)


def _is_named(axis: Any) -> bool:
    """Whether the ticks were given names, and are no numbers, whose powers of ten are formulas."""
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    return isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter)
