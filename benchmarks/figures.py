"""Draws the figures of docs/accounting.md, every point computed by the code that certificates rest on.

    python benchmarks/figures.py                     # all, into docs/figures
    python benchmarks/figures.py --only noise_steps  # one of them, named once or more

No torch, no randomness: a rerun writes the same bytes. The proved lower bounds of two figures take most of the time.
"""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.progress import track

import expunge as ex
from expunge.accounting import gaussian, schedules
from expunge.accounting.search import smallest

DELTA = 1e-5
BUDGET = ex.Budget(epsilon=1.0, delta=DELTA)
C0, C1, ETA, DECAYS = 0.5, 1.0, 0.01, (0.0, 20.0)
# Okabe & Ito's palette, which survives the common colour blindnesses; labels stand beside the lines as well.
BLUE, RED, GREEN, GREY = "#0072B2", "#D55E00", "#007F5F", "#666666"
FOLDER = Path(__file__).parent.parent / "docs" / "figures"


def noise_steps() -> Figure:
    """Noise a step against steps: the paper's theorem, ours under both relations, and where no proof can exist."""
    figure, panels = _panels(2, sharey=True)
    mu = gaussian.mu(BUDGET.epsilon, DELTA)
    counts = _whole(np.geomspace(1, 1000, 80))
    few = [1, 2, 3, 5, 7, 10]
    for axes, decay in zip(panels, DECAYS, strict=True):
        path = schedules.path(
            distance=2 * C0, drift=[2 * ETA * C1] * 1000, decay=[ETA * decay] * 1000, noise_std=[1.0] * 1000
        )
        ends = path.distance / path.noise_std  # c_T / sqrt(S_T): no minimum over prefixes
        best = np.minimum.accumulate(ends)
        at = np.array(counts) - 1
        axes.plot(counts, 1.5 * sqrt(log(1 / DELTA)) / BUDGET.epsilon * ends[at], "--", color=GREY)
        axes.plot(counts, best[at] / mu, color=BLUE)
        axes.plot(counts, best[at] / mu / 2, color=GREEN)
        axes.plot(few, [_proved_lower(t, decay, best[t - 1] / mu) for t in few], "o", color=RED, markersize=3.5)
        _log(axes, "both")
        axes.set_title(f"λ = {decay:g}", fontsize=10)
        axes.set_xlabel("noisy steps T")
    panels[0].set_ylabel("noise σ of a step, weight units")
    panels[0].set_ylim(0.06, 9)
    _label(panels[0], "paper's theorem", (330, 2.6), GREY, ha="right")
    _label(panels[0], "ours, retrained", (950, 0.98), BLUE, ha="right", va="top")
    _label(panels[0], "ours, center", (950, 0.48), GREEN, ha="right", va="top")
    _label(panels[0], "● with less noise an adversary\n    breaks (1, 1e-5), retrained", (0.95, 0.1), RED)
    _label(panels[1], "paper's constant", (950, 0.35), GREY, ha="right", va="bottom")
    _label(panels[1], "ours, retrained", (950, 0.208), BLUE, ha="right", va="top")
    _label(panels[1], "ours, center", (950, 0.104), GREEN, ha="right", va="top")
    return figure


def claimed_true() -> Figure:
    """The ε that the published code of the paper prints, against the ε of its noise."""
    figure, (axes,) = _panels(1)
    rates = np.geomspace(0.05, 200, 120)
    axes.plot([_claimed(r) for r in rates], [_true(r) for r in rates], color=BLUE)
    axes.plot([0.05, 200], [0.05, 200], "--", color=GREY)
    for rate in (0.1, 1.0, 10.0, 100.0):
        claimed, true = _claimed(rate), _true(rate)
        axes.plot([claimed], [true], "o", color=BLUE, markersize=4.5)
        _label(
            axes,
            f"{claimed:.3f} is {true:.3g}" if true < 100 else f"{claimed:.3f} is {true:.1f}",
            (claimed * 0.88, true * 1.1),
            BLUE,
            ha="right",
            va="bottom",
        )
    _label(axes, "claimed = true", (12, 9.0), GREY, va="top")
    _log(axes, "both")
    axes.set_xlim(0.02, 260)
    axes.set_ylim(0.04, 400)
    axes.set_xlabel("ε claimed by the published code at δ = 1e-5")
    axes.set_ylabel("ε of its noise (T = 1: exact)")
    return figure


