"""Seconds an epoch and run when many runs share the machine, on the paper's MNIST experiment.

    python benchmarks/replicates.py --json benchmarks/results/replicates.json

MLP 784-5-10, 48,600 retained rows a run (another split in each), batch 128, rotations and flips, SGD; beside it a plain
PyTorch loop (one model, `torch.optim.SGD`) on the same pictures, augmented by the same tables.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from environment import environment
from paper.data import DataError, mnist
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from expunge.replicates import Rows, RunBatches, Stack, recover_runs, rotations

BATCH, RETAINED = 128, 48_600


def mlp() -> nn.Module:
    """The paper's network."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 5), nn.ReLU(), nn.Linear(5, 10))


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of one run."""
    return F.cross_entropy(model(batch[0]), batch[1])


def pictures_of(device: str) -> tuple[Rows, str]:
    """The 60,000 training pictures, or random ones of that shape where MNIST is absent, and which."""
    try:
        data = mnist()
        images, labels, name = data.train_x, data.train_y, "MNIST"
    except DataError:
        coins = torch.Generator().manual_seed(0)
        images = torch.randint(256, (60_000, 28, 28), dtype=torch.uint8, generator=coins)
        labels, name = torch.randint(10, (60_000,), generator=coins), "random pictures"
    return Rows(images, labels, tables=rotations((28, 28)), mean=0.1307, std=0.3081).to(device), name


def together(pictures: Rows, runs: int, steps: int) -> float:
    """Seconds a step of `runs` runs."""
    coins = torch.Generator().manual_seed(1)
    rows = torch.stack([torch.randperm(len(pictures), generator=coins)[:RETAINED] for _ in range(runs)])
    device = pictures.labels.device
    stack = Stack.fresh(mlp, range(runs)).to(device)
    batches = iter(RunBatches(pictures, rows, batch_size=BATCH, seed=2))
    recover_runs(stack, batches, loss=loss, steps=3)
    begun = time.perf_counter()
    recover_runs(stack, batches, loss=loss, steps=steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / steps


def alone(pictures: Rows, steps: int) -> float:
    """Seconds a step of a plain loop over one model."""
    device = pictures.labels.device
    rows = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(1))[None, :RETAINED]
    batches = iter(RunBatches(pictures, rows, batch_size=BATCH, seed=2))
    model = mlp().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(x[0]), y[0]).backward()
        optimizer.step()

    for _ in range(3):
        step()
    begun = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / steps


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--steps", type=int, default=380, help="timed steps; an epoch has 380 (379 whole batches)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    pictures, name = pictures_of(arguments.device)
    per_epoch = RETAINED // BATCH
    plain = alone(pictures, arguments.steps) * per_epoch
    rows = [
        {"runs": r, "epoch_and_run": together(pictures, r, arguments.steps) * per_epoch / r} for r in arguments.runs
    ]
    result = {
        "plain_loop_epoch": plain,
        "rows": rows,
        "steps": arguments.steps,
        "data": name,
        "ran on": arguments.device,
        **environment(),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table("runs at once", "seconds an epoch and run", "plain loop / this")
    table.add_row("plain loop, 1", f"{plain:.3f}", "1")
    for row in rows:
        table.add_row(str(row["runs"]), f"{row['epoch_and_run']:.3f}", f"{plain / row['epoch_and_run']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
