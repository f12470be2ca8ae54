"""The analytic head on real features: what forgetting costs beside retraining, how far the two agree, and accuracy.

    python benchmarks/analytic_head.py --sets cifar10 cifar100 digits --json analytic_head.json

Forgetting and retraining are timed in one run, alternating. Retraining is given both as a head that learns the retained rows
with digests, and bare: two products and a solution. The paper's figure is of gradient clipping on its own
ResNet-18 features after 50 epochs, and cannot be compared with these.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import pad

import expunge
from expunge.features import RandomFeatures
from expunge.heads import AnalyticHead
from expunge.heads.statistics import solve, sums_of

sys.path.insert(0, str(Path(__file__).parent / "paper"))

SETS = ("cifar10", "cifar100", "digits")
PUBLISHED = {
    "cifar10": 0.881
}  # Koloskova et al. 2025, arXiv 2506.06985: gradient clipping, 50 epochs, ResNet-18 features
METHODS: dict[str, dict[str, Any]] = {
    "default grid": {}, "own grid": {"grid": True}, "float64": {"grid": None}, "woodbury": {"method": "woodbury"},
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Features in float64, labels, and the grid that the features lie on."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int
    grid: Tensor | float
    provenance: str


def load(name: str) -> Rows:
    """A set by name."""
    if name == "digits":
        digits = load_digits()
        layer = RandomFeatures(64, 1024, seed=1)
        x, y = layer(torch.tensor(digits.data / 16)), torch.tensor(digits.target).long()
        held_out = torch.arange(len(x)) % 5 == 0
        # Steps of 1/16 times steps of 2^-12: the features lie on a grid as they are.
        return Rows((x[~held_out], y[~held_out]), (x[held_out], y[held_out]), 10, 2.0**-16, layer.provenance)
    from data import features

    held = features(name)
    assert isinstance(held.mean, Tensor)
    assert isinstance(held.std, Tensor)
    zero, scale = torch.round(held.mean * 255).double(), 1 / (255 * held.std.double())
    halves = (held.train_x, held.train_y), (held.test_x, held.test_y)
    # The last feature is a constant, for a bias.
    parts = [(pad((x.double() - zero) * scale, (0, 1), value=1.0), y.long()) for x, y in halves]
    scale = pad(scale, (0, 1), value=1.0)
    classes = int(held.train_y.max()) + 1
    reason = "ImageNet MobileNetV2, projection fitted on another data set"
    return Rows(parts[0], parts[1], classes, scale, reason)


def timed(act: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def accuracy(head: AnalyticHead, rows: tuple[Tensor, Tensor]) -> float:
    """The share of labels predicted."""
    return float((head.predict(rows[0]) == rows[1]).double().mean())


def measure(name: str, method: str, forget: int, ridge: float, repeats: int, singles: int) -> dict[str, Any]:
    """Everything about one set and one way of keeping the sums."""
    rows = load(name)
    x, y = rows.train
    forget = min(forget, len(x) // 10)
    ids = [f"{name}-{k}" for k in range(len(x))]
    options = {k: rows.grid if v is True else v for k, v in METHODS[method].items()}

    def fresh() -> AnalyticHead:
        return AnalyticHead(ridge=ridge, classes=rows.classes, provenance=rows.provenance, key=bytes(32), **options)

    def retrain(head: AnalyticHead) -> None:
        head.learn(x[forget:], y[forget:], ids=ids[forget:])
        head.predict(x[:1])

    def bare() -> None:
        solve(sums_of(x[forget:], y[forget:], classes=rows.classes, exact=False), ridge=ridge, scale=None)

    def unlearn(head: AnalyticHead, first: int, last: int) -> None:
        head.forget(x[first:last], y[first:last], ids=ids[first:last])
        head.predict(x[:1])

    trained = fresh()
    trained.learn(x, y, ids=ids)
    before = trained.weights
    trained.predict(x[:1])  # keeps an inverse, by Woodbury
    seconds: dict[str, list[float]] = {"forget": [], "retrain": [], "retrain_bare": []}
    done = again = trained
    for _ in range(repeats):
        done, again = copy.deepcopy(trained), fresh()
        seconds["forget"].append(timed(lambda head=done: unlearn(head, 0, forget)))
        seconds["retrain"].append(timed(lambda head=again: retrain(head)))
        seconds["retrain_bare"].append(timed(bare))
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    # Read before the rows one by one, which come after.
    figures = {
        "set": name, "method": method, "rows": len(x), "forgotten": forget, "width": x.shape[1], "classes": rows.classes,
        "ridge": ridge, "seconds": seconds, "median_seconds": medians,
        "retrain_over_forget": medians["retrain"] / medians["forget"],
        "bare_over_forget": medians["retrain_bare"] / medians["forget"],
        "largest_difference": float((done.weights - again.weights).abs().max()),
        "change": float((before - done.weights).abs().max()),
        "residual": done.residual, "error_bound": done.error_bound,
        "accuracy": {
            "before": accuracy(trained, rows.test), "forgotten": accuracy(done, rows.test),
            "retrained": accuracy(again, rows.test), "published": PUBLISHED.get(name),
        },
    }  # fmt: skip
    alone: dict[str, list[float]] = {"forget": [], "answer": []}
    for k in range(forget, forget + singles):
        alone["forget"].append(1000 * timed(lambda k=k: done.forget(x[k : k + 1], y[k : k + 1], ids=[ids[k]])))
        alone["answer"].append(1000 * timed(lambda: done.predict(x[:1])))
    figures["one_row_ms"] = {
        kind: {"median": statistics.median(values), "least": min(values)} for kind, values in alone.items()
    }
    return figures


def show(results: list[dict[str, Any]]) -> None:
    """The figures as tables."""
    console = Console(width=150)
    table = Table(title="Forgetting beside retraining: medians (of one row also the least)")
    for column in ("set", "method", "rows", "d", "forgotten", "forget s", "retrain s", "ratio", "bare s", "ratio",
                   "max |ΔW|", "bound", "one row ms", "+ answer ms"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("set", "method") else "right")
    for r in results:
        s, one = r["median_seconds"], r["one_row_ms"]
        table.add_row(
            r["set"], r["method"], f"{r['rows']:,}", str(r["width"]), f"{r['forgotten']:,}", f"{s['forget']:.3f}",
            f"{s['retrain']:.3f}", f"{r['retrain_over_forget']:.1f}", f"{s['retrain_bare']:.3f}",
            f"{r['bare_over_forget']:.1f}", f"{r['largest_difference']:.1e}", f"{r['error_bound']:.1e}",
            *(f"{one[kind]['median']:.2f} ({one[kind]['least']:.2f})" for kind in ("forget", "answer")),
        )  # fmt: skip
    console.print(table)
    table = Table(title="Test accuracy")
    for column in ("set", "method", "before", "after forgetting", "retrained", "paper, other features, 50 epochs"):
        table.add_column(column, justify="left" if column in ("set", "method") else "right")
    for r in results:
        a = r["accuracy"]
        shown = [f"{a[k]:.4f}" for k in ("before", "forgotten", "retrained")]
        table.add_row(r["set"], r["method"], *shown, "-" if a["published"] is None else f"{a['published']:.3f}")
    console.print(table)


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--forget", type=int, default=5000, help="rows to forget, at most a tenth")
    parser.add_argument("--ridge", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of forgetting and of retraining")
    parser.add_argument("--singles", type=int, default=30, help="rows forgotten one by one")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    if min(arguments.forget, arguments.repeats, arguments.singles) < 1:
        parser.error("--forget, --repeats and --singles must be at least 1")
    results = [
        measure(name, method, arguments.forget, arguments.ridge, arguments.repeats, arguments.singles)
        for name in arguments.sets
        for method in arguments.methods
    ]
    show(results)
    about = {
        "versions": {"expunge": expunge.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "hardware": {
            "device": "cpu", "machine": platform.machine(), "cpus": os.cpu_count(), "torch_threads": torch.get_num_threads(),
            "load": list(os.getloadavg()),
        },
    }  # fmt: skip
    for part in about.values():
        print(", ".join(f"{name} {value}" for name, value in part.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"results": results} | about, indent=2) + "\n")


if __name__ == "__main__":
    main()