def interval() -> Figure:
    """[proved lower, proved upper] for ε as steps are added at one noise."""
    figure, panels = _panels(2, sharey=True)
    counts = [1, 2, 3, 5, 7, 10]
    noise = ex.accounting.calibrate(
        lambda s: _gradient_clipping(1, s, 0.0), ex.Budget(epsilon=4.0, delta=DELTA)
    ).noise_std
    for axes, decay in zip(panels, DECAYS, strict=True):
        ends = [
            ex.accounting.interval(_gradient_clipping(t, noise, decay), delta=DELTA, tolerance=1e-3) for t in counts
        ]
        lower, upper = zip(*ends, strict=True)
        axes.fill_between(counts, lower, upper, color=BLUE, alpha=0.18, linewidth=0)
        axes.plot(counts, upper, "o-", color=BLUE, markersize=3.5)
        axes.plot(counts, lower, "o-", color=RED, markersize=3.5)
        axes.set_title(f"λ = {decay:g}", fontsize=10)
        axes.set_xlabel(f"noisy steps T, each σ = {noise:.4g}")
        axes.set_ylim(0, 4.3)
    panels[0].set_ylabel("ε at δ = 1e-5")
    _label(panels[0], "proved upper: the certificate", (3.15, 2.45), BLUE, va="bottom")
    _label(panels[0], "proved lower: an adversary attains it", (2.6, 1.12), RED, va="top")
    return figure


def model_clipping() -> Figure:
    """Noise over radius that model clipping needs, which is also the least that any proof could ask."""
    figure, (axes,) = _panels(1)
    counts = _whole(np.geomspace(1, 1000, 60))
    axes.plot(counts, [_model_clipping(t).noise_std for t in counts], color=BLUE)
    alone = _model_clipping(1).noise_std
    axes.plot([1, 1000], [alone, alone], "--", color=GREY)
    for t in (1, 3, 10, 50, 300):
        noise = _model_clipping(t).noise_std
        axes.plot([t], [noise], "o", color=BLUE, markersize=4.5)
        if t > 1:
            _label(axes, f"{noise:#.3g}", (t * 1.06, noise * 1.06), BLUE)
    _label(axes, f"the last step alone: {alone:.2f}", (1000, alone * 1.05), GREY, ha="right")
    _label(axes, "all steps: the recursion, which is attained", (1.9, 4.1), BLUE)
    axes.annotate("", (1.62, 3.4), (1.88, 4.2), arrowprops={"arrowstyle": "-", "color": BLUE, "linewidth": 0.8})
    _log(axes, "both")
    axes.set_ylim(0.25, 11)
    axes.set_yticks([0.3, 0.5, 1, 2, 5, 10])
    axes.set_xlabel("noisy steps T")
    axes.set_ylabel("noise σ / C2 for (1, 1e-5)")
    return figure


def best_use() -> Figure:
    """The frontier: noise a step, and noise in the output, against steps."""
    figure, panels = _panels(2, sharey=True)
    for decay, colour in zip(DECAYS, (BLUE, RED), strict=True):
        settings = ex.accounting.frontier(
            init_clip=C0, grad_clip=C1, learning_rate=ETA, weight_decay=decay, budget=BUDGET, points=60
        )
        steps = [m.steps for m in settings]
        for axes, noise in zip(
            panels, ([m.noise_std for m in settings], [m.output_noise_std for m in settings]), strict=True
        ):
            axes.plot(steps, noise, "o-", color=colour, markersize=2.5)
    for axes, name in zip(panels, ("in each step", "in the output"), strict=True):
        _log(axes, "both")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("noisy steps T")
        axes.set_ylim(0.18, 11)
    panels[0].set_ylabel("noise σ for (1, 1e-5), weight units")
    _label(panels[0], "λ = 0", (6, 1.9), BLUE)
    _label(panels[0], "λ = 20", (3.3, 0.9), RED, ha="right", va="top")
    _label(panels[1], "λ = 0", (8, 4.9), BLUE, ha="right")
    _label(panels[1], "λ = 20", (3.3, 1.5), RED, ha="right", va="top")
    return figure


