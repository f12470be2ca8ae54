"""Test accuracy of the exact head on random ReLU features beside the inputs, by their number; three draws of the features.

    python benchmarks/wide_heads.py --json benchmarks/results/wide_heads.json
    python benchmarks/wide_heads.py --times --json benchmarks/results/wide_heads_times.json

`--times` holds a single row's request, from the row to released weights, against the shortest retraining of the leaderboard,
in turns in one process. The head has learned 2,000 rows there: what one row costs depends on the width alone.

All training rows of each set of the leaderboard, ridge 1 in each, fixed beforehand: a ridge that were chosen on rows which
may be forgotten would void what a certificate says. One Gram matrix a draw serves all widths: the first k random features
of a wide layer have the law of a layer of k. The sums are BLAS's in float64 and the solution Cholesky's, on features as they
are; the head rounds them to its grid of 2^-12 first.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import scipy.linalg
import torch
from leaders.requests import pose
from leaders.sets import SETS, Setting
from leaders.ways import forgotten
from numpy.typing import NDArray
from paper.data import DataError
from rich.console import Console

import expunge as ex
from expunge.features import RandomFeatures

Floats = NDArray[np.float64]
WIDTHS = {
    "MNIST": (1024, 4096, 8192),
    "CIFAR-10 features": (0, 2048, 4096),
    "CIFAR-100 features": (0, 2048, 4096),
    "Adult": (0, 1024, 2048),
}
RIDGE, DRAWS, ROWS = 1.0, 3, 4096


def columns(layer: RandomFeatures, rows: torch.Tensor) -> Floats:
    """Constant, inputs, random features, in this order."""
    return np.concatenate([np.ones((len(rows), 1)), layer(rows).numpy()], axis=1)


def sums(layer: RandomFeatures, data: ex.Examples, classes: int) -> tuple[Floats, Floats]:
    """X'X, its upper triangle in Fortran's order, and X'Y, of one-hot labels."""
    x, y = data.tensors
    size = layer.width + 1
    gram, answers = np.zeros((size, size), order="F"), np.zeros((size, classes))
    for start in range(0, len(x), ROWS):
        part = columns(layer, x[start : start + ROWS])
        gram = scipy.linalg.blas.dsyrk(1.0, part.T, 1.0, gram, overwrite_c=True)
        answers += part.T @ np.eye(classes)[y[start : start + ROWS].numpy()]
    return gram, answers


def accuracy(layer: RandomFeatures, weights: Floats, test: ex.Examples) -> float:
    """Share of right labels, with as many features as there are weights."""
    x, y = test.tensors
    right = 0
    for start in range(0, len(x), ROWS):
        scores = columns(layer, x[start : start + ROWS])[:, : len(weights)] @ weights
        right += int((scores.argmax(1) == y[start : start + ROWS].numpy()).sum())
    return right / len(x)


def one_draw(setting: Setting, train: ex.Examples, test: ex.Examples, seed: int) -> list[dict[str, Any]]:
    """Accuracy at every width from one Gram matrix."""
    layer = RandomFeatures(setting.width, max(WIDTHS[setting.name]), seed=seed, keep_inputs=True)
    begun = time.perf_counter()
    gram, answers = sums(layer, train, setting.classes)
    summing, found = time.perf_counter() - begun, list[dict[str, Any]]()
    for width in WIDTHS[setting.name]:
        size = 1 + setting.width + width
        begun = time.perf_counter()
        system = gram[:size, :size] + RIDGE * np.eye(size)
        weights = scipy.linalg.solve(system, answers[:size], assume_a="pos", lower=False, overwrite_a=True)
        found.append({
            "set": setting.name, "features": width, "seed": seed, "accuracy": accuracy(layer, weights, test),
            "summing_seconds_of_the_widest": summing, "seconds": time.perf_counter() - begun,
        })  # fmt: skip
        Console(stderr=True).print(found[-1])
    return found


def one_row(setting: Setting, train: ex.Examples, test: ex.Examples, turns: int = 3) -> list[dict[str, Any]]:
    """Processor seconds of a row's request at every width, and of the shortest retraining; medians."""
    posed = pose(setting, train, test, "canaries", 0)
    retraining, rows = list[float](), list[dict[str, Any]]()
    for width in WIDTHS[setting.name]:
        if not width:
            continue
        layer = RandomFeatures(setting.width, width, seed=0, keep_inputs=True)
        head = ex.heads.AnalyticHead(ridge=RIDGE, classes=setting.classes, provenance=layer.provenance)
        few = posed.parts[0].take(list(range(2000)))
        head.learn(columns(layer, few.tensors[0]), few.tensors[1], ids=few.ids)
        requests = list[float]()
        for turn in range(turns):
            row = few.take([turn])
            begun = time.process_time()
            head.forget(columns(layer, row.tensors[0]), row.tensors[1], ids=row.ids)
            _ = head.weights
            requests.append(time.process_time() - begun)
            retraining.append(forgotten(posed, "retrain_shortly", Path()).seconds)
        rows.append({"set": setting.name, "features": width, "width": layer.width + 1, "one_row": median(requests)})
    return [row | {"retraining": median(retraining), "times": median(retraining) / row["one_row"]} for row in rows]


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(WIDTHS), action="append")
    parser.add_argument(
        "--times", action="store_true", help="seconds of a single row's request, in place of accuracies"
    )
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = list[dict[str, Any]]()
    for name in options.only or WIDTHS:
        try:
            train, test = SETS[name].rows()
        except DataError as error:
            Console(stderr=True).print(f"{name} left out: {error}")
            continue
        for seed in range(1 if options.times else options.draws):
            rows += one_row(SETS[name], train, test) if options.times else one_draw(SETS[name], train, test, seed)
            if options.json:
                write(options.json, rows)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """What there is so far; sets that this call does not measure stay as they were."""
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    measured = {row["set"] for row in rows}
    result = {
        "rows": [row for row in before if row["set"] not in measured] + rows, "ridge": RIDGE,
        "versions": {n: version(n).partition("+")[0] for n in ("expunge", "numpy", "scipy", "torch")},
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS")},
    }  # fmt: skip
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
