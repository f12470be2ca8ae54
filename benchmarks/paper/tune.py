"""Choose the recovery once, on seeds that no figure uses: the training with the best validation accuracy.

    python benchmarks/paper/tune.py mnist --json benchmarks/paper/results/tuning_mnist.json
    python benchmarks/paper/tune.py features10 --private 50 --seeds 2 --json benchmarks/paper/results/tuning_private_50.json

For gradient clipping at a true (1, 1e-5), and for retraining with the same effort, so that neither is favoured. What is in
the file is not computed again.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from experiment import Experiment
from recipes import Cell, Job, Training
from rich.console import Console
from rich.table import Table
from run import environment, precision, save
from studies import STUDIES, Study

FIRST_SEED = 100
Rows = list[dict[str, Any]]


def candidates() -> list[Training]:
    """The grid."""
    sgd = [
        Training(f"sgd {rate:g}, momentum 0.9", learning_rate=rate, momentum=0.9)
        for rate in (0.02, 0.035, 0.05, 0.1, 0.2)
    ]
    adamw = [Training(f"adamw {rate:g}", optimizer="adamw", learning_rate=rate) for rate in (0.003, 0.006, 0.012)]
    rescaled = [
        Training("sgd 0.05, momentum 0.9, rescaled", learning_rate=0.05, momentum=0.9, rescale=True),
        Training("sgd 0.1, momentum 0.9, rescaled", learning_rate=0.1, momentum=0.9, rescale=True),
        Training("sgd 0.2, momentum 0.9, rescaled", learning_rate=0.2, momentum=0.9, rescale=True),
        *(
            Training(f"adamw {rate:g}, rescaled", optimizer="adamw", learning_rate=rate, rescale=True)
            for rate in (0.003, 0.006, 0.012)
        ),
    ]
    decayed = [
        Training(
            f"sgd {rate:g}, momentum 0.9, decay {decay:g}" + ", rescaled" * rescale,
            learning_rate=rate, momentum=0.9, weight_decay=decay, rescale=rescale,
        )
        for decay in (0.002, 0.005, 0.01)
        for rate in (0.05, 0.1)
        for rescale in (False, True)
    ]  # fmt: skip
    limited = [
        Training(
            f"sgd {rate:g}, momentum 0.9, rescaled, norm {norm:g}",
            learning_rate=rate, momentum=0.9, rescale=True, max_grad_norm=norm,
        )
        for rate, norm in ((0.2, 1.0), (0.4, 1.0), (0.2, 2.0), (0.4, 2.0))
    ]  # fmt: skip
    return [*sgd, *adamw, Training("the paper's: sgd 0.1", learning_rate=0.1), *rescaled, *decayed, *limited]


def private_candidates() -> list[Training]:
    """The rates of private training: its noise is large, and so they must be small."""
    return [
        Training(f"private {rate:g}, momentum 0.9", learning_rate=rate, momentum=0.9, weight_decay=0.0)
        for rate in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    ]


def compared(study: Study) -> list[Cell]:
    """What every candidate is tried with."""
    cells = [job.cell for job in study.jobs() if job.training.name == "tuned"]
    return [next(cell for cell in cells if cell.method == method) for method in ("gradient_clipping", "retrain")]


def private(study: Study, epochs: int) -> list[Cell]:
    """Private training for so many epochs.

    Raises:
        ValueError: the study has none.
    """
    cells = {job.epochs: job.cell for job in study.jobs() if job.training.name == "private"}
    if epochs not in cells:
        there = " and ".join(map(str, cells)) or "none"
        raise ValueError(f"--private {epochs}: of private training {study.name} has {there}")
    return [cells[epochs]]


def tune(
    experiment: Experiment, cells: list[Cell], trainings: Iterable[Training], budgets: Iterable[int], path: Path | None
) -> Rows:
    """Run what is not yet there of the grid, and keep it.

    Raises:
        ValueError: the file holds results of other conditions.
    """
    rows = read(path, experiment)
    for training in trainings:
        for cell in cells:
            if any(same(row, cell, training, budgets) for row in rows):
                continue
            row = compare(experiment, cell, training, budgets)
            means = {budget: round(mean(values), 4) for budget, values in row["validation"].items()}
            Console(stderr=True).print(training.name, cell.method, means)
            rows.append(row)
            if path is not None:
                save(path, {**conditions(experiment), "rows": rows, **environment(experiment.device)})
    return rows


def same(row: dict[str, Any], cell: Cell, training: Training, budgets: Iterable[int]) -> bool:
    """Whether a row is what `compare` would make."""
    measured = [int(budget) for budget in row["validation"]]
    held = (row["training"], row["method"], row["setting"], measured)
    return held == (training.to_dict(), cell.method, cell.setting, list(budgets))


def compare(experiment: Experiment, cell: Cell, training: Training, budgets: Iterable[int]) -> dict[str, Any]:
    """Validation accuracy of the trained, or fresh, start after each budget of epochs."""
    found = {b: experiment.run(Job(cell, training, b, (b,))) for b in budgets}
    accuracy = {str(b): next(iter(f.values()))["validation"][b] for b, f in found.items()}
    return {"training": training.to_dict(), "method": cell.method, "setting": cell.setting, "validation": accuracy}


def conditions(experiment: Experiment) -> dict[str, Any]:
    """All that the rows of one file have in common."""
    return {
        "study": experiment.study.name, "seeds": experiment.seeds, "original_epochs": experiment.original_epochs,
        **precision(experiment),
    }  # fmt: skip


def read(path: Path | None, experiment: Experiment) -> Rows:
    """What was compared before, under the same conditions."""
    if path is None or not path.is_file():
        return []
    held, now = json.loads(path.read_text(encoding="utf-8")), conditions(experiment)
    for name in ("study", "seeds", "original_epochs", "autocast"):
        if held.get(name) != now.get(name):
            raise ValueError(f"{path}: {name} {held.get(name)} there, {now.get(name)} in this call; give another file")
    return held["rows"]


def show(rows: Rows) -> None:
    """Mean accuracies."""
    table = Table("training", "method", "setting", "epochs: validation accuracy")
    for row in rows:
        means = ", ".join(f"{budget}: {mean(values):.4f}" for budget, values in row["validation"].items())
        table.add_row(row["training"]["name"], row["method"], row["setting"], means)
    Console(width=160).print(table)


def main() -> None:
    """Run what is missing of the grid, print it, and keep it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="compile the training step (needs a C++ compiler)")
    parser.add_argument("--bfloat16", action="store_true", help="train in mixed precision; the result says so")
    parser.add_argument("--seeds", type=int, help="how many; the study's block unless given")
    parser.add_argument("--original-epochs", type=int, help="shorten the original training; the result says so")
    parser.add_argument("--private", type=int, metavar="EPOCHS", help="instead: private training for so many epochs")
    parser.add_argument("--budgets", type=int, nargs="+", help="epochs at which to compare; the study's unless given")
    parser.add_argument("--only", nargs="+", help="candidates of these names")
    parser.add_argument("--json", type=Path, help="where results are kept, and continued")
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    size = arguments.seeds or (study.block if arguments.device == "cpu" else 8)
    grid = private_candidates() if arguments.private else candidates()
    if arguments.only:
        names = [training.name for training in grid]
        if unknown := set(arguments.only) - set(names):
            parser.error(f"--only: no candidate {', '.join(sorted(unknown))}; there are: {'; '.join(names)}")
        grid = [training for training in grid if training.name in arguments.only]
    try:
        cells = private(study, arguments.private) if arguments.private else compared(study)
        budgets = (arguments.private,) if arguments.private else arguments.budgets or study.tuning
        experiment = Experiment(
            study, study.data(), range(FIRST_SEED, FIRST_SEED + size), device=arguments.device, compiled=arguments.compile,
            autocast=torch.bfloat16 if arguments.bfloat16 else None, original_epochs=arguments.original_epochs,
        )  # fmt: skip
        show(tune(experiment, cells, grid, budgets, arguments.json))
    except ValueError as problem:
        parser.error(str(problem))


if __name__ == "__main__":
    main()