def composition() -> Figure:
    """Joint ε of several releases by model clipping, by three rules."""
    figure, (axes,) = _panels(1)
    counts = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32]
    one = _model_clipping(20)
    ours = [ex.certificate.compose([one] * n, delta=DELTA).epsilon for n in counts]
    summed = [n * ex.accounting.guarantee(one, delta=DELTA / n).epsilon for n in counts]
    by_mu = [gaussian.epsilon(sqrt(n) * one.mu(), DELTA) for n in counts]
    for values, colour, style in ((by_mu, GREY, "o--"), (summed, RED, "o-"), (ours, BLUE, "o-")):
        axes.plot(counts, values, style, color=colour, markersize=3.5)
    _label(axes, f"Gaussian parts of μ = {one.mu():.2f}", (3.2, 62), GREY, va="bottom", ha="right")
    _label(axes, "sum: n · ε at δ/n", (9, 14), RED, ha="right")
    _label(axes, "compose: chords of the profile", (9, 3.6), BLUE, va="top")
    _log(axes, "both")
    axes.set_xticks([1, 2, 4, 8, 16, 32])
    axes.set_xlabel("releases n, each (1, 1e-5) alone: model clipping, T = 20")
    axes.set_ylabel("joint ε at δ = 1e-5")
    return figure


def blockwise() -> Figure:
    """μ of four blocks in turn, with and without sight of the blocks to come, and of one ball."""
    figure, (axes,) = _panels(1)
    counts = _whole(np.geomspace(1, 300, 80))

    def blocks(steps: int, *, blind: bool) -> float:
        return ex.accounting.BlockwiseGradientClipping(
            block_sizes=(1,) * 4,
            block_clips=(C0 / 2,) * 4,
            grad_clip=C1,
            learning_rate=ETA,
            weight_decay=0.0,
            steps=steps,
            noise_std=1.0,
            blind=blind,
        ).mu()

    ball = [_gradient_clipping(t, 1.0, 0.0).mu() for t in counts]
    axes.plot(counts, [blocks(t, blind=False) for t in counts], color=RED)
    axes.plot(counts, [blocks(t, blind=True) for t in counts], color=BLUE)
    axes.plot(counts, ball, "--", color=GREY)
    _label(axes, "4 blocks, seeing the\nblocks to come", (140, 0.58), RED, ha="right", va="bottom")
    _label(axes, "4 blocks, blind", (300, 0.375), BLUE, ha="right", va="top")
    _label(axes, "one ball, T steps in all", (300, 0.27), GREY, ha="right", va="top")
    _log(axes, "both")
    axes.set_yticks([0.2, 0.3, 0.5, 1])
    axes.set_ylim(0.2, 1.15)
    axes.set_xlabel("noisy steps T of each block")
    axes.set_ylabel("μ at σ = 1 (retrained, λ = 0)")
    return figure


def dp_training() -> Figure:
    """ε of private training for groups: the mixture of Gaussians, and the lemma from single records."""
    figure, (axes,) = _panels(1)
    sizes = [1, 2, 4, 6, 8, 12]
    ours = [ex.accounting.guarantee(_dp_training(m), delta=DELTA).epsilon for m in sizes]
    lemma = [_by_lemma(m) for m in sizes]
    axes.plot(sizes, lemma, "o--", color=GREY, markersize=3.5)
    axes.plot(sizes, ours, "o-", color=BLUE, markersize=3.5)
    for m, value in zip(sizes, ours, strict=True):
        if m in (1, 4, 12):
            _label(axes, f"{value:.3g}", (m * 1.03, value * 0.9), BLUE, va="top")
    _label(axes, "lemma from single records", (6, 13), GREY, ha="right", va="bottom")
    _label(axes, "mixture of Gaussians", (6.6, 7), BLUE, va="top")
    _log(axes, "both")
    axes.set_xticks([1, 2, 4, 8, 12])
    axes.set_ylim(0.6, 40)
    axes.set_xlabel("group size m (q = 0.01, T = 1000, ν = 1.42)")
    axes.set_ylabel("ε at δ = 1e-5")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    f.__name__: f
    for f in (
        noise_steps,
        interval,
        claimed_true,
        model_clipping,
        best_use,
        composition,
        blockwise,
        dp_training,
    )
}


