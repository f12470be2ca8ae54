"""Draw the figures and write the tables of README.md from the results that are there.

    python benchmarks/paper/page.py

Beside ours: the paper's own points, read off its figures (arXiv 2506.06985, figure 1; validation accuracy, claimed ε = 1).
"""

import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from expunge.report.curves import interval

HERE = Path(__file__).parent
START, END = "<!-- tables: page.py -->", "<!-- end of tables -->"
LABELS = {
    "gradient_clipping": "gradient clipping",
    "model_clipping": "model clipping",
    "output_perturbation": "output perturbation",
    "retrain": "retraining",
}
COLOURS = {
    "gradient_clipping": "#0072b2", "model_clipping": "#009e73", "output_perturbation": "#d55e00", "retrain": "#444444",
}  # fmt: skip
# Digitised from figure 1 (MNIST): epochs after the noise -> validation accuracy.
PAPER = {
    "retrain": {1: 0.677, 2: 0.741, 6: 0.798},
    "output_perturbation": {1: 0.573, 2: 0.717, 6: 0.783},
    "model_clipping": {1: 0.700, 2: 0.766, 6: 0.801},
    "gradient_clipping": {1: 0.702, 2: 0.748, 6: 0.802},
}


def results() -> list[dict[str, Any]]:
    """Every cell that was run."""
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((HERE / "results" / "mnist").glob("*.json"))
    ]


def best(cells: list[dict[str, Any]], method: str, reading: str, training: str) -> dict[int, dict[str, Any]]:
    """For each budget the setting with the best mean validation accuracy, as the paper selects."""
    found: dict[int, dict[str, Any]] = {}
    for cell in cells:
        if (cell["method"], cell["reading"], cell["training"]["name"]) == (method, reading, training):
            held = found.get(cell["epochs"])
            if held is None or mean(first(cell)["validation"]) > mean(first(held)["validation"]):
                found[cell["epochs"]] = cell
    return dict(sorted(found.items()))


def first(cell: dict[str, Any]) -> dict[str, list[float]]:
    """The trained (or fresh) start."""
    return next(iter(cell["accuracy"].values()))


def figure(cells: list[dict[str, Any]]) -> None:
    """Two panels: the paper's training as published and as proven, and the tuned training as proven."""
    plt.rcParams.update(
        {"svg.hashsalt": "expunge", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    )
    panels = [
        ("published", "paper", "as published"),
        ("proven", "paper", "as proven"),
        ("proven", "tuned", "as proven, tuned"),
    ]
    shape, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), sharey=True)
    for axis, (reading, training, title) in zip(axes, panels, strict=True):
        for method, colour in COLOURS.items():
            curve = best(cells, method, "exact" if method == "retrain" else reading, training)
            if not curve:
                continue
            points = [interval(first(c)["validation"]) for c in curve.values()]
            axis.errorbar(
                list(curve),
                [m for m, _ in points],
                [h for _, h in points],
                color=colour,
                label=LABELS[method],
                capsize=2,
            )
            nulls = {e: c["accuracy"]["null"]["validation"] for e, c in curve.items() if "null" in c["accuracy"]}
            axis.plot(list(nulls), [mean(v) for v in nulls.values()], "x", color=colour, markersize=7)
            if training == "paper":
                axis.plot(
                    list(PAPER[method]), list(PAPER[method].values()), "o", mfc="none", color=colour, markersize=6
                )
        axis.set_title(title)
        axis.set_xlabel("epochs after the noise")
        axis.grid(alpha=0.2)
    axes[0].set_ylabel("validation accuracy (augmented)")
    axes[0].legend(frameon=False, fontsize=8)
    (null,) = axes[1].plot([], [], "kx", label="null start, the same seeds")
    (own,) = axes[1].plot([], [], "ko", mfc="none", label="the paper's own points")
    axes[1].legend(handles=[null, own], frameon=False, fontsize=8, loc="lower right")
    shape.tight_layout()
    (HERE / "figures").mkdir(exist_ok=True)
    shape.savefig(HERE / "figures" / "mnist.svg", metadata={"Date": None})


def accuracy_table(cells: list[dict[str, Any]]) -> list[str]:
    """Best setting of each method a budget."""
    budgets = sorted({c["epochs"] for c in cells})
    head = [f"{b} epoch{'s' * (b > 1)}: trained / null" for b in budgets]
    lines = [
        "| training | reading | method | " + " | ".join(head) + " | test, last budget |",
        "| --- " * (4 + len(budgets)) + "|",
    ]
    for training in ("paper", "tuned"):
        for reading in ("published", "proven", "exact"):
            for method in LABELS:
                curve = best(cells, method, reading, training)
                if not curve:
                    continue
                row: list[str] = []
                for budget in budgets:
                    parts = (
                        [interval(a["validation"]) for a in curve[budget]["accuracy"].values()]
                        if budget in curve
                        else []
                    )
                    row.append(" / ".join(f"{m:.3f} ± {h:.3f}" for m, h in parts))
                test, half = interval(first(curve[max(curve)])["test"])
                lines.append(
                    f"| {training} | {reading} | {LABELS[method]} | "
                    + " | ".join(row)
                    + f" | {test:.3f} ± {half:.3f} |"
                )
    return lines


def claims_table(cells: list[dict[str, Any]]) -> list[str]:
    """Claimed against true ε of every setting."""
    lines = [
        "| method | setting | reading | noise | claimed ε | true ε, `retrained` | true ε, `center` |",
        "| --- " * 7 + "|",
    ]
    seen: set[tuple[str, ...]] = set()
    for cell in cells:
        key = (cell["method"], cell["setting"], cell["reading"])
        if cell["reading"] == "exact" or key in seen:
            continue
        seen.add(key)
        true = [f"[{low:.3f}, {high:.3f}]" for low, high in (cell["true_epsilon"][r] for r in ("retrained", "center"))]
        claimed = f"{cell['claimed']:g}" if cell["claimed"] else "1"
        noise = f"{cell['mechanism']['noise_std']:.4g}"
        lines.append(f"| {LABELS[key[0]]} | {key[1]} | {key[2]} | {noise} | {claimed} | {true[0]} | {true[1]} |")
    return lines


def main() -> None:
    """Figures, and the part of README.md between the marks."""
    cells = results()
    figure(cells)
    path = HERE / "README.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    tables = [
        "",
        *accuracy_table(cells),
        "",
        "Claimed against true ε ([proved lower, proved upper] at δ = 1e-5):",
        "",
        *claims_table(cells),
        "",
    ]
    path.write_text(before + START + "\n".join(tables) + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
