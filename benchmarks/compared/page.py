"""Tables and figure of docs/comparison.md, from the results that are there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from compared.measures import CONFIDENCE, read
from compared.sets import BUDGET, SETS
from expunge.report.curves import interval

__all__ = ["write_page"]

DOCS = Path(__file__).parents[2] / "docs"
START, END = "<!-- tables: benchmarks/comparison.py -->", "<!-- end of tables -->"
LABELS = {
    "nothing": "nothing done (control)", "retrain": "retraining, as long as the original",
    "retrain_shortly": "retraining, as long as the noisy methods", "grid_ridge": "exact head",
    "measured_residual": "convex head", "replay": "rewind", "shards": "shards (5)",
    "gradient_clipping": "gradient clipping", "scheduled_gradient_clipping": "gradient clipping, schedule",
    "blockwise_gradient_clipping": "gradient clipping, layer by layer", "model_clipping": "model clipping",
    "output_perturbation": "output perturbation", "null_start": "null start (control)",
}  # fmt: skip
GROUPS = {
    "null start (control)": ("#999999", "x", ("null_start",)),
    "retraining": ("#222222", "s", ("retrain", "retrain_shortly")),
    "heads": ("#0072b2", "o", ("grid_ridge", "measured_residual")),
    "replay": ("#009e73", "^", ("replay", "shards")),
    "noise": (
        "#d55e00", "v",
        (
            "gradient_clipping", "scheduled_gradient_clipping", "blockwise_gradient_clipping", "model_clipping",
            "output_perturbation",
        ),
    ),
}  # fmt: skip
Runs = list[dict[str, Any]]


def write_page(results: Path, docs: Path = DOCS) -> None:
    """Write the tables between the markers of `comparison.md`, and draw the figure."""
    runs: dict[str, Runs] = {}
    for path in sorted(results.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        runs.setdefault(found["set"], []).append(found)
    if not runs:
        return
    page = docs / "comparison.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(table(name, runs[name]) for name in SETS if name in runs)
    page.write_text(f"{before}{START}\n\n{tables}\n\n{END}{after}", encoding="utf-8")
    draw({name: runs[name] for name in SETS if name in runs}, docs / "comparison.svg")


def table(name: str, runs: Runs) -> str:
    """Markdown of one data set."""
    sizes, first = runs[0]["sizes"], runs[0]
    head = (
        f"### {name}\n\n{sizes['retain']:,} rows stay, about {sizes['forget']:,} are forgotten; network of {first['weights']:,} "
        f"weights, {first['epochs']} epochs; {len(runs)} seeds, {len(runs[0]['unlearners'])} unlearners.\n\n"
        "| unlearner | guarantee | test | forgotten | retained | seconds | one row, s | kept, MB | guessing: ε ≥ (AUC) | two worlds: ε ≥ |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
    )
    return head + "\n".join(
        _row(name, [r["unlearners"][name] for r in runs]) for name in LABELS if name in first["unlearners"]
    )


def _row(name: str, seen: Runs) -> str:
    one = seen[0]
    proven = f"ε = {one['epsilon']:.3g}, δ = {one['delta']:g}" if one["kind"] == "epsilon_delta" else one["kind"]
    accuracy = [_spread([100 * s["accuracy"][part] for s in seen]) for part in ("test", "forget", "retain")]
    single = "" if one["one_row"] is None else f"{min(s['one_row'] for s in seen):.2g}"
    kept = f"{one['kept'] / 1e6:.3g}" if one["kept"] else "0"
    guess = f"{_bound(seen):.2f} ({_mean(s['guessing']['auc'] for s in seen):.3f})"
    worlds = "" if one["worlds"] is None else f"{one['worlds']:.3f}"
    seconds = f"{_mean(s['seconds'] for s in seen):.2g}"
    return "| " + " | ".join([LABELS[name], proven, *accuracy, seconds, single, kept, guess, worlds]) + " |"


def _bound(seen: Runs) -> float:
    """ε at least, the strongest of the seeds' releases, which pays for their number."""
    each = [replace(e, share=e.share / len(seen)) for e in (read(s["guessing"]) for s in seen)]
    return max(e.epsilon(delta=BUDGET.delta, confidence=CONFIDENCE) for e in each)


def _spread(values: list[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.1f} ± {half:.1f}" if half else f"{mean:.1f}"


def _mean(values: Any) -> float:
    return interval(list(values))[0]


def draw(runs: dict[str, Runs], path: Path) -> None:
    """Test accuracy against seconds, a panel a data set."""
    mpl.rcParams["svg.hashsalt"] = "expunge"
    figure, axes = plt.subplots(1, len(runs), figsize=(3.2 * len(runs), 3.6), squeeze=False)
    for axis, (name, seen) in zip(axes[0], runs.items(), strict=True):
        for label, (colour, marker, names) in GROUPS.items():
            points = [_point(name, seen) for name in names]
            axis.scatter(*zip(*points, strict=True), color=colour, marker=marker, s=36, label=label, alpha=0.85)
        axis.set_xscale("log")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("seconds from request to model")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=len(GROUPS), frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _point(name: str, seen: Runs) -> tuple[float, float]:
    rows = [r["unlearners"][name] for r in seen]
    return _mean(r["seconds"] for r in rows), 100 * _mean(r["accuracy"]["test"] for r in rows)
