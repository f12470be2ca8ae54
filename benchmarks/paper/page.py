"""Draw the figures and write the tables of README.md from the results that are there.

    python benchmarks/paper/page.py
    python benchmarks/paper/page.py --results .cache/quick --out .cache/quick    # a page for other results

Beside ours: the paper's own points (`published.json`).
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from studies import STUDIES

from expunge.report.curves import interval

HERE = Path(__file__).parent
START, END = "<!-- tables: page.py -->", "<!-- end of tables -->"
PAPER: dict[str, Any] = json.loads((HERE / "published.json").read_text(encoding="utf-8"))
LABELS = {
    "gradient_clipping": "gradient clipping",
    "model_clipping": "model clipping",
    "output_perturbation": "output perturbation",
    "dp_training": "private training, ε = 50",
    "retrain": "retraining",
}
COLOURS = {
    "gradient_clipping": "#0072b2", "model_clipping": "#009e73", "output_perturbation": "#d55e00", "dp_training": "#cc79a7",
    "retrain": "#444444",
}  # fmt: skip
TITLES = {
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "features10": "CIFAR-10 features",
    "features100": "CIFAR-100 features",
}
# Budgets that the tables show.
COLUMNS = {"mnist": (1, 2, 6, 10), "cifar10": (1, 4, 13, 49), "features10": (1, 10, 50), "features100": (1, 10, 50)}
PANELS = (
    ("published", "paper", "as published"),
    ("proven", "paper", "as proven"),
    ("proven", "tuned", "as proven, tuned"),
)
SWEEP_COLOURS = {"0.1": "#d55e00", "1": "#0072b2", "10": "#009e73"}


@dataclass(frozen=True)
class Point:
    """A cell at an epoch: accuracies over the seeds, by metric; `null` where there is a null start."""

    cell: dict[str, Any]
    epoch: int

    def values(self, metric: str = "validation") -> list[float]:
        """Of the trained, or fresh, start."""
        return next(iter(self.cell["accuracy"].values()))[metric][str(self.epoch)]

    def null(self, metric: str = "validation") -> list[float] | None:
        """Of the null start."""
        found = self.cell["accuracy"].get("null")
        return None if found is None else found[metric][str(self.epoch)]


Curve = dict[int, Point]


def read(results: Path, study: str) -> list[dict[str, Any]]:
    """Every cell of a study that was run."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((results / study).glob("*.json"))]


def curve(cells: Iterable[dict[str, Any]], method: str, reading: str, training: str, target: float = 1.0) -> Curve:
    """For each epoch the setting with the best mean validation accuracy, as the paper selects.

    A tuned training counts at the end of its schedule only.
    """
    found: Curve = {}
    for cell in cells:
        if (cell["method"], cell["reading"], cell["training"]["name"]) != (method, reading, training):
            continue
        if method not in ("retrain", "dp_training") and cell["target"] != target:
            continue
        for epoch in map(int, next(iter(cell["accuracy"].values()))["validation"]):
            point = Point(cell, epoch)
            if epoch not in found or mean(point.values()) > mean(found[epoch].values()):
                found[epoch] = point
    return dict(sorted(found.items()))


def readings(cells: list[dict[str, Any]], reading: str, training: str) -> dict[str, Curve]:
    """The curves of every method in a panel."""
    found = {method: curve(cells, method, reading, training) for method in LABELS}
    found["retrain"] = curve(cells, "retrain", "exact", training)
    if (reading, training) == ("proven", "tuned"):
        found["dp_training"] = curve(cells, "dp_training", "proven", "private")
    return {method: points for method, points in found.items() if points}


def figure_1(study: str, cells: list[dict[str, Any]], out: Path) -> None:
    """Figures 1 and 3: three panels, the null starts as crosses, the paper's own points as circles."""
    shape, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), sharey=True)
    for axis, (reading, training, title) in zip(axes, PANELS, strict=True):
        for method, points in readings(cells, reading, training).items():
            draw(axis, points, COLOURS[method], LABELS[method])
            if training == "paper":
                circles(axis, PAPER[study].get(method, []), COLOURS[method])
        dress(axis, f"{TITLES[study]}, {title}")
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    axes[0].legend(handles.values(), handles.keys(), frameon=False, fontsize=7.5, loc="lower right")
    (null,) = axes[1].plot([], [], "kx", label="null start, the same seeds")
    (own,) = axes[1].plot([], [], "ko", mfc="none", markersize=4, label="the paper's own points")
    axes[1].legend(handles=[null, own], frameon=False, fontsize=7.5, loc="lower right")
    save(shape, axes, out / f"{study}.svg")


