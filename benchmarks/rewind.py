"""What forgetting by replay costs beside retraining, and what it stores, for a single model and for shards.

    python benchmarks/rewind.py --json benchmarks/results/rewind.json

Digits (64-32-10) and MNIST (784-32-10), SGD with momentum, batches of about 16 and 128. Seconds of a rewind include checking every
row's digest, the replay and writing the new checkpoints; retraining is the same traced training without the record, in the
same run. "late" traces have 5 % of the records join in the last tenth of the epochs. Every timed rewind is compared with
retraining bit for bit.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from environment import environment
from paper.data import DataError, mnist
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.trace import Schedule, Shards, Trace, cost, rewind, train_shards, train_traced

KEY = bytes(range(32))  # fixed, so that two runs of the benchmark forget the same records at the same steps
RECIPE = ex.recovery.Recipe(optimizer="sgd", learning_rate=0.1)
EPOCHS, SLICES = 10, 4


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy; the outputs of an ensemble are log-probabilities already, which it leaves as they are."""
    return F.cross_entropy(model(batch[0]), batch[1])


def small_network() -> nn.Module:
    """64-32-10."""
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def mnist_network() -> nn.Module:
    """784-32-10."""
    return nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))


@dataclass(frozen=True)
class Problem:
    """Data to train and to test on, a network, and how many records a batch has on average."""

    data: ex.Examples
    test: ex.Examples
    make_model: Callable[[], nn.Module]
    batch: int


def digits() -> Problem:
    """1,500 to train, 297 to test."""
    raw = load_digits()
    x, y = torch.tensor(raw.data / 16).float(), torch.tensor(raw.target).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:1500], order[1500:]
    return Problem(named(x[train], y[train]), ex.Examples(x[test], y[test]), small_network, 16)


def mnist_pictures() -> Problem:
    """60,000 to train, 10,000 to test."""
    data = mnist()
    x, test = (pictures.reshape(len(pictures), -1).float() / 255 for pictures in (data.train_x, data.test_x))
    return Problem(named(x, data.train_y), ex.Examples(test, data.test_y), mnist_network, 128)


