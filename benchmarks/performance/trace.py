"""Training that leaves a trace, beside a plain loop with the same batches and optimiser; and what the manifest takes.

The plain loop is the least that trains the same weights: it gathers the rows, sets the rate, and steps. One
thread. A trace adds a keyed digest of every row, checkpoints on disk, and coins of its own for each step.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.recovery.training import one_cycle
from expunge.trace import Schedule, Trace, train_traced
from performance.rows import Row, medians

KEY = bytes(range(32))
RECIPE = ex.Recipe(learning_rate=0.05)
BATCH, TURNS = 128, 5
NOISY = (
    "on a machine with other work runs gave 1.18 to 1.48: a step takes a millisecond, of which coins take a twentieth"
)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def dense(width: int) -> Callable[[], nn.Module]:
    """784-width-10."""
    return lambda: nn.Sequential(nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))


def convolutional() -> nn.Module:
    """Two convolutions of 3 x 3 and one dense layer: 20,000 weights, 4 Mflop a row and step."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 10),
    )  # fmt: skip


def pictures(rows: int) -> ex.Examples:
    """As many and as large as MNIST's at 60,000; noise with a label that a network can learn."""
    x = torch.randn(rows, 784, generator=torch.Generator().manual_seed(0))
    return ex.Examples(x, x[:, :10].argmax(-1), ids=[f"row {i}" for i in range(rows)])


def batches(data: ex.Examples, epochs: int, steps: int) -> list[Tensor]:
    """The rows of every step of a trace."""
    schedule, starts = Schedule(KEY, (steps,) * epochs), np.zeros(len(data), dtype=np.int64)
    return [torch.from_numpy(rows) for epoch in range(epochs) for rows in schedule.epoch(epoch, data.ids, starts)]


def plain(make_model: Callable[[], nn.Module], data: ex.Examples, rows_of_steps: list[Tensor]) -> nn.Module:
    """The loop of anybody."""
    x, y = data.tensors
    model, factor = make_model(), one_cycle(len(rows_of_steps))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RECIPE.learning_rate, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay
    )
    for step, rows in enumerate(rows_of_steps):
        optimizer.param_groups[0]["lr"] = RECIPE.learning_rate * factor(step)
        optimizer.zero_grad()
        loss(model, (x.index_select(0, rows), y.index_select(0, rows))).backward()
        optimizer.step()
    return model


def traced(make_model: Callable[[], nn.Module], data: ex.Examples, epochs: int, steps: int, folder: Path) -> Trace:
    """The same, with a trace in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    return train_traced(
        make_model, data, loss=loss, epochs=epochs, steps_per_epoch=steps, folder=folder, recipe=RECIPE, key=KEY
    )


def compared(
    name: str,
    make_model: Callable[[], nn.Module],
    data: ex.Examples,
    folder: Path,
    *,
    epochs: int,
    before: str,
    note: str = "",
) -> Row:
    """Seconds of both, in turns, on data whose batches are as large on average."""
    steps = len(data) // BATCH
    order = batches(data, epochs, steps)
    seconds = medians({
        "traced": lambda: traced(make_model, data, epochs, steps, folder),
        "plain": lambda: plain(make_model, data, order),
    }, turns=TURNS)  # fmt: skip
    return Row(
        work=f"traced training, {name}, {len(data):,} rows, {epochs} epochs of batches of {BATCH}", unit="s",
        ours=seconds["traced"], peer=seconds["plain"], peer_is="plain loop", before=before, target=1.2, ratio=True,
        note=note,
    )  # fmt: skip


def rows() -> list[Row]:
    """Three networks, and the manifest with its roster."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "trace"
        found = [
            compared("784-512-10", dense(512), pictures(20_000), folder, epochs=3, before="1.56 x, on commit 5db6765"),
            compared("two convolutions", convolutional, pictures(5_000), folder, epochs=3, before="-"),
            compared("784-32-10", dense(32), pictures(60_000), folder, epochs=10, before="2.17 x", note=NOISY),
        ]
        trace = Trace(folder, key=KEY)
        size = trace.manifest.records.size + (folder / "manifest.json").stat().st_size
        found.append(Row(
            work="manifest of a trace of 60,000 rows, with who takes part", unit="B a row", ours=size / 60_000,
            limit=32, limit_is="two keyed digests of 16 B", before="103 B a row", target=40,
        ))  # fmt: skip
    return found
