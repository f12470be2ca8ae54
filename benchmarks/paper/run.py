"""Run the cells of a figure, each into a JSON file of its own; what is there is not computed again.

    python benchmarks/paper/run.py mnist                    # all budgets
    python benchmarks/paper/run.py mnist --budgets 1 2 6    # the ones of the paper's text

Eight seeds a cell; each varies split, initialisation, training and noise. Every mechanism runs from the trained start and,
with the same seeds, from the null start. Accuracy after the whole budget of epochs, on the paper's metric (validation rows,
augmented) and on plain test pictures.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from data import DataSet, mnist
from recipes import Cell, Training, mlp, mnist_cells, paper_training, tuned_retraining, tuned_training
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

import expunge as ex
from expunge.recovery import rescale_
from expunge.replicates import Pictures, RunBatches, Stack, accuracy_runs, recover_runs, rotations, unlearn_runs

RESULTS = Path(__file__).parent / "results"
CACHE = Path(__file__).parent / ".cache"
SEEDS, BATCH = 8, 128
BUDGETS = (1, 2, 4, 6, 8, 10)
VALIDATION, FORGET = 6_000, 5_400
MEAN, STD = 0.1307, 0.3081


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of one run."""
    return F.cross_entropy(model(batch[0]), batch[1])


class Experiment:
    """Data, splits and original models of one data set, for one block of seeds.

    Args:
        data: the pictures.
        first_seed: figures use 0; tuning uses others.
        device: where to run.
    """

    def __init__(self, data: DataSet, *, first_seed: int, device: str) -> None:
        self.seeds = list(range(first_seed, first_seed + SEEDS))
        tables = rotations(data.train_x.shape[1:])
        self.train = Pictures(data.train_x, data.train_y, tables=tables, mean=MEAN, std=STD).to(device)
        self.test = Pictures(data.test_x, data.test_y, mean=MEAN, std=STD).to(device)
        self.device = device
        orders = [torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(s)) for s in self.seeds]
        order = torch.stack(orders).to(device)
        self.validation, self.forget = order[:, :VALIDATION], order[:, VALIDATION : VALIDATION + FORGET]
        self.retain, self.original = order[:, VALIDATION + FORGET :], order[:, VALIDATION:]

    def originals(self) -> Stack:
        """The trained models: 30 epochs, peak 0.06, on all rows but the validation rows; kept in a cache."""
        path = CACHE / f"mnist-{self.seeds[0]}.pt"
        if path.is_file():
            theta = cast("Tensor", torch.load(path, weights_only=True))
            return Stack(mlp(), theta.to(self.device))
        stack = Stack.fresh(mlp, self.seeds).to(self.device)
        batches = RunBatches(self.train, self.original, batch_size=BATCH, seed=self.seeds[0])
        steps = 30 * batches.per_epoch
        recover_runs(stack, batches, loss=loss, steps=steps, learning_rate=0.06, momentum=0.0)
        path.parent.mkdir(exist_ok=True)
        torch.save(stack.theta.cpu(), path)
        return stack

    def finished(self, stack: Stack, training: Training, epochs: int) -> dict[str, list[float]]:
        """Train the stack for a budget of epochs on the retained rows of its runs, and measure it."""
        repeats = stack.runs // SEEDS
        if training.rescale:
            stack = Stack.of([_rescaled(stack, run) for run in range(stack.runs)]).to(self.device)
        batches = RunBatches(self.train, self.retain.repeat(repeats, 1), batch_size=BATCH, seed=1000 + self.seeds[0])
        steps = epochs * batches.per_epoch
        recover_runs(
            stack, batches, loss=loss, steps=steps, optimizer=training.optimizer, learning_rate=training.learning_rate, momentum=training.momentum,
            weight_decay=training.weight_decay,
        )  # fmt: skip
        return self.measured(stack)

    def measured(self, stack: Stack) -> dict[str, list[float]]:
        """Accuracy of every run: augmented validation rows (the paper's metric), plain test pictures, forgotten rows."""
        coins = torch.Generator(self.device).manual_seed(7)
        repeats = stack.runs // SEEDS
        everything = torch.arange(len(self.test), device=self.device).split(1000)
        test = accuracy_runs(stack, (self.test.batch(index) for index in everything))
        found = {"test": test.tolist()}
        for name, rows, generator in (("validation", self.validation, coins), ("forget", self.forget, None)):
            each: list[float] = []
            for run in range(stack.runs):
                one = Stack(mlp(), stack.theta[run : run + 1])
                chunks = rows.repeat(repeats, 1)[run].split(1000)
                each += accuracy_runs(one, (self.train.batch(c, generator=generator) for c in chunks)).tolist()
            found[name] = each
        return found

    def run(self, cell: Cell, training: Training, epochs: int) -> dict[str, Any]:
        """All seeds of a cell, from the trained and from the null start."""
        if cell.mechanism is None:
            fresh = Stack.fresh(mlp, [5000 + s for s in self.seeds]).to(self.device)
            return {"fresh": self.finished(fresh, training, epochs)}
        trained = self.originals()
        both = Stack(mlp(), torch.cat([trained.theta, torch.zeros_like(trained.theta)]))
        batches = RunBatches(self.train, self.retain.repeat(2, 1), batch_size=BATCH, seed=2000 + self.seeds[0])
        coins = torch.Generator(self.device).manual_seed(3000 + self.seeds[0])
        unlearn_runs(both, batches, cell.mechanism, loss=loss, generator=coins)
        found = self.finished(both, training, epochs)
        halves = {"trained": slice(0, SEEDS), "null": slice(SEEDS, 2 * SEEDS)}
        return {start: {name: values[part] for name, values in found.items()} for start, part in halves.items()}