def figure_2(cells: list[dict[str, Any]], out: Path) -> None:
    """Convergence after the noise of figure 2 and from scratch."""
    shape, axis = plt.subplots(figsize=(5, 3.4))
    chosen = [c for c in cells if c["setting"].startswith("C0=20 ")]
    for reading, style in (("published", "-"), ("proven", "--")):
        points = curve(chosen, "gradient_clipping", reading, "paper")
        draw(axis, points, COLOURS["gradient_clipping"], f"gradient clipping, as {reading}", style)
    draw(axis, curve(cells, "retrain", "exact", "paper"), COLOURS["retrain"], LABELS["retrain"])
    for method, series in PAPER["figure2"].items():
        axis.plot(
            *zip(*series, strict=True), color=COLOURS[method], alpha=0.35, lw=0.8, label=f"the paper's {LABELS[method]}"
        )
    dress(axis, "CIFAR-10: C0 = 20, C1 = 10, η = 0.01, λ = 50")
    axis.legend(frameon=False, fontsize=7.5)
    save(shape, [axis], out / "figure2.svg")


def figure_4(study: str, cells: list[dict[str, Any]], out: Path) -> None:
    """Gradient clipping at three targets, in both readings."""
    shape, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True)
    for axis, reading in zip(axes, ("published", "proven"), strict=True):
        for target, colour in SWEEP_COLOURS.items():
            points = curve(cells, "gradient_clipping", reading, "paper", float(target))
            draw(axis, points, colour, f"ε = {target}" + (" claimed" if reading == "published" else ", true"))
            circles(axis, PAPER[f"figure4_{study}"][target], colour)
        draw(axis, curve(cells, "retrain", "exact", "paper"), COLOURS["retrain"], LABELS["retrain"])
        dress(axis, f"{TITLES[study]}, as {reading}")
        axis.legend(frameon=False, fontsize=7.5, loc="center right", bbox_to_anchor=(1, 0.57))
    save(shape, axes, out / f"figure4_{study}.svg")


def draw(axis: Any, points: Curve, colour: str, label: str, style: str = "-") -> None:
    """Means with 95 % intervals, or the range of fewer than three runs, and the null starts."""
    if not points:
        return
    middles = [mean(p.values()) for p in points.values()]
    bars = [reach(p.values()) for p in points.values()]
    marker = {"marker": "."} if len(points) < 3 else {}
    axis.errorbar(
        list(points),
        middles,
        list(zip(*bars, strict=True)),
        color=colour,
        label=label,
        capsize=2,
        ls=style,
        **marker,
    )
    nulls = {epoch: mean(p.null() or []) for epoch, p in points.items() if p.null()}
    axis.plot(list(nulls), list(nulls.values()), "x", color=colour, markersize=6)


def reach(values: list[float]) -> tuple[float, float]:
    """How far a bar goes below and above the mean; Student's factor for two runs is 12.7, and its bar would tell nothing."""
    middle, half = interval(values)
    return (half, half) if len(values) > 2 else (middle - min(values), max(values) - middle)


def circles(axis: Any, series: list[tuple[float, float]], colour: str) -> None:
    """The paper's points."""
    if series:
        axis.plot(*zip(*series, strict=True), "o", mfc="none", color=colour, markersize=4)


def dress(axis: Any, title: str) -> None:
    """Title, label and grid."""
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("epochs after the noise")
    axis.grid(alpha=0.2)


def save(shape: Any, axes: Any, path: Path) -> None:
    """As SVG without a date."""
    axes[0].set_ylabel("validation accuracy (augmented)")
    shape.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    shape.savefig(path, metadata={"Date": None})
    plt.close(shape)


def spread(values: list[float] | None) -> str:
    """Mean and half width; the mean alone for a single run."""
    if values is None:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f} (one run)"
    middle, half = interval(values)
    return f"{middle:.3f} ± {half:.3f}"