def named(x: Tensor, y: Tensor) -> ex.Examples:
    """With ids."""
    return ex.Examples(x, y, ids=[f"row-{i}" for i in range(len(y))])


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what came back."""
    begun = time.perf_counter()
    found = call()
    return time.perf_counter() - begun, found


def accuracy(model: nn.Module, test: ex.Examples) -> float:
    """Share of right labels."""
    model.eval()
    with torch.no_grad():
        return float((model(test.tensors[0]).argmax(-1) == test.tensors[1]).float().mean())


def same(a: nn.Module, b: nn.Module) -> bool:
    """Bit for bit."""
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def without(data: ex.Examples, name: str) -> ex.Examples:
    """The other records."""
    return data.take([i for i, other in enumerate(data.ids) if other != name])


def side_by_side(trace: Trace, name: str, problem: Problem, options: dict[str, Any]) -> tuple[float, float]:
    """Seconds of a rewind, and of retraining without the record; the two must agree bit for bit."""
    make_model = problem.make_model
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(trace.folder.path, Path(folder) / "copy"))
        work = Trace(copy, key=KEY)
        took, done = timed(lambda: rewind(work, [name], problem.data, make_model=make_model, loss=loss))
        rest = without(problem.data, name)
        again, retrained = timed(lambda: train_traced(make_model, rest, folder=Path(folder) / "fresh", **options))
        if not same(done.model, retrained.model(make_model)):
            raise AssertionError(f"forgetting {name} differs from retraining without it")
    return took, again


def one_model(problem: Problem, folder: Path, *, late: bool, times: int) -> list[dict[str, Any]]:
    """A single traced model: the record used first, the one used last, and random ones."""
    data = problem.data
    steps = len(data) // problem.batch
    joins = dict.fromkeys(data.ids[: len(data) // 20], EPOCHS - 1) if late else {}
    options: dict[str, Any] = {
        "loss": loss, "epochs": EPOCHS, "steps_per_epoch": steps, "recipe": RECIPE, "key": KEY, "first_epochs": joins,
        # Half of the requests name one of the late, where there are any.
        "request_weights": (1, *[0] * (EPOCHS - 2), 1) if late else None,
    }  # fmt: skip
    seconds, trace = timed(lambda: train_traced(problem.make_model, data, folder=folder / "trace", **options))
    asked = list(joins) or data.ids
    schedule = Schedule(KEY, (steps,) * EPOCHS)
    by_use = sorted(asked, key=lambda name: schedule.step_of(name, joins.get(name, 0)))
    picks = torch.randint(len(asked), (times,), generator=torch.Generator().manual_seed(1)).tolist()
    random = [asked[i] for i in picks]
    chosen = (
        {"random of the late": random}
        if late
        else {"first used": by_use[:1], "random": random, "last used": by_use[-1:]}
    )
    rows: list[dict[str, Any]] = []
    for label, names in chosen.items():
        found = [side_by_side(trace, name, problem, options) for name in names]
        rows.append({
            "kind": "one model, 5 % late" if late else "one model",
            "request": label,
            "steps": mean(cost(trace, [name]).steps for name in names),
            "steps_of_all": steps * EPOCHS,
            "expected_fraction": trace.expected_steps() / (steps * EPOCHS) if label == "random" else None,
            "seconds": mean(took for took, _ in found),
            "retraining_seconds": mean(again for _, again in found),
            "training_seconds": seconds,
            "checkpoints": len(trace.checkpoints),
            "storage": trace.storage,
            "accuracy": accuracy(trace.model(problem.make_model), problem.test),
            "rewinds": len(names),
        })  # fmt: skip
    return rows


def sharded(problem: Problem, folder: Path, *, shards: int, times: int) -> list[dict[str, Any]]:
    """Shards of four slices; one random record, and ten at once. Passes as the single model's, on average."""
    data, make_model = problem.data, problem.make_model
    options: dict[str, Any] = {
        "loss": loss, "shards": shards, "slices": SLICES, "steps_per_epoch": max(SLICES, len(data) // shards // problem.batch),
        "epochs_per_slice": EPOCHS // SLICES + 1, "recipe": RECIPE, "key": KEY,
    }  # fmt: skip
    seconds, trained = timed(lambda: train_shards(make_model, data, folder=folder / "shards", **options))
    again, _ = timed(
        lambda: train_shards(make_model, data.take(list(range(1, len(data)))), folder=folder / "f", **options)
    )
    coins = torch.Generator().manual_seed(2)
    rows: list[dict[str, Any]] = []
    for records in (1, 10):
        requests = [
            [data.ids[i] for i in torch.randperm(len(data), generator=coins)[:records].tolist()] for _ in range(200)
        ]
        found: list[float] = []
        for names in requests[:times]:
            copy = folder / "copy"
            shutil.copytree(trained.folder, copy)
            work = Shards(copy, key=KEY)
            took, _ = timed(lambda: work.rewind(names, data, make_model=make_model, loss=loss))  # noqa: B023
            found.append(took)
            shutil.rmtree(copy)
        rows.append({
            "kind": f"{shards} shards, {SLICES} slices",
            "request": f"random, {records}",
            "steps": mean(trained.cost(names).steps for names in requests),
            "steps_of_all": trained.plan.total,
            "expected_fraction": trained.expected_cost(records),
            "seconds": mean(found),
            "retraining_seconds": again,
            "training_seconds": seconds,
            "checkpoints": shards * (SLICES - 1),
            "storage": trained.storage,
            "accuracy": accuracy(trained.model(make_model), problem.test),
            "rewinds": len(found),
        })  # fmt: skip
    return rows


def table_of(name: str, rows: list[dict[str, Any]]) -> Table:
    """For people."""
    table = Table(
        "trace", "request", "steps / all", "expected", "rewind, s", "retraining, s", "checkpoints", "kB", "accuracy",
        title=name,
    )  # fmt: skip
    for row in rows:
        table.add_row(
            row["kind"],
            row["request"],
            f"{row['steps'] / row['steps_of_all']:.3f}",
            "" if row["expected_fraction"] is None else f"{row['expected_fraction']:.3f}",
            f"{row['seconds']:.2f}",
            f"{row['retraining_seconds']:.2f}",
            str(row["checkpoints"]),
            f"{row['storage'] / 1000:.0f}",
            f"{row['accuracy']:.4f}",
        )
    return table


def main() -> None:
    """Measure, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3, help="timed rewinds of random records")
    parser.add_argument("--shards", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--only", choices=["digits", "mnist"], help="one of the two")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, list[dict[str, Any]]] = {}
    for name, load in (("digits", digits), ("mnist", mnist_pictures)):
        if arguments.only not in (None, name):
            continue
        try:
            problem = load()
        except DataError as error:
            Console().print(f"{name} is left out: {error}")
            continue
        rows: list[dict[str, Any]] = []
        for late in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                rows += one_model(problem, Path(folder), late=late, times=arguments.times)
        for shards in arguments.shards:
            with tempfile.TemporaryDirectory() as folder:
                rows += sharded(problem, Path(folder), shards=shards, times=arguments.times)
        results[name] = rows
        Console(width=130).print(table_of(name, rows))
    if arguments.json:
        result = {
            "results": results,
            "epochs": EPOCHS,
            **environment(),
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