def _gradient_clipping(steps: int, noise_std: float, decay: float) -> ex.accounting.GradientClipping:
    return ex.accounting.GradientClipping(
        init_clip=C0, grad_clip=C1, learning_rate=ETA, weight_decay=decay, steps=steps, noise_std=noise_std
    )


def _model_clipping(steps: int) -> ex.accounting.ModelClipping:
    return ex.accounting.calibrate(
        lambda s: ex.accounting.ModelClipping(model_clip=1.0, learning_rate=0.1, steps=steps, noise_std=s), BUDGET
    )


def _dp_training(size: int) -> ex.accounting.DPTraining:
    return ex.accounting.DPTraining(
        sample_clip=1.0, noise_multiplier=1.42, sampling_rate=0.01, steps=1000, group_size=size
    )


def _by_lemma(size: int) -> float:
    """The least size · ε at which the group lemma, applied to the single record's profile, keeps δ."""
    one = _dp_training(1)

    def kept(epsilon: float) -> bool:
        delta = exp(max(one.log_delta(epsilon), log(1e-300)))
        return ex.accounting.group_epsilon_delta(epsilon, delta, size)[1] <= DELTA

    low, high = 0.5, 5.0
    while high > low * 1.001:
        middle = sqrt(low * high)
        low, high = (low, middle) if kept(middle) else (middle, high)
    return ex.accounting.group_epsilon_delta(high, DELTA / 2, size)[0]


def _proved_lower(steps: int, decay: float, enough: float) -> float:
    """The largest noise, to a thousandth and rounded down, at which an adversary on a line still has δ at ε."""

    def excess(noise_std: float) -> float:
        return _gradient_clipping(steps, noise_std, decay).log_delta_lower(BUDGET.epsilon) - log(DELTA)

    noise = smallest(excess, start=enough, tolerance=1e-3)
    while not excess(noise) >= 0:
        noise *= 1 - 1e-3
    return noise


def _claimed(rate: float) -> float:
    """The published rule: ε_R = Δ²/(2 σ²) at every Rényi order, plus the conversion's term at the best whole order."""
    term = min(log((a - 1) / a) - (log(DELTA) + log(a)) / (a - 1) for a in range(2, 1001))
    return rate + term


def _true(rate: float) -> float:
    """ε of a Gaussian shift of Δ/σ = sqrt(2 rate)."""
    return gaussian.epsilon(sqrt(2 * rate), DELTA)


def _whole(values: Any) -> list[int]:
    return np.unique(np.rint(values).astype(int)).tolist()


def _panels(columns: int, *, sharey: bool = False) -> tuple[Figure, Sequence[Any]]:
    figure = Figure(figsize=(7.2, 3.4) if columns > 1 else (5.4, 3.4), layout="constrained")
    panels = figure.subplots(1, columns, sharey=sharey, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8)
    return figure, panels


def _log(axes: Any, which: str) -> None:
    """Logarithmic axes with plain numbers."""
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if which in (name, "both"):
            axis.axes.set(**{f"{name}scale": "log"})
            axis.set_major_formatter(plain)
            axis.set_minor_formatter(NullFormatter())


def _label(axes: Any, text: str, at: tuple[float, float], colour: str, *, ha: str = "left", va: str = "bottom") -> None:
    axes.annotate(text, at, color=colour, ha=ha, va=va, fontsize=8)


def save(name: str, folder: Path) -> Path:
    """Draw one figure as an SVG whose bytes depend on its content only."""
    settings = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "lines.linewidth": 1.6,
        "axes.labelsize": 9,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(settings):
        FIGURES[name]().savefig(
            folder / f"{name}.svg", format="svg", metadata={"Date": None, "Creator": None}, facecolor="white"
        )
    return folder / f"{name}.svg"


def main() -> None:
    """Draw all figures, or those named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(FIGURES), help="draw this one; may be given again")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder for the SVG files")
    arguments = parser.parse_args()
    names = arguments.only or list(FIGURES)
    with ProcessPoolExecutor(max_workers=2) as pool:
        drawn = pool.map(save, names, [arguments.out] * len(names))
        for path in track(drawn, total=len(names), description="figures", transient=True):
            print(path)


if __name__ == "__main__":
    main()