def accuracy_table(study: str, cells: list[dict[str, Any]]) -> list[str]:
    """The best setting of each method at each budget."""
    budgets = COLUMNS[study]
    heads = [f"{b} epoch{'s' * (b > 1)}: trained / null" for b in budgets]
    lines = [
        "| training | reading | method | seeds | " + " | ".join(heads) + " | test, last budget |",
        "| --- " * (5 + len(budgets)) + "|",
    ]
    for reading, training, _ in PANELS:
        for method, points in readings(cells, reading, training).items():
            if method == "retrain" and (reading, training) == ("proven", "paper"):
                continue  # as in the panel before
            shown = {b: points[b] for b in budgets if b in points}
            if not shown:
                continue
            row = [
                " / ".join(filter(None, (spread(shown[b].values()), spread(shown[b].null())))) if b in shown else ""
                for b in budgets
            ]
            last = shown[max(shown)]
            kind = "exact" if method == "retrain" else reading
            how = "private" if method == "dp_training" else training
            counts = sorted({len(p.values()) for p in shown.values()}, reverse=True)
            lines.append(
                f"| {how} | {kind} | {LABELS[method]} | {', '.join(map(str, counts))} | "
                + " | ".join(row)
                + f" | {spread(last.values('test'))} |"
            )
    return lines


def shortened(cells: list[dict[str, Any]], study: str) -> list[str]:
    """A sentence for an original training shorter than the paper's."""
    lengths = {c["original_epochs"] for c in cells} - {None, STUDIES[study].original_epochs}
    whole = STUDIES[study].original_epochs
    return [f"**Shortened:** original training of {n} epoch{'s' * (n > 1)}, not {whole}." for n in sorted(lengths)]


def mixed(cells: list[dict[str, Any]]) -> list[str]:
    """A sentence for trainings in mixed precision."""
    each = ["autocast" in block for cell in cells for block in cell["blocks"] for _ in block["seeds"]]
    if not any(each):
        return []
    return [f"**Mixed precision** (bfloat16): {sum(each)} of {len(each)} runs; the blocks of each result say which."]


def claims_table(rows: list[dict[str, Any]]) -> list[str]:
    """Claimed against true ε of every configuration of the paper's figures, whether it was run here or not."""
    lines = [
        "| data | method | setting | reading | steps | noise | claimed ε | true ε, `retrained` | true ε, `center` |",
        "| --- " * 9 + "|",
    ]
    for r in rows:
        true = [f"[{low:.3f}, {high:.3f}]" for low, high in (r["true_epsilon"][k] for k in ("retrained", "center"))]
        lines.append(
            f"| {TITLES[r['study']].replace('CIFAR-10 f', 'F')} | {LABELS[r['method']]} | {r['setting']} | {r['reading']} "
            f"| {r['steps']} | {r['noise_std']:.4g} | {r['claimed']:g} | {true[0]} | {true[1]} |"
        )
    return lines


def tables(results: Path) -> list[str]:
    """The part of README.md between the marks."""
    lines: list[str] = []
    for study in STUDIES:
        cells = read(results, study)
        if cells:
            remarks = [*shortened(cells, study), *mixed(cells)]
            lines += ["", f"### {TITLES[study]}", "", *remarks, "", *accuracy_table(study, cells)]
    claims = results / "claims.json"
    if claims.is_file():
        lines += [
            "", "### Claimed against true ε", "",
            "[proved lower, proved upper] at δ = 1e-5; *published* is the noise of the published code and what it claims:", "",
            *claims_table(json.loads(claims.read_text(encoding="utf-8"))),
        ]  # fmt: skip
    return [*lines, ""]


def figures(results: Path, out: Path) -> None:
    """Every figure for which there are results."""
    plt.rcParams.update(
        {"svg.hashsalt": "expunge", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    for study in STUDIES:
        cells = read(results, study)
        if cells:
            figure_1(study, cells, out)
        if f"figure4_{study}" in PAPER and any(c.get("target", 1.0) != 1.0 for c in cells):
            figure_4(study, cells, out)
        if study == "cifar10" and any(c["setting"].startswith("C0=20 ") for c in cells):
            figure_2(cells, out)


def main() -> None:
    """Figures, and the part of the page between the marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--out", type=Path, default=HERE, help="a folder for figures/ and README.md")
    arguments = parser.parse_args()
    figures(arguments.results, arguments.out / "figures")
    page = arguments.out / "README.md"
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# The paper's figures, run again\n\n{START}{END}\n"
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    page.write_text(before + START + "\n".join(tables(arguments.results)) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