def _rescaled(stack: Stack, run: int) -> Any:
    model = stack.model(run)
    rescale_(model)
    return model


def describe(cell: Cell) -> dict[str, Any]:
    """The mechanism, its claim, and what it truly proves: [lower, upper] under both relations."""
    if cell.mechanism is None:
        return {}
    true = {str(r): list(ex.interval(cell.mechanism, delta=1e-5, relation=r, tolerance=1e-3)) for r in ex.Relation}
    return {"mechanism": asdict(cast("Any", cell.mechanism)), "claimed": cell.claimed, "true_epsilon": true}


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {
        "versions": {n: version(n).partition("+")[0] for n in ("expunge", "torch", "numpy")}
        | {"python": platform.python_version()},
        "hardware": {"device": name, "machine": platform.machine(), "cpus": os.cpu_count()},
    }


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["mnist"])
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help="epochs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    experiment = Experiment(mnist(), first_seed=0, device=arguments.device)
    jobs = [(cell, paper_training(), epochs) for cell in mnist_cells() for epochs in arguments.budgets]
    for cell in mnist_cells():
        if cell.reading != "published":  # the published reading keeps the paper's training
            training = tuned_retraining() if cell.mechanism is None else tuned_training()
            jobs += [(cell, training, epochs) for epochs in arguments.budgets]
    for number, (cell, training, epochs) in enumerate(jobs, 1):
        name = "-".join(
            filter(None, [cell.method, cell.reading, cell.setting.replace(" ", "-"), training.name, str(epochs)])
        )
        path = RESULTS / arguments.figure / f"{name}.json"
        if path.is_file():
            continue
        Console(stderr=True).print(f"{number}/{len(jobs)} {name}", highlight=False)
        begun = time.perf_counter()
        held_out = experiment.run(cell, training, epochs)
        result = {
            "figure": arguments.figure, "method": cell.method, "reading": cell.reading, "setting": cell.setting,
            "training": asdict(training), "epochs": epochs, "seeds": experiment.seeds, **describe(cell),
            "accuracy": held_out, "seconds": time.perf_counter() - begun, **environment(arguments.device),
        }  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


if __name__ == "__main__":
    main()
