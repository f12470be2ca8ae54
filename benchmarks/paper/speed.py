"""Seconds an epoch of one run on CIFAR-10 pictures: a plain PyTorch loop, and a stack as it is, compiled, in mixed precision.

    python benchmarks/paper/speed.py --json benchmarks/results/pictures.json

The same network, batches and augmentation for all; the compiled ones need a C++ compiler.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from experiment import BATCH, loss
from rich.console import Console
from rich.table import Table
from run import environment
from studies import STUDIES

from expunge.replicates import Rows, RunBatches, Stack, recover_runs

RETAINED = 40_500
WARM_UP = 5
STACKS = {
    "stack": {},
    "stack, compiled": {"compiled": True},
    "stack, bfloat16": {"autocast": torch.bfloat16},
    "stack, compiled, bfloat16": {"compiled": True, "autocast": torch.bfloat16},
}


def plain_loop(batches: RunBatches, device: str) -> Callable[[int], None]:
    """What anyone would write: so many steps of one model with `torch.optim.SGD`."""
    model = STUDIES["cifar10"].make_model().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def train(steps: int) -> None:
        for _, (x, y) in zip(range(steps), batches, strict=False):
            optimizer.zero_grad()
            loss(model, (x[0], y[0])).backward()
            optimizer.step()

    return train


def seconds_an_epoch(train: Callable[[int], None], batches: RunBatches, steps: int) -> float:
    """After a few steps that are not timed."""
    train(WARM_UP)
    begun = time.perf_counter()
    train(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / steps * batches.per_epoch


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="timed steps; an epoch has 316")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    study, device = STUDIES["cifar10"], arguments.device
    data = study.data()
    tables = None if study.tables is None else study.tables(data.train_x.shape[1:])
    pictures = Rows(data.train_x, data.train_y, tables=tables, mean=data.mean, std=data.std).to(device)
    batches = RunBatches(pictures, torch.arange(RETAINED)[None], batch_size=BATCH, seed=1)
    found = {"plain loop": seconds_an_epoch(plain_loop(batches, device), batches, arguments.steps)}
    for name, options in STACKS.items():
        stack = Stack.fresh(study.make_model, [0], **options).to(device)

        def train(steps: int, stack: Stack = stack) -> None:
            recover_runs(stack, batches, loss=loss, steps=steps)

        found[name] = seconds_an_epoch(train, batches, arguments.steps)
    result = {
        "seconds_an_epoch": found, "steps": arguments.steps, "threads": torch.get_num_threads(), **environment(device),
    }  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = Table("one run", "seconds an epoch", "plain loop / this")
    for name, seconds in found.items():
        table.add_row(name, f"{seconds:.2f}", f"{found['plain loop'] / seconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
